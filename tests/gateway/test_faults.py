"""Every fault of the double, as a client meets it through the gateway."""

import json
from typing import Any

import openai
import pytest

from tests.gateway.serving import ASK, NUMBERS, Served, serving
from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tests.support.raw_answers import Scripted, response

RIGHT = solvable({}, otherwise=1.0)

REFUSALS = {
    FaultKind.RATE_LIMITED: 429,
    FaultKind.SERVER_ERROR: 500,
    FaultKind.UNAVAILABLE: 503,
    FaultKind.BAD_REQUEST: 400,
    FaultKind.CONTEXT_LENGTH: 400,
    FaultKind.UNAUTHORIZED: 401,
    FaultKind.N_REJECTED: 400,
}
LOST = {
    FaultKind.DROPPED: 502,
    FaultKind.RESET: 502,
    FaultKind.HANG: 504,
    FaultKind.NOT_JSON: 502,
    FaultKind.TRUNCATED: 502,
    FaultKind.DROPPED_MID_BODY: 502,
    FaultKind.STREAM_CUT: 502,
}
DELIVERED = {FaultKind.MISSING_USAGE, FaultKind.FEWER_CHOICES, FaultKind.EMPTY_CHOICES, FaultKind.N_IGNORED}
BEGUN = {FaultKind.TRUNCATED, FaultKind.DROPPED_MID_BODY, FaultKind.STREAM_CUT}
"""Those in which a stream has begun before it is lost."""


def test_no_fault_is_left_out():
    assert set(FaultKind) == {*REFUSALS, *LOST, *DELIVERED}


def patience(kind: FaultKind) -> dict[str, Any]:
    """How long the gateway waits for the server."""
    return {"attempt_timeout": 0.3, "max_attempts": 2} if kind is FaultKind.HANG else {"max_attempts": 2}


