"""Chat completions: plain models as they are, strategies by name, whole and streamed."""

import asyncio
import json

from aiohttp import web
from openai import OpenAI
from pydantic import BaseModel

from tests.gateway.serving import ASK, NUMBERS, answered_by, serving
from tests.support.double import ModelDouble, solvable

RIGHT = solvable({}, otherwise=1.0)
VERIFIED = "verifier=numeric_answer(reference=42)"


def sse(text: str) -> list[str]:
    """The data of each event."""
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data:")]


async def test_a_plain_model_is_passed_through_byte_for_byte():
    async with ModelDouble(answer=RIGHT) as double, serving(double, endpoint={"model": "test-model"}) as served:
        direct = {"model": "test-model", "messages": ASK, "seed": 3, "min_p": 0.1, "vendor_extra": {"a": [None, 1]}}
        through = await served.chat(**{**direct, "model": "qwen"})
        assert through.status_code == 200
        assert double.requests[-1].body == direct
        assert "authorization" not in double.requests[-1].headers
        answer = through.json()
        assert answer["choices"][0]["stop_reason"] is None  # the server's own fields
        assert len(through.headers["x-tts-run"]) == 32


async def test_bytes_go_on_as_the_client_wrote_them():
    settings = {"models": {"test-model": {"base_url": "", "api_key_env": "NO_KEY"}}}
    async with ModelDouble(answer=RIGHT) as double:
        settings["models"]["test-model"]["base_url"] = double.base_url
        async with serving(double, **settings) as served:
            sent: list[bytes] = []
            sampler = served.gateway.offer.models["test-model"]["policy"]
            send = sampler.connection.http.send

            async def spy(method: str, base: str, path: str, content: bytes, name: str = ""):
                sent.append(content)
                return await send(method, base, path, content, name)

            sampler.connection.http.send = spy
            body = b'{ "messages": [{"role":"user","content":"h\\u00e9"}],\n"model":"test-model" , "top_k": 1.0e1}'
            answer = await served.http.post("/chat/completions", content=body)
            assert answer.status_code == 200
            assert sent == [body]


async def test_a_plain_stream_is_passed_through_token_by_token():
    """The server writes the next piece once the one before is there."""
    arrived = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for token in ("six", "seven", "42"):
            arrived.clear()
            choice = {"index": 0, "delta": {"content": token}, "finish_reason": "stop" if token == "42" else None}
            await response.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
            await arrived.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    async with answered_by(answer) as upstream, serving(upstream) as served:
        ask = {"model": "qwen", "messages": ASK, "stream": True}
        async with served.http.stream("POST", "/chat/completions", json=ask) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            whole = ""
            async for part in response.aiter_text():
                whole += part
                if whole.endswith("\n\n"):
                    arrived.set()
        assert whole.endswith("data: [DONE]\n\n")
        assert [whole.count(token) for token in ("six", "seven", "42")] == [1, 1, 1]


async def test_the_majority_wins_and_the_account_is_exact():
    said = iter(["Answer: 1", "Answer: 2", "Answer: 2", "Answer: 3", "Answer: 2"])
    async with ModelDouble(answer=lambda request, rng: next(said)) as double, serving(double) as served:
        answer = (await served.chat(f"self_consistency:n=5,{NUMBERS}", tts={"details": True})).json()
        assert answer["choices"][0]["message"]["content"] == "Answer: 2"
        account = answer["tts"]
        assert [one["selected"] for one in account["candidates"]].count(True) == 1
        assert account["usage"]["policy"]["completion_tokens"] == double.stats.completion_tokens
        assert answer["usage"]["total_tokens"] == double.stats.prompt_tokens + double.stats.completion_tokens


async def test_n_gives_the_best_n():
    said = iter(["Answer: 1", "Answer: 42", "Answer: 2", "Answer: 42"])
    async with ModelDouble(answer=lambda request, rng: next(said)) as double, serving(double) as served:
        answer = (await served.chat(f"best_of_n:n=4,{VERIFIED}", n=3)).json()
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        assert texts[:2] == ["Answer: 42", "Answer: 42"]
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]


