"""vLLM's protocol: bodies as the sampler reads them, errors as vLLM gives them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from tests.lab.conftest import held, until
from tts import Endpoint, Sampler
from tts.errors import ConfigError
from tts.lab.engine.engine import Engine
from tts.lab.engine.models import model_place
from tts.lab.engine.routes import Service
from tts.lab.engine.transport import respond
from tts.sampler.probe import probe
from tts.sampler.scoring import score
from tts.sampler.transport import Transport
from tts.sampler.wire import Wire

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "the bell and the hand"}]


def in_process(service: Service) -> Transport:
    return lambda request: respond(service, request, request.url.path)


def client_of(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=Wire(in_process(service)), base_url="http://model")


@pytest_asyncio.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(service) as client:
        yield client


@pytest_asyncio.fixture
async def reward(reward_folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(Service(Engine(reward_folder))) as client:
        yield client


def endpoint(service: Service, **settings: Any) -> Endpoint:
    return Endpoint(model="small", base_url="http://model/v1", transport=in_process(service), **settings)


BAD: dict[str, tuple[str, dict[str, Any], int, str, str | None]] = {
    # path, body, and what vLLM answers: status, type, param
    "unknown model": (CHAT, {"model": "other", "messages": HELLO}, 404, "NotFoundError", "model"),
    "prompt too long": (TEXT, {"prompt": [9] * 300}, 400, "BadRequestError", "input_tokens"),
    "chat too long": (
        CHAT,
        {"messages": [{"role": "user", "content": "ab " * 200}]},
        400,
        "BadRequestError",
        "input_tokens",
    ),
    "no room to answer": (TEXT, {"prompt": [9] * 256}, 400, "BadRequestError", "max_tokens"),
    "more than the context": (CHAT, {"messages": HELLO, "max_tokens": 5000}, 400, "BadRequestError", "max_tokens"),
    "no tokens": (CHAT, {"messages": HELLO, "max_tokens": 0}, 400, "BadRequestError", "max_tokens"),
    "n is a word": (CHAT, {"messages": HELLO, "n": "two"}, 400, "Bad Request", "body.n"),
    "n is none": (CHAT, {"messages": HELLO, "n": 0}, 400, "BadRequestError", None),
    "temperature is a word": (CHAT, {"messages": HELLO, "temperature": "hot"}, 400, "Bad Request", "body.temperature"),
    "temperature below zero": (CHAT, {"messages": HELLO, "temperature": -1}, 400, "BadRequestError", "temperature"),
    "greedy and several": (TEXT, {"prompt": "x", "temperature": 0, "n": 2}, 400, "BadRequestError", None),
    "top_p of two": (CHAT, {"messages": HELLO, "top_p": 2}, 400, "BadRequestError", "top_p"),
    "top_k": (CHAT, {"messages": HELLO, "top_k": -5}, 400, "BadRequestError", None),
    "min_p": (CHAT, {"messages": HELLO, "min_p": 2}, 400, "BadRequestError", None),
    "no messages": (CHAT, {}, 400, "Bad Request", "body.messages"),
    "messages are a text": (CHAT, {"messages": "hi"}, 400, "Bad Request", "body.messages"),
    "no prompt": (TEXT, {}, 400, "BadRequestError", "prompt"),
    "prompt is a number": (TEXT, {"prompt": 5}, 400, "Bad Request", "body.prompt"),
    "a token that is not": (TEXT, {"prompt": [5, 100_000]}, 400, "BadRequestError", None),
    "many logprobs": (TEXT, {"prompt": "x", "logprobs": 100}, 400, "BadRequestError", "logprobs"),
    "tops without logprobs": (CHAT, {"messages": HELLO, "top_logprobs": 2}, 400, "BadRequestError", "top_logprobs"),
    "prompt_logprobs": (
        TEXT,
        {"prompt": "x", "prompt_logprobs": 1, "stream": True},
        400,
        "BadRequestError",
        "prompt_logprobs",
    ),
    "stream_options": (TEXT, {"prompt": "x", "stream_options": {}}, 400, "BadRequestError", "stream_options"),
    "empty stop": (TEXT, {"prompt": "x", "stop": ""}, 400, "BadRequestError", None),
    "stop is a number": (TEXT, {"prompt": "x", "stop": 5}, 400, "Bad Request", "body.stop"),
    "min above max": (TEXT, {"prompt": "x", "min_tokens": 5, "max_tokens": 1}, 400, "BadRequestError", None),
    "no role": (CHAT, {"messages": [{"content": "x"}]}, 400, "Bad Request", "body.messages.0.role"),
}


@pytest.mark.parametrize(("path", "body", "status", "kind", "param"), BAD.values(), ids=BAD)
async def test_bad_requests_are_answered_as_by_vllm(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int, kind: str, param: str | None
):
    answer = await client.post(path, json={"model": "small", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, status)
    assert (error["type"], error["param"]) == (kind, param)
    assert error["message"]


async def test_routes_that_are_not_there_are_answered_as_by_vllm(client: httpx.AsyncClient):
    for path in ("/v1/nowhere", "/pooling"):
        answer = await client.post(path, json={"input": "x"})
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    answer = await client.get(CHAT)
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})


async def test_what_is_no_json_and_what_would_change_the_answer_unseen_is_refused(client: httpx.AsyncClient):
    assert (await client.post(CHAT, content=b"{")).status_code == 400
    for field in ({"presence_penalty": 1}, {"logit_bias": {"5": 1}}, {"response_format": {"type": "json_object"}}):
        answer = await client.post(CHAT, json={"messages": HELLO, **field})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] in field
    harmless = {"presence_penalty": 0, "repetition_penalty": 1.0, "response_format": {"type": "text"}, "user": "me"}
    assert (await client.post(CHAT, json={"messages": HELLO, "max_tokens": 1, **harmless})).status_code == 200


async def test_the_probe_finds_what_the_engine_can_do(service: Service):
    async with Sampler(endpoint(service)) as sampler:
        found = await probe(sampler)
    assert found.server.startswith("tts ")
    assert found.models == ("small",)
    assert {name for name, finding in found.as_dict().items() if not finding} == {
        "tools",
        "structured_output",
        "own_distribution",
    }


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "text"])
async def test_a_stream_adds_up_to_the_whole_answer(service: Service, chat: bool):
    prompt: Any = HELLO if chat else "the bell"
    params = {"seed": 4, "max_tokens": 30, "logprobs": True, "top_logprobs": 1, "return_token_ids": True}
    drawn = []
    for stream in (False, True):
        async with Sampler(endpoint(service, stream=stream, max_n=3)) as sampler:
            samples = [sample async for sample in sampler.sample(prompt, 6, **params)]
        drawn.append({s.index: (s.text, s.finish_reason, s.token_ids, s.logprobs) for s in samples})
        assert {s.charges[1].usage.completion_tokens == len(s.token_ids or ()) for s in samples} == {True}
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0].values())) == 6


async def test_scores_of_given_text_are_the_log_probabilities_of_its_sampling(service: Service):
    async with Sampler(endpoint(service)) as sampler:
        params = {"max_tokens": 20, "logprobs": True, "return_token_ids": True}
        (sample,) = [sample async for sample in sampler.sample(HELLO, **params)]
        assert sample.token_ids is not None
        scores = await score(sampler, HELLO, sample.token_ids)
    assert scores.logprobs == pytest.approx(sample.logprobs, abs=1e-4)


async def test_bodies_have_the_fields_of_both_kinds_of_answers(client: httpx.AsyncClient):
    asked = {"max_tokens": 3, "prompt_logprobs": 1, "return_token_ids": True, "seed": 0, "ignore_eos": True}
    chat = (await client.post(CHAT, json={"messages": HELLO, "logprobs": True, "top_logprobs": 2, **asked})).json()
    text = (await client.post(TEXT, json={"prompt": chat["prompt_token_ids"], "logprobs": 2, **asked})).json()
    (said,), (written,) = chat["choices"], text["choices"]
    assert said["token_ids"] == written["token_ids"]
    assert said["message"] == {"role": "assistant", "content": written["text"]}
    assert chat["prompt_logprobs"] == written["prompt_logprobs"]
    assert len(written["prompt_logprobs"]) == len(chat["prompt_token_ids"]) == text["usage"]["prompt_tokens"]
    assert written["prompt_logprobs"][0] is None
    assert [e["logprob"] for e in said["logprobs"]["content"]] == written["logprobs"]["token_logprobs"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in said["logprobs"]["content"])
    assert text["usage"]["completion_tokens"] == 3
    assert said["finish_reason"] == "length"


async def test_an_answer_continued_at_any_line_goes_on_as_before():
    service, body = Service(Engine(model_place("lab-target"))), {"temperature": 0, "max_tokens": 200}
    question = {"role": "user", "content": "Start with 37, add 58, multiply by 4, subtract 129."}
    async with client_of(service) as client:

        async def said(messages: list[Any], **flags: bool) -> str:
            answer = await client.post(CHAT, json={"messages": messages, **body, **flags})
            return answer.json()["choices"][0]["message"]["content"]

        whole = await said([question])
        lines = whole.splitlines(keepends=True)
        assert len(lines) == 4
        for i in range(len(lines)):
            begun = [question, {"role": "assistant", "content": "".join(lines[:i])}]
            rest = await said(begun, add_generation_prompt=False, continue_final_message=True)
            assert rest == "".join(lines[i:])


async def test_tokens_go_forth_and_back(client: httpx.AsyncClient):
    made = (await client.post("/tokenize", json={"model": "small", "prompt": "the bell"})).json()
    assert made["count"] == len(made["tokens"])
    back = await client.post("/detokenize", json={"model": "small", "tokens": made["tokens"]})
    assert back.json() == {"prompt": "the bell"}
    chat = (await client.post("/tokenize", json={"messages": HELLO})).json()["tokens"]
    assert chat[0] == 3  # <|user|>


async def test_counters_grow_by_what_was_served(client: httpx.AsyncClient):
    usage = (await client.post(TEXT, json={"prompt": "the bell", "n": 3, "max_tokens": 7})).json()["usage"]
    metrics = dict(line.split() for line in (await client.get("/metrics")).text.splitlines())
    assert float(metrics["vllm:prompt_tokens_total"]) == 3 * usage["prompt_tokens"]  # as vLLM counts
    assert float(metrics["vllm:generation_tokens_total"]) == usage["completion_tokens"]
    assert (await client.get("/health")).status_code == 200


async def test_rewards_are_given_for_a_text_for_each_token_and_for_pairs(reward: httpx.AsyncClient):
    async def ask(path: str, **body: Any) -> Any:
        answer = await reward.post(path, json={"model": "reward", **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    raw = (await ask("/pooling", input="the bell", use_activation=False))["data"][0]["data"][0]
    one = await ask("/pooling", input=["the bell", "and"])
    assert one["data"][0]["data"] == pytest.approx([1 / (1 + np.exp(-raw))])
    each = (await ask("/pooling", input="the bell", task="token_classify"))["data"][0]["data"]
    assert each[-1] == one["data"][0]["data"]
    assert one["usage"]["prompt_tokens"] > len(each) > 1
    classes = await ask("/classify", input=["the bell", "and"])
    assert [entry["probs"] for entry in classes["data"]] == [entry["data"] for entry in one["data"]]
    pairs = await ask("/score", text_1="the", text_2=[" bell", " a"])
    assert pairs["data"][0]["score"] == pytest.approx(one["data"][0]["data"][0])
    turns = [*HELLO, {"role": "assistant", "content": "the bell"}]
    assert (await ask("/pooling", messages=turns))["data"][0]["data"]
    assert (await reward.post(CHAT, json={"messages": HELLO})).status_code == 404
    long = await reward.post("/pooling", json={"input": [9] * 300})
    assert long.json()["error"]["param"] == "input_tokens"
    assert (await reward.post("/pooling", json={"input": "x", "task": "embed"})).json()["error"]["param"] == "task"


async def test_parts_of_a_stream_come_before_the_answer_is_complete(service: Service):
    async with client_of(service) as client:
        body = {"messages": HELLO, "stream": True, "max_tokens": 50, "ignore_eos": True}
        with held(service.engine, 5) as gate:
            async with client.stream("POST", CHAT, json=body) as response:
                lines = response.aiter_lines()
                first = [json.loads((await anext(lines)).removeprefix("data: ") or "{}") for _ in range(5)]
                assert first[0]["choices"][0]["delta"]["role"] == "assistant"
                assert not gate.open.is_set()
                gate.open.set()
                assert [line async for line in lines][-2:] == ["data: [DONE]", ""]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_client_that_leaves_frees_the_rows(service: Service, stream: bool):
    async with Sampler(endpoint(service, stream=stream, max_n=8)) as sampler:
        drawn = sampler.sample(HELLO, 8, max_tokens=200, ignore_eos=True)
        waiting = asyncio.ensure_future(anext(drawn))
        await until(lambda: service.engine.running)
        waiting.cancel()
        with held(service.engine, 3):
            await asyncio.gather(waiting, return_exceptions=True)
            await drawn.aclose()
        await until(lambda: service.engine.running == service.engine.waiting == 0)
    assert service.counters["request_success"] < 8


async def test_embedded_urls_name_a_bundled_model_or_a_folder(folder: Path):
    for url in (f"embedded://{folder}", f"embedded://{folder}/v1"):
        async with Sampler(Endpoint(model="small", base_url=url)) as sampler:
            samples = [sample async for sample in sampler.sample(HELLO, 2, max_tokens=4)]
            assert len(samples) == 2
            assert sampler.vllm
            assert sampler.context_length == 256
    with pytest.raises(ConfigError, match="no embedded model 'nothing'"):
        Endpoint(model="x", base_url="embedded://nothing")


async def test_a_folder_that_is_no_model_says_so_when_it_is_first_used(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    async with Sampler(Endpoint(model="x", base_url=f"embedded://{tmp_path}")) as sampler:
        with pytest.raises(ConfigError, match="embedded engine"):
            _ = [sample async for sample in sampler.sample(HELLO)]