def events(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


async def asked_by_the_client(served: Served, model: str, streamed: bool) -> None:
    async with served.openai() as client:
        answer = await client.chat.completions.create(model=model, messages=ASK, stream=streamed)
        if streamed:
            _ = [chunk async for chunk in answer]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_plain_models_refusal_keeps_its_status_and_body(kind: FaultKind, streamed: bool):
    fault = Fault(kind, retry_after=7 if kind is FaultKind.RATE_LIMITED else None)
    async with ModelDouble(faults=fault) as double, serving(double, endpoint=patience(kind)) as served:
        answer = await served.chat(stream=streamed, n=2)
        assert answer.status_code == answer.json()["error"]["code"] == REFUSALS[kind]
        assert answer.headers.get("retry-after") == ("7" if kind is FaultKind.RATE_LIMITED else None)
        assert double.stats.received == 1  # to try again is the client's decision


@pytest.mark.parametrize(
    ("kind", "streamed"),
    [(kind, streamed) for kind in LOST for streamed in (False, True) if streamed or kind is not FaultKind.STREAM_CUT],
)
async def test_a_plain_models_answer_that_is_lost_is_an_error_in_openais_form(kind: FaultKind, streamed: bool):
    async with (
        ModelDouble(answer=RIGHT, faults=Fault(kind)) as double,
        serving(double, endpoint=patience(kind)) as served,
    ):
        answer = await served.chat(stream=streamed)
        begun = streamed and kind in BEGUN
        assert answer.status_code == (200 if begun else LOST[kind])
        error = events(answer.text)[-1]["error"] if begun else answer.json()["error"]
        assert error["type"] == "server_error"
        assert "[DONE]" not in answer.text
        with pytest.raises(openai.APIError):
            await asked_by_the_client(served, "qwen", streamed)
        await served.at_rest()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", sorted(DELIVERED))
async def test_what_a_plain_model_delivers_is_passed_on(kind: FaultKind, streamed: bool):
    async with ModelDouble(answer=RIGHT, faults=Fault(kind)) as double, serving(double) as served:
        answer = await served.chat(stream=streamed, n=2)
        assert answer.status_code == 200
        if not streamed:
            assert ("usage" in answer.json()) == (kind is not FaultKind.MISSING_USAGE)
            assert len(answer.json()["choices"]) == double.stats.choices


@pytest.mark.parametrize("kind", FaultKind)
async def test_a_strategy_uses_the_survivors_and_counts_what_the_server_counted(kind: FaultKind):
    one_choice = {} if kind in DELIVERED | {FaultKind.N_REJECTED} else {"max_n": 1}
    faults = [Fault(kind), None, None, None] * 20
    endpoint = {**patience(kind), **one_choice, "stream": kind is FaultKind.STREAM_CUT}
    async with ModelDouble(answer=RIGHT, faults=faults) as double, serving(double, endpoint=endpoint) as served:
        # asked for two answers it does not end when the vote is decided, with requests on the way
        answer = await served.chat(f"self_consistency:n=8,{NUMBERS}", n=2, tts={"details": True})
        if kind is FaultKind.UNAUTHORIZED:  # the first request decides: with that key none can succeed
            assert answer.status_code == 401
            return
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["choices"][0]["message"]["content"].endswith("Answer: 42")
        assert sum(one["selected"] for one in body["tts"]["candidates"]) == 1
        assert double.stats.faults[kind] >= 1
        estimated = body["tts"]["usage"]["policy"].get("estimated_tokens", 0)
        counted = (double.stats.prompt_tokens, double.stats.completion_tokens)
        lost = (double.stats.wasted_prompt_tokens, double.stats.wasted_completion_tokens)
        told = (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"])
        if kind is FaultKind.MISSING_USAGE:
            assert estimated  # said to be a guess
            return
        assert not estimated
        if kind is FaultKind.STREAM_CUT:  # what came of a stream before it was cut counts too
            assert all(a <= b <= a + c for a, b, c in zip(counted, told, lost, strict=True))
        else:  # one that was given up has cost its prompt, also where the server never came to read it
            needed, wasted = body["tts"]["usage"]["policy"], body["tts"]["wasted"].get("policy", {})
            requests = needed["requests"] + wasted.get("requests", 0)
            assert counted[0] <= told[0] <= counted[0] / double.stats.served * requests
            assert told[1] == counted[1]
        await served.at_rest()


@pytest.mark.parametrize(
    "kind", [kind for kind in {**REFUSALS, **LOST} if kind not in (FaultKind.N_REJECTED, FaultKind.STREAM_CUT)]
)
async def test_a_strategy_that_gets_no_sample_tells_why_with_the_servers_status(kind: FaultKind):
    """With the two that are left out there are samples all the same."""
    async with (
        ModelDouble(answer=RIGHT, faults=Fault(kind)) as double,
        serving(double, endpoint=patience(kind)) as served,
    ):
        model = f"self_consistency:n=3,{NUMBERS}"
        answer = await served.chat(model)
        assert answer.status_code == {**REFUSALS, **LOST}[kind]
        streamed = await served.chat(model, stream=True)
        assert streamed.status_code == answer.status_code  # nothing was said before
        assert streamed.content == answer.content
        with pytest.raises(openai.APIError):
            await asked_by_the_client(served, model, streamed=True)


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/responses", "/messages"])
async def test_an_answer_that_is_none_is_no_fault_of_ours(path: str):
    asked: dict[str, Any] = {"messages": ASK, "max_tokens": 9, "prompt": "[[p]]", "input": "[[p]]"}
    left = {"/completions": {"prompt"}, "/responses": {"input"}}.get(path, {"messages", "max_tokens"})
    given: Any = None
    async with (
        Scripted(lambda body: response(given)) as upstream,
        ModelDouble() as double,
        serving(double, endpoint={"base_url": upstream.base_url, "max_attempts": 1}) as served,
    ):
        for model in ("qwen", "single@qwen"):
            for given in (None, 7, "Hello", [], ["a"], [None], b"[" * 9000 + b"]" * 9000, {"choices": {"a": 1}}):
                body = {"model": model, **{name: asked[name] for name in left}}
                answer = await served.http.post(path, json=body)
                assert answer.status_code in (200, 502), (given, answer.text)  # what is passed on is the client's