async def test_everything_sampling_reaches_the_server_and_the_protocol_does_not():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        fields = {"temperature": 0.3, "top_k": 7, "guided_regex": "a|b", "logit_bias": {"5": 1}, "user": "me"}
        await served.chat(f"self_consistency:n=2,{NUMBERS}@qwen", **fields)
        body = double.requests[-1].body
        assert {key: body[key] for key in fields} == fields
        assert body["messages"] == ASK
        assert not {"tts", "stream"} & set(body)


async def test_messages_reach_the_server_untouched():
    messages = [
        {"role": "system", "content": "s", "name": "x"},
        {"role": "user", "content": [{"type": "text", "text": "<tts>best_of_n:n=99</tts> optillm_approach: moa"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]},
        {"role": "tool", "tool_call_id": "1", "content": "{}"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
    ]
    async with ModelDouble(answer=lambda request, rng: "x") as double, serving(double) as served:
        for model in ("qwen", "single@qwen"):
            assert (await served.chat(model, messages)).status_code == 200
            assert double.requests[-1].body["messages"] == messages
        assert len(double.requests) == 2  # what a message says chooses nothing


async def test_structured_answers_are_parsed_by_the_client():
    class Number(BaseModel):
        value: int

    async with (
        ModelDouble(answer=lambda request, rng: '{"value": 42}') as double,
        serving(double) as served,
        served.openai() as client,
    ):
        for model in ("qwen", "single@qwen"):
            done = await client.chat.completions.parse(model=model, messages=ASK, response_format=Number)
            assert done.choices[0].message.parsed == Number(value=42)
            assert double.requests[-1].body["response_format"]["type"] == "json_schema"


async def test_logprobs_are_kept_whole_and_only_where_asked_for():
    async with ModelDouble(answer=lambda request, rng: "Answer: 42") as double, serving(double) as served:
        asked = (await served.chat("single@qwen", logprobs=True, top_logprobs=2)).json()["choices"][0]
        assert len(asked["logprobs"]["content"][0]["top_logprobs"]) == 2
        assert (await served.chat("best_of_n:n=2,verifier=mean_logprob@qwen")).json()["choices"][0]["logprobs"] is None
        assert double.requests[-1].body["logprobs"] is True


async def test_a_blocking_client_works_too():
    import asyncio

    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:

        def ask() -> str:
            with OpenAI(base_url=served.base_url, api_key="none", max_retries=0) as client:
                names = [model.id for model in client.models.list()]
                assert {"qwen", "best_of_n@qwen"} <= set(names)
                with client.chat.completions.stream(model="single@qwen", messages=ASK) as stream:
                    return str(stream.get_final_completion().choices[0].message.content)

        assert (await asyncio.to_thread(ask)).endswith("Answer: 42")


async def test_a_stream_starts_at_once_and_tells_how_far_it_is():
    async with (
        ModelDouble(answer=RIGHT, latency=0.1) as double,
        serving(double, limits={"keep_alive": 0.02}) as served,
    ):
        body = {"model": "self_consistency:n=3,answer=numeric_answer@qwen", "messages": ASK, "stream": True}
        body["tts"] = {"progress": True, "details": True}
        async with served.http.stream("POST", "/chat/completions", json=body) as response:
            lines = [line async for line in response.aiter_lines() if line]
            assert lines[:2] == [": at work", ": at work"]
        events = [json.loads(data) for data in sse("\n".join(lines)) if data != "[DONE]"]
        assert any("candidates" in event.get("tts", {}) and not event["choices"] for event in events)
        assert events[-1]["tts"]["ended"] in ("settled", "complete")


async def test_text_completions_with_and_without_a_strategy():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served, served.openai() as client:
        for model in ("qwen", f"self_consistency:n=3,{NUMBERS}@qwen"):
            done = await client.completions.create(model=model, prompt="6 * 7", max_tokens=200)
            assert done.choices[0].text.endswith("Answer: 42")
            assert double.requests[-1].path == "/v1/completions"
        stream = await client.completions.create(model="single@qwen", prompt="6 * 7", max_tokens=200, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream if chunk.choices]).endswith("Answer: 42")
