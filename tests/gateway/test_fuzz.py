"""Requests made from the OpenAPI document, fitting it and not, never meet a failure of the gateway's own."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from starlette.testclient import TestClient

from tts import registry
from tts.gateway.app import gateway_app
from tts.gateway.exchange import KINDS, PASSED, Kind
from tts.gateway.schemas import BODIES
from tts.gateway.settings import GatewaySettings

QUICK = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.generate],
    database=None,
)


def answer(request: httpx.Request) -> httpx.Response:
    """A model server that takes everything."""
    if request.method == "GET":
        return httpx.Response(200, json={"data": [{"id": "m"}]})
    body = json.loads(request.content)
    n = body.get("n") if isinstance(body.get("n"), int) else 1
    said: dict[str, Any] = {"message": {"role": "assistant", "content": "Answer: 42"}, "text": "Answer: 42"}
    choices = [{"index": i, **said, "finish_reason": "stop"} for i in range(min(max(n, 1), 8))]
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return httpx.Response(200, json={"id": "x", "model": "m", "choices": choices, "usage": usage})


SETTINGS = GatewaySettings.parse(
    {
        "models": {"qwen": {"model": "m", "base_url": "mock://m", "transport": httpx.MockTransport(answer)}},
        "presets": {"vote": {"strategy": "self_consistency:n=3,answer=numeric_answer"}},
        "limits": {"seconds": 2.0},
    }
)
MODELS = ["qwen", "vote", "single@qwen", "best_of_n:n=2,verifier=regex(pattern=4)@qwen", "tool_vote:n=2@qwen"]
schema = schemathesis.openapi.from_asgi("/openapi.json", gateway_app(SETTINGS))
schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])


@pytest.fixture(scope="module")
def gateway() -> Iterator[TestClient]:
    with TestClient(gateway_app(SETTINGS)) as client:
        yield client


@schema.parametrize()
@QUICK
def test_no_request_makes_the_gateway_fail(case: schemathesis.Case) -> None:
    assert case.call().status_code < 500 or case.path == "/readyz"


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


@st.composite
def specs(draw: st.DrawFn, group: Any) -> dict[str, Any]:
    """A plug-in's spec as a table, with an odd parameter."""
    plugin = registry.load(group, draw(st.sampled_from(registry.names(group))))
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
