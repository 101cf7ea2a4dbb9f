"""Requests made from the OpenAPI document, fitting it and not, never meet a failure of the gateway's own."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from starlette.testclient import TestClient

from tts import registry
from tts.errors import TransientError
from tts.gateway.app import gateway_app
from tts.gateway.exchange import KINDS, PASSED, APIError, Kind
from tts.gateway.routing import TRANSLATIONS
from tts.gateway.schemas import BODIES, check
from tts.gateway.settings import GatewaySettings
from tts.sampler.transport import Reply, Request
from tts.types import Usage

QUICK = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.generate],
    database=None,
)


async def answer(request: Request) -> Reply:
    """A model server that takes everything."""
    if request.method == "GET":
        return Reply.json({"data": [{"id": "m"}]})
    body = request.json()
    n = body.get("n") if isinstance(body.get("n"), int) else 1
    said: dict[str, Any] = {"message": {"role": "assistant", "content": "Answer: 42"}, "text": "Answer: 42"}
    choices = [{"index": i, **said, "finish_reason": "stop"} for i in range(min(max(n, 1), 8))]
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return Reply.json({"id": "x", "model": "m", "choices": choices, "usage": usage})


SETTINGS = GatewaySettings.parse(
    {
        "models": {"qwen": {"model": "m", "base_url": "mock://m", "transport": answer}},
        "presets": {"vote": {"strategy": "self_consistency:n=3,answer=numeric_answer"}},
        "limits": {"seconds": 2.0},
    }
)
MODELS = ["qwen", "vote", "single@qwen", "best_of_n:n=2,verifier=regex(pattern=4)@qwen", "tool_vote:n=2@qwen"]
schema = schemathesis.openapi.from_asgi("/openapi.json", gateway_app(SETTINGS))
schema.config.request_timeout = 120  # its own ten seconds are few on a busy machine


@pytest.fixture(scope="module")
def gateway() -> Iterator[TestClient]:
    with TestClient(gateway_app(SETTINGS)) as client:
        yield client


OPERATIONS = [operation for methods in schema.values() for operation in methods.values()]
TRIED = [(one, mode) for one in OPERATIONS for mode in GenerationMode if mode is GenerationMode.POSITIVE or one.body]
"""What has no body has nothing that could be wrong."""


@pytest.mark.parametrize(("operation", "mode"), TRIED, ids=[f"{one.label} {mode.value}" for one, mode in TRIED])
def test_no_request_makes_the_gateway_fail(operation: Any, mode: GenerationMode) -> None:
    """By ids of our own: pytest gives all of `schema.parametrize()` one, and of those xdist runs the first alone."""

    @QUICK
    @given(operation.as_strategy(mode))
    def tried(case: schemathesis.Case) -> None:
        assert case.call().status_code < 500 or case.path == "/readyz"

    tried()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
GOOD: dict[Kind, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": "6 * 7?"}]},
    "completions": {"prompt": "6 * 7?"},
    "responses": {"input": "6 * 7?"},
    "messages": {"messages": [{"role": "user", "content": "6 * 7?"}], "max_tokens": 9},
    "messages/count_tokens": {"messages": [{"role": "user", "content": "6 * 7?"}]},
    **{kind: {"input": "6 * 7?"} for kind in PASSED},
}
NESTED = {  # what the fields of these requests may hold
    "messages": [
        "content",
        "role",
        "type",
        "text",
        "source",
        "input",
        "id",
        "name",
        "tool_use_id",
        "thinking",
        "is_error",
    ],
    "responses": ["content", "role", "type", "text", "output", "call_id", "name", "arguments", "id", "summary"],
}
TYPES = [
    *("text", "image", "document", "thinking", "redacted_thinking", "tool_use", "tool_result", "message", "reasoning"),
    *("function_call", "function_call_output", "item_reference", "input_text", "input_image", "refusal", "base64"),
]
TTS = ["strategy", "verifier", "answer", "tests", "schema", "format", "rubric", "models", "budget", "deadline"]


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(data=st.data())
def test_no_value_of_any_field_makes_the_gateway_fail(gateway: TestClient, kind: Kind, data: st.DataObject) -> None:
    fields = sorted(set(BODIES[kind].model_fields) - {"model"}) or ["input", "query", "prompt"]
    odd = data.draw(st.dictionaries(st.sampled_from(fields), anything, min_size=1, max_size=2))
    if data.draw(st.booleans()):
        odd = {"tts": data.draw(st.dictionaries(st.sampled_from(TTS), anything, min_size=1, max_size=2))}
    body = {"model": data.draw(st.sampled_from(MODELS)), **GOOD[kind], **odd}
    content = json.dumps(body).encode()
    response = gateway.post(f"/v1/{kind}", content=content, headers={"content-type": "application/json"})
    assert response.status_code < 500, response.text


@pytest.mark.parametrize(("kind", "field"), [("messages", "messages"), ("responses", "input"), ("messages", "system")])
@QUICK
@given(data=st.data())
def test_no_conversation_makes_the_gateway_fail(
    gateway: TestClient, kind: Kind, field: str, data: st.DataObject
) -> None:
    odd = anything | st.sampled_from(TYPES)
    block = st.fixed_dictionaries({"type": st.sampled_from(TYPES)}) | st.just({})
    more = st.dictionaries(st.sampled_from(NESTED[kind]), odd | st.just("x"), max_size=4)
    blocks = st.lists(st.builds(lambda one, two: {**two, **one}, block, more), max_size=3)
    turn = st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant"]), "content": blocks | st.text(max_size=4)}
    )
    turns = data.draw(blocks if field == "system" else st.lists(turn | st.builds(dict, more), min_size=1, max_size=3))
    body = {"model": data.draw(st.sampled_from(MODELS)), **GOOD[kind], field: turns, "stream": data.draw(st.booleans())}
    response = gateway.post(f"/v1/{kind}", content=json.dumps(body).encode())
    assert response.status_code < 500, response.text


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
TEXT = {"type": "text", "text": "x"}
RICH: dict[Kind, dict[str, Any]] = {
    "responses": {
        "model": "m",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "refusal", "refusal": "x"}]},
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_image", "image_url": "x", "detail": "low"}],
            },
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "x"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "x"}]},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}, "verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["message.output_text.logprobs"],
    },
    "messages": {
        "model": "m",
        "max_tokens": 5,
        "system": [TEXT],
        "messages": [
            {"role": "user", "content": [TEXT, IMAGE, {"type": "image", "source": {"type": "url", "url": "x"}}]},
            {
                "role": "user",
                "content": [
                    {"type": "document", "source": {"type": "text", "data": "x"}, "citations": {"enabled": False}},
                    {"type": "document", "source": {"type": "content", "content": [TEXT]}, "title": "t"},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "x", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [TEXT, IMAGE]}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 5},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {}}},
        "metadata": {"user_id": "x"},
        "stop_sequences": ["x"],
    },
}
"""Requests with all that can be translated."""
ODD = (None, 5, 1.5, True, "x", "", [], {}, [None], [5], [[]], [{}], {"a": 1}, {"type": 5}, {"type": "x"})


def altered(data: Any) -> Iterator[Any]:
    """`data` with one of its parts, however deep, replaced by something odd or left out."""
    yield from ODD
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for place, part in inside:
        for one in altered(part):
            changed = data.copy()
            changed[place] = one
            yield changed
        without = data.copy()
        del without[place]
        yield without


@pytest.mark.parametrize("kind", RICH)
def test_no_part_of_a_request_is_translated_before_it_is_looked_at(kind: Kind):
    as_chat, form = TRANSLATIONS[kind]
    for body in altered(RICH[kind]):
        with suppress(APIError):
            check(kind, json.dumps(body).encode())
            chat, _ = as_chat(body)
            form(body, chat, "run").start()


CALL = {"id": "c", "index": 0, "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOKEN = {"token": "x", "logprob": -0.1, "bytes": [1]}
SAID = {"role": "assistant", "content": "x", "refusal": "r", "reasoning_content": "t", "tool_calls": [CALL]}
ANSWER = {
    "choices": [
        {
            "index": 0,
            "message": SAID,
            "logprobs": {"content": [{**TOKEN, "top_logprobs": [TOKEN]}]},
            "finish_reason": "stop",
            "stop_reason": "x",
        }
    ]
}


@pytest.mark.parametrize("kind", RICH)
def test_no_part_of_an_answer_is_translated_before_it_is_looked_at(kind: Kind):
    body = {"model": "m", "thinking": {"type": "enabled"}, "reasoning": {}, "stop_sequences": ["x"], "input": "x"}
    for answer in filter(lambda one: isinstance(one, dict), altered(ANSWER)):
        form = TRANSLATIONS[kind][1](body, body, "run")
        with suppress(TransientError):
            form.start()
            form.feed(answer)
            form.finish(Usage(), {})


@st.composite
def specs(draw: st.DrawFn, group: Any) -> dict[str, Any]:
    """A plug-in's spec as a table, with an odd parameter."""
    plugins = [registry.load(group, name) for name in registry.names(group)]
    plugin = draw(st.sampled_from([one for one in plugins if one.__module__.startswith("tts.")]))  # not those of tests
    fields = draw(st.dictionaries(st.sampled_from(sorted(plugin.model_fields) or ["none"]), anything, max_size=1))
    return {"name": plugin.name, **fields}


@QUICK
@given(strategy=specs("strategies"), verifier=specs("verifiers"))
def test_no_strategy_or_verifier_makes_the_gateway_fail(
    gateway: TestClient, strategy: dict[str, Any], verifier: dict[str, Any]
) -> None:
    tts = {"strategy": strategy, "verifier": verifier, "answer": "numeric_answer", "budget": {"requests": 20}}
    body = {"model": "qwen", **GOOD["chat/completions"], "max_tokens": 9, "tts": tts}
    response = gateway.post("/v1/chat/completions", content=json.dumps(body).encode())
    assert response.status_code < 500 or response.json()["error"]["code"] in ("deadline", "no_candidate"), response.text
