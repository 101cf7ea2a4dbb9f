"""Anthropic's Messages API in front of plain models and strategies, with the official client."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx
import pytest

from tests.gateway.serving import NUMBERS, Served, serving
from tests.gateway.test_streams import chunk, streaming
from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tests.support.scripted import ScriptedServer, choice
from tts.gateway.admission import hashed

RIGHT = solvable({}, otherwise=1.0)
VOTE = f"self_consistency:n=3,{NUMBERS}@qwen"
ASKED: Any = [{"role": "user", "content": "[[p]] What is 6 times 7?"}]
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "How it is there.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
KEY = "tts-" + "k" * 40
both = pytest.mark.parametrize("model", ["qwen", VOTE])


@asynccontextmanager
async def scripted(respond: Any) -> AsyncIterator[tuple[ScriptedServer, Served]]:
    """A gateway in front of a model server that answers as `respond` says."""
    async with (
        ScriptedServer(respond) as upstream,
        ModelDouble() as double,
        serving(double, endpoint={"base_url": upstream.base_url}) as served,
    ):
        yield upstream, served


async def ask(served: Served, model: str = "qwen", **fields: Any) -> httpx.Response:
    body = {"model": model, "max_tokens": 300, "messages": ASKED, **fields}
    return await served.http.post("/messages", json=body)


def events_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@both
async def test_the_client_gets_messages_and_streams_of_them_and_is_told_what_they_cost(model: str):
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served, served.anthropic() as client:
        given: Any = {"model": model, "max_tokens": 300, "messages": ASKED, "system": "Be brief."}
        message = await client.messages.create(
            **given, metadata={"user_id": "me"}, extra_body={"top_k": 7, "temperature": 0.5}
        )
        assert message.content[0].type == "text"
        assert message.content[0].text.endswith("Answer: 42")
        assert (message.role, message.model, message.stop_reason) == ("assistant", model, "end_turn")
        counted = message.usage
        assert counted.input_tokens + (counted.cache_read_input_tokens or 0) == double.stats.prompt_tokens
        assert counted.output_tokens == double.stats.completion_tokens
        sent = double.requests[-1].body
        assert sent["messages"] == [{"role": "system", "content": "Be brief."}, *ASKED]
        assert (sent["user"], sent["top_k"], sent["temperature"], sent["max_tokens"]) == ("me", 7, 0.5, 300)
        before = double.stats.prompt_tokens, double.stats.completion_tokens
        async with client.messages.stream(**given) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_message()
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
        assert streamed.content[0].text.endswith("Answer: 42")
        assert streamed.stop_reason == "end_turn"
        assert streamed.usage.input_tokens == double.stats.prompt_tokens - before[0]
        assert streamed.usage.output_tokens == double.stats.completion_tokens - before[1]


async def test_a_strategy_says_what_it_did():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        answer = await ask(served, VOTE, tts={"details": True}, max_tokens=300)
        assert answer.headers["x-tts-strategy"] == "self_consistency"
        assert len(answer.json()["tts"]["candidates"]) > 1
        streamed = events_in((await ask(served, VOTE, tts={"details": True}, stream=True)).text)
        assert len(next(one for one in streamed if one["type"] == "message_delta")["tts"]["candidates"]) > 1


CALLS = [("weather", '{"city": "Paris"}'), ("weather", '{"city": "Rom\u00e9"}'), ("clock", "")]


def called(arguments: str | None = None) -> dict[str, Any]:
    made = [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": given}}
        for i, (name, given) in enumerate(CALLS)
    ]
    said = {"content": "I look.", "reasoning_content": "Where?", "tool_calls": made}
    return choice(finish_reason="stop", **said)  # as servers say it that were told which tool to call


@both
async def test_thoughts_texts_and_parallel_calls_are_blocks_whole_and_streamed(model: str):
    async with scripted(lambda body: called()) as (upstream, served), served.anthropic() as client:
        thinking: Any = {"type": "enabled", "budget_tokens": 4000}
        given: Any = {"model": model, "max_tokens": 5000, "messages": ASKED, "tools": [WEATHER], "thinking": thinking}
        model = given["model"] = "single@qwen" if model == VOTE else model
        whole = await client.messages.create(**given)
        async with client.messages.stream(**given) as stream:
            streamed = await stream.get_final_message()
        for message in (whole, streamed):
            thought, text, *calls = message.content
            assert (thought.type, thought.thinking, bool(thought.signature)) == ("thinking", "Where?", True)
            assert (text.type, text.text) == ("text", "I look.")
            assert [call.input for call in calls] == [{"city": "Paris"}, {"city": "Rom\u00e9"}, {}]
            assert [call.id for call in calls] == ["call_0", "call_1", "call_2"]
            assert message.stop_reason == "tool_use"
        assert upstream.seen[-1]["reasoning_effort"] == "medium"
        unasked = await client.messages.create(**{**given, "thinking": {"type": "disabled"}})
        assert unasked.content[0].type == "text"


async def test_a_stream_of_calls_that_a_server_mixes_is_told_block_by_block():
    def piece(index: int, arguments: str, **known: Any) -> str:
        function = {"arguments": arguments, **({"name": known.pop("name")} if known else {})}
        return chunk(tool_calls=[{"index": index, "function": function, **known}])

    events = [
        chunk(role="assistant", reasoning="Hm"),
        chunk(reasoning="m."),
        chunk(content="I lo"),
        chunk(content="ok."),
        piece(0, "", id="a", name="weather"),
        piece(0, '{"city": '),
        piece(1, '{"ci', id="b", name="weather"),
        piece(0, '{"a": 1}'),
        piece(1, 'ty": "Rome"}'),
        piece(0, "}"),
        chunk(finish="tool_calls"),
        'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, '
        '"prompt_tokens_details": {"cached_tokens": 5}}}\n\n',
        "data: [DONE]\n\n",
    ]
    async with streaming(events) as upstream, serving(upstream) as served, served.anthropic() as client:
        text = (await ask(served, stream=True, tools=[WEATHER], thinking={"type": "adaptive"})).text
        given: Any = {"model": "qwen", "max_tokens": 9, "messages": ASKED, "tools": [WEATHER]}
        async with client.messages.stream(**given) as stream:
            message = await stream.get_final_message()
    assert [block.input for block in message.content[1:]] == [{"city": {"a": 1}}, {"city": "Rome"}]
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (4, 5)
    told = events_in(text)
    kinds = [one["type"] for one in told]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    opened: list[int] = []
    for one in told:  # one block after the other
        if one["type"] == "content_block_start":
            assert one["index"] == len(opened)
            opened.append(one["index"])
        elif one["type"] in ("content_block_delta", "content_block_stop"):
            assert one["index"] == opened[-1]
    assert len(opened) == 4


async def test_conversations_arrive_as_chat_has_them():
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    document = {
        "type": "document",
        "title": "News",
        "source": {"type": "text", "media_type": "text/plain", "data": "Rain."},
    }
    degrees = [{"type": "text", "text": "22"}, {"type": "text", "text": "degrees"}]
    turns = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Weather?", "cache_control": {"type": "ephemeral"}}, image],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Look.", "signature": "s"},
                {"type": "text", "text": "I "},
                {"type": "text", "text": "look."},
                {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Rom\u00e9"}},
                {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And?"},
                {"type": "tool_result", "tool_use_id": "a", "content": degrees},
                {"type": "tool_result", "tool_use_id": "b", "content": "no city", "is_error": True},
                document,
            ],
        },
    ]
    system = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        for model in ("qwen", "single@qwen"):
            answer = await ask(
                served,
                model,
                messages=turns,
                system=system,
                tools=[WEATHER],
                tool_choice=choice,
                stop_sequences=["###"],
            )
            assert answer.status_code == 200, answer.text
            sent = double.requests[-1].body
            told, asked, turn, one, two, rest = sent["messages"]
            assert told == {"role": "system", "content": "One.\n\nTwo."}
            assert asked["content"][0] == {"type": "text", "text": "Weather?"}
            assert asked["content"][1]["image_url"]["url"] == "data:image/png;base64,AAAA"
            assert (turn["content"], turn["reasoning_content"]) == ("I look.", "Look.")
            assert [json.loads(call["function"]["arguments"]) for call in turn["tool_calls"]] == [
                {"city": "Rom\u00e9"},
                {},
            ]
            assert one == {"role": "tool", "tool_call_id": "a", "content": "22\n\ndegrees"}
            assert two == {"role": "tool", "tool_call_id": "b", "content": "Error: no city"}
            assert rest == {"role": "user", "content": "And?\n\nNews\n\nRain."}
            function = {"name": "weather", "description": "How it is there.", "parameters": WEATHER["input_schema"]}
            assert sent["tools"] == [{"type": "function", "function": function}]
            assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
            assert sent["parallel_tool_calls"] is False
            assert sent["stop"] == ["###"]


async def test_turns_of_one_role_in_a_row_are_one_turn():
    image = {"type": "image", "source": {"type": "url", "url": "http://there/a.png"}}
    call = {"type": "tool_use", "name": "weather", "input": {}}
    turns: Any = [
        {"role": "user", "content": "Weather?"},
        {"role": "user", "content": [{"type": "text", "text": "In Rome."}]},
        {"role": "user", "content": [image]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Lo", "signature": "s"}]},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "ok.", "signature": "s"}, {**call, "id": "a"}],
        },
        {"role": "assistant", "content": [{**call, "id": "b"}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "22"} for id in "ab"]},
        {"role": "user", "content": "And?"},
    ]
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        for model in ("qwen", "single@qwen"):
            assert (await ask(served, model, messages=turns, tools=[WEATHER])).status_code == 200
            asked, turn, *told, last = double.requests[-1].body["messages"]
            assert [part["type"] for part in asked["content"]] == ["text", "image_url"]
            assert asked["content"][0]["text"] == "Weather?\n\nIn Rome."
            assert (turn["role"], turn["reasoning_content"]) == ("assistant", "Look.")
            assert [called["id"] for called in turn["tool_calls"]] == ["a", "b"]
            assert [one["tool_call_id"] for one in told] == ["a", "b"]
            assert last == {"role": "user", "content": "And?"}


@both
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"finish_reason": "stop"}, "end_turn"),
        ({"finish_reason": "stop", "stop_reason": "END"}, "stop_sequence"),
        ({"finish_reason": "stop", "matched_stop": "END"}, "stop_sequence"),
        ({"finish_reason": "stop", "stop_reason": 151643}, "end_turn"),
        ({"finish_reason": "length"}, "max_tokens"),
        ({"finish_reason": "content_filter"}, "refusal"),
    ],
)
async def test_a_message_says_why_it_ends(model: str, said: dict[str, Any], reason: str):
    model = "single@qwen" if model == VOTE else model
    async with scripted(lambda body: {**choice("Hm."), **said}) as (_, served):
        whole = (await ask(served, model, stop_sequences=["END"])).json()
        streamed = events_in((await ask(served, model, stop_sequences=["END"], stream=True)).text)
    delta = next(one["delta"] for one in streamed if one["type"] == "message_delta")
    for told in (whole, delta):
        assert told["stop_reason"] == reason
        assert told["stop_sequence"] == ("END" if reason == "stop_sequence" else None)


HONOURED: dict[str, tuple[Any, dict[str, Any]]] = {
    "service_tier": ("standard_only", {"service_tier": "default"}),
    "output_config": ({"effort": "max"}, {"reasoning_effort": "high"}),
    "thinking": ({"type": "enabled", "budget_tokens": 1024}, {"reasoning_effort": "low"}),
    "min_p": (0.1, {"min_p": 0.1}),
    "seed": (3, {"seed": 3}),
    "chat_template_kwargs": ({"a": 1}, {"chat_template_kwargs": {"a": 1}}),
    "cache_control": ({"type": "ephemeral"}, {}),
    "tool_choice": ({"type": "auto"}, {}),
}
TOLD: dict[str, Any] = {
    "context_management": {"edits": []},
    "speed": "fast",
    "diagnostics": {"previous_message_id": None},
    "tools": [{**WEATHER, "input_examples": [{}]}],
}
REFUSED: dict[str, Any] = {
    "banana": 1,
    "stop": ["x"],
    "max_completion_tokens": 3,
    "n": 2,
    "container": "c",
    "mcp_servers": [{"url": "x"}],
    "inference_geo": "eu",
    "metadata": {"name": "x"},
    "thinking": {"mode": "x"},
    "output_config": {"format": {"type": "xml"}},
    "tools": [{"type": "web_search_20250305", "name": "web_search"}],
    "tool_choice": {"type": "any"},
    "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}],
    "system": [{"type": "image"}],
    "max_tokens": 0,
}


@both
async def test_every_field_is_honoured_told_of_or_refused_by_name(model: str):
    model = "single@qwen" if model == VOTE else model
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        for name, (value, sent) in HONOURED.items():
            answer = await ask(served, model, **{name: value})
            assert answer.status_code == 200, answer.text
            assert "x-tts-ignored" not in answer.headers
            body = double.requests[-1].body
            assert {key: body.get(key) for key in sent} == sent
        for name, value in TOLD.items():
            answer = await ask(served, model, **{name: value})
            assert answer.status_code == 200, answer.text
            assert name in answer.headers["x-tts-ignored"]
        received = double.stats.received
        for name, value in REFUSED.items():
            answer = await ask(served, model, **{name: value})
            assert answer.status_code == 400, name
            error = answer.json()
            assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
            assert name in error["error"]["message"], error
        assert double.stats.received == received


async def test_structured_answers_go_by_the_schema():
    schema = {"type": "object", "properties": {"value": {"type": "integer"}}}
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        answer = await ask(served, output_config={"format": {"type": "json_schema", "schema": schema}})
        assert answer.status_code == 200
        assert double.requests[-1].body["response_format"]["json_schema"]["schema"] == schema


async def test_an_answer_that_has_begun_goes_on_with_a_plain_model_and_is_refused_to_a_strategy():
    begun = [*ASKED, {"role": "assistant", "content": "It is"}]
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        assert (await ask(served, messages=begun)).status_code == 200
        sent = double.requests[-1].body
        assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)
        assert (await ask(served, VOTE, messages=begun)).status_code == 400


async def test_a_length_goes_under_the_name_that_the_server_takes():
    params = {"max_completion_tokens": 500}
    async with ModelDouble(answer=RIGHT) as double, serving(double, endpoint={"params": params}) as served:
        for model in ("qwen", "single@qwen"):
            assert (await ask(served, model, max_tokens=50)).status_code == 200
            sent = double.requests[-1].body
            lengths = {name: sent[name] for name in ("max_tokens", "max_completion_tokens") if name in sent}
            assert lengths == ({"max_completion_tokens": 50} if model == "qwen" else {"max_tokens": 50})


# -- tokens ------------------------------------------------------------------------------------------------------------


@both
async def test_tokens_are_counted_by_the_server_or_estimated_which_is_said(model: str):
    given: Any = {"model": model, "messages": ASKED, "system": "Be brief."}
    async with ModelDouble(answer=RIGHT, owned_by="vllm") as double, serving(double) as served:
        async with served.anthropic() as client:
            counted = await client.messages.count_tokens(**given)
            message = await client.messages.create(**{**given, "model": "qwen"}, max_tokens=9)
        assert counted.input_tokens == message.usage.input_tokens
    async with ModelDouble(answer=RIGHT, owned_by="someone") as double, serving(double) as served:
        answer = await served.http.post("/messages/count_tokens", json={**given, "tools": [WEATHER]})
        assert answer.json()["input_tokens"] > 10
        assert answer.headers["x-tts-estimated"] == "input_tokens"


# -- keys and errors ---------------------------------------------------------------------------------------------------


async def test_keys_come_either_way_and_others_are_refused_in_anthropics_form():
    keys = {"one": {"sha256": hashed(KEY), "models": ["qwen"]}, "two": {"sha256": hashed(KEY + "2"), "running": 1}}
    async with ModelDouble(answer=RIGHT) as double, serving(double, keys=keys) as served:
        given: Any = {"model": "qwen", "max_tokens": 9, "messages": ASKED}
        for ways in ({"api_key": KEY}, {"api_key": None, "auth_token": KEY}):
            async with served.anthropic(**ways) as client:
                assert (await client.messages.create(**given)).content
        async with served.anthropic(api_key="wrong") as client:
            with pytest.raises(anthropic.AuthenticationError) as caught:
                await client.messages.create(**given)
        assert "authentication_error" in str(caught.value.body)
        async with served.anthropic(api_key=KEY) as client:
            with pytest.raises(anthropic.NotFoundError, match="nobody"):
                await client.messages.create(**{**given, "model": "nobody"})
        served.http.headers.update({"x-api-key": KEY, "authorization": "Bearer old"})
        assert (await served.chat()).status_code == 200  # for the other APIs too


ERRORS = {
    FaultKind.RATE_LIMITED: (429, "rate_limit_error"),
    FaultKind.SERVER_ERROR: (500, "api_error"),
    FaultKind.UNAVAILABLE: (529, "overloaded_error"),
    FaultKind.BAD_REQUEST: (400, "invalid_request_error"),
    FaultKind.CONTEXT_LENGTH: (400, "invalid_request_error"),
    FaultKind.UNAUTHORIZED: (401, "authentication_error"),
    FaultKind.DROPPED: (502, "api_error"),
    FaultKind.NOT_JSON: (502, "api_error"),
    FaultKind.HANG: (504, "timeout_error"),
}


@both
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ERRORS)
async def test_faults_of_a_model_server_are_errors_of_this_api(kind: FaultKind, streamed: bool, model: str):
    endpoint = {"max_attempts": 1, "attempt_timeout": 0.3 if kind is FaultKind.HANG else 30}
    async with (
        ModelDouble(faults=Fault(kind)) as double,
        serving(double, endpoint=endpoint) as served,
        served.anthropic() as client,
    ):
        given: Any = {"model": model, "max_tokens": 9, "messages": ASKED, "stream": streamed}
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(**given)
        status, name = ERRORS[kind]
        error: Any = caught.value.body
        assert (caught.value.status_code, error["type"], error["error"]["type"]) == (status, "error", name)
        assert error["error"]["message"]


@both
async def test_what_goes_wrong_inside_a_stream_is_an_event_that_the_client_raises(model: str):
    fault, endpoint = Fault(FaultKind.HANG), {"attempt_timeout": 2.0, "max_attempts": 1}
    events: list[str | float] = [chunk(role="assistant", content="4"), 30.0]
    async with (
        ModelDouble(faults=fault) as double,
        streaming(events) as slow,
        serving(slow if model == "qwen" else double, endpoint=endpoint, limits={"keep_alive": 0.05}) as served,
        served.anthropic() as client,
    ):
        given: Any = {"model": model, "max_tokens": 9, "messages": ASKED}
        with pytest.raises(anthropic.APIStatusError, match="in time"):
            async with client.messages.stream(**given) as stream:
                _ = [event async for event in stream]
        told = events_in((await ask(served, model, stream=True)).text)
        assert told[0]["type"] == "message_start"
        assert told[-1]["error"]["type"] == "timeout_error"
        if model != "qwen":
            assert "ping" in [one["type"] for one in told]


async def test_too_large_too_many_and_overloaded():
    limits = {"body_bytes": 4000, "running": 1, "queue": 0}
    keys = {"one": {"sha256": hashed(KEY), "requests_per_minute": 3}}
    async with (
        ModelDouble(answer=RIGHT, latency=0.5) as double,
        serving(double, limits=limits, keys=keys) as served,
        served.anthropic(api_key=KEY) as client,
    ):
        given: Any = {"model": "qwen", "max_tokens": 9, "messages": ASKED}
        with pytest.raises(anthropic.RequestTooLargeError):
            await client.messages.create(**{**given, "system": "x" * 5000})
        one = client.messages.create(**given)
        done = await asyncio.gather(one, client.messages.create(**given), return_exceptions=True)
        assert [getattr(each, "status_code", 200) for each in done] in ([200, 529], [529, 200])
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.create(**given)


async def test_headers_and_versions_of_the_api_are_taken():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        served.http.headers.update({"anthropic-version": "2099-01-01", "anthropic-beta": "a,b"})
        answer = await ask(served)
        assert answer.status_code == 200
        assert answer.headers["request-id"].startswith("req_")
        assert (await served.http.post("/messages?beta=true", json={"model": "qwen"})).status_code == 400
