"""Where the fields of a request go: to the call that writes the answer, to every call, or to no other client's."""

import json
from typing import Any

import pytest
from aiohttp import web
from anthropic.types.beta.message_create_params import MessageCreateParamsBase
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.completion_create_params import CompletionCreateParamsBase as TextCreateParamsBase
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from tests.gateway.serving import ASK, serving
from tests.gateway.test_openai import RIGHT, STRATEGIES
from tests.support.double import ModelDouble
from tests.support.scripted import ScriptedServer, choice
from tts import registry
from tts.gateway.exchange import APIError
from tts.gateway.schemas import check, options_of

SCHEMA = {"type": "json_schema", "json_schema": {"name": "city", "schema": {"type": "object"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
FORMS: dict[str, dict[str, Any]] = {
    "tools": {"tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": False},
    "format": {"response_format": SCHEMA},
    "stop": {"stop": ["###"], "logit_bias": {"5": 1}},
    "length": {"max_tokens": 333},
    "new length": {"max_completion_tokens": 333},
    "both lengths": {"max_tokens": 400, "max_completion_tokens": 333},
    "unknown": {
        "guided_regex": "a|b",
        "pictures": "p",
        "role": "x",
        "ledger": 1,
        "stop_when": 2,
        "self": 3,
        "images": 4,
    },
}
UNKNOWN = (
    "prompt_cache_key",
    "on_sample",
    "emit",
    "inner",
    "params",
    "args",
    "kwargs",
    "cls",
    "session",
    "body",
    "path",
)

CLIENTS = {"tools", "tool_choice", "parallel_tool_calls", "stop", "logit_bias", *FORMS["unknown"]}
REFUSED = "verifier=numeric_answer(reference=41)"  # so that what is said between attempts is needed
SPECS = {
    **STRATEGIES,
    "self_refine": f"self_refine:rounds=2,feedback=self,{REFUSED}",
    "sequential_feedback": f"sequential_feedback:rounds=2,{REFUSED}",
}
ANSWERS = {name for name, spec in STRATEGIES.items() if not registry.make("strategies", spec).in_pieces}


@pytest.mark.parametrize("fields", FORMS)
@pytest.mark.parametrize("name", sorted(ANSWERS))
async def test_only_the_call_that_writes_the_answer_carries_its_form(name: str, fields: str):
    """Whatever the strategy, all calls with the client's fields are its answers, and all its answers have them."""
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        plain = await served.chat(f"{SPECS[name]}@qwen")
        assert plain.status_code == 200, plain.text
        calls = [request.body for request in double.requests]
        double.requests.clear()
        body = {"model": f"{SPECS[name]}@qwen", "messages": ASK, **FORMS[fields], "temperature": 0.5}
        answer = await served.http.post("/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        bodies = [request.body for request in double.requests]
        assert len(bodies) == len(calls)
        given = dict(FORMS[fields])
        if "length" in fields:
            given = {"max_completion_tokens" if "max_completion_tokens" in given else "max_tokens": 333}
        carrying = [body for body in bodies if all(body.get(key) == value for key, value in given.items())]
        inner = [body for body in bodies if body not in carrying]
        assert carrying, "nobody carries them"
        final = answer.json()["choices"][0]["message"]["content"]
        assert final.endswith("Answer: 42")
        for body in inner:
            assert not CLIENTS & body.keys()
            assert body.get("response_format") != SCHEMA
        assert all(not {"max_tokens", "max_completion_tokens"} <= body.keys() for body in bodies)
        if name in (
            "plan_search",
            "idea_search",
            "self_refine",
            "sequential_feedback",
            "tournament",
            "prompt_redesign",
        ):
            assert inner
        for body in carrying:  # what is asked for is the answer, in the words of the problem
            assert "What is 6 times 7?" in json.dumps(body)


@pytest.mark.parametrize("name", ["best_of_n:n=2,verifier=regex(pattern=4)", "budget_forcing:thinking_tokens=32", None])
async def test_fields_unknown_here_reach_the_server_as_they_are(name: str | None):
    fields: dict[str, Any] = {key: {"any": ["thing"]} for key in (*FORMS["unknown"], *UNKNOWN)}
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        body = {"model": "qwen" if name is None else f"{name}@qwen", "messages": ASK, **fields}
        answer = await served.http.post("/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert {key: double.requests[-1].body.get(key) for key in fields} == fields


async def test_a_client_wins_over_the_endpoint_for_fields_of_any_kind():
    params = {"temperature": 1.0, "top_k": 3, "max_completion_tokens": 500, "mirostat": 2}
    fields = {"temperature": 0.1, "top_k": 9, "max_tokens": 50, "mirostat": 0}
    async with ModelDouble(answer=RIGHT) as double, serving(double, endpoint={"params": params}) as served:
        for model in ("qwen", "single@qwen"):
            assert (await served.chat(model, **fields)).status_code == 200
            sent = double.requests[-1].body
            assert {key: sent[key] for key in fields} == fields
            assert "max_completion_tokens" not in sent


def long_answer(request: dict[str, Any], rng: Any) -> str:
    return "This step gives 1.\n" * 40 + "Answer: 42"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - ANSWERS - {"thinksum"}))  # which writes no answer
async def test_a_length_holds_for_an_answer_that_is_written_in_pieces(name: str, strategy: str):
    """The double's tokens are bytes; what a strategy writes itself around the pieces is not the model's."""
    async with ModelDouble(answer=long_answer) as double, serving(double) as served:
        answer = await served.chat(f"{STRATEGIES[strategy]}@qwen", **{name: 100})
        assert answer.status_code == 200, answer.text
        (choice,) = answer.json()["choices"]
        assert len(choice["message"]["content"].removeprefix("Final answer:")) <= 100
        assert choice["finish_reason"] == "length"
        assert "x-tts-ignored" not in answer.headers


async def test_a_parameter_that_the_server_does_not_take_at_all_is_said_to_be_ignored():
    def respond(body: dict[str, Any]) -> Any:
        if "top_k" in body:
            error = {"message": "Unknown parameter: 'top_k'", "param": "top_k"}
            return web.json_response({"error": error}, status=400)
        return choice("Answer: 42")

    async with (
        ScriptedServer(respond) as upstream,
        ModelDouble() as double,
        serving(double, endpoint={"base_url": upstream.base_url}) as served,
    ):
        for _ in range(2):
            answer = await served.chat("single@qwen", top_k=3, temperature=0.5)
            assert answer.headers["x-tts-ignored"] == "top_k"
            assert answer.json()["tts"]["ignored"] == ["top_k"]
        assert "x-tts-ignored" not in (await served.chat("single@qwen", temperature=0.5)).headers


async def test_a_clients_temperature_holds_for_plans_too():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        await served.chat(f"{STRATEGIES['idea_search']}@qwen", temperature=0.25)
        assert {request.body["temperature"] for request in double.requests} == {0.25}


@pytest.mark.parametrize("fields", [{"response_format": SCHEMA}, {"tools": TOOLS}, {"logprobs": True}])
@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - ANSWERS))
async def test_what_is_written_in_pieces_refuses_a_form_that_it_cannot_keep(name: str, fields: dict[str, Any]):
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        answer = await served.chat(f"{SPECS[name]}@qwen", **fields)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] in fields
        assert double.stats.received == 0


BASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "/chat/completions": (CompletionCreateParamsBase, {"messages": ASK}),
    "/completions": (TextCreateParamsBase, {"prompt": "[[p]] What is 6 times 7?"}),
    "/responses": (ResponseCreateParamsBase, {"input": "[[p]] What is 6 times 7?"}),
    "/messages": (MessageCreateParamsBase, {"messages": ASK, "max_tokens": 300}),
}
VALUES: list[Any] = [True, False, 2, "some", ["some"], {"some": "thing"}, [{"type": "some"}], {"type": "some"}]
IDLE = {
    *("betas", "cache_control", "parallel_tool_calls", "store", "stream", "stream_options", "include", "metadata"),
    *("n", "best_of", "echo", "background", "logprobs", "tool_choice", "stop_sequences", "stop", "tools"),
}
"""Fields of which some values ask for what is so anyway."""


@pytest.mark.parametrize("model", ["qwen", "single@qwen"])
@pytest.mark.parametrize("path", BASES)
async def test_no_published_field_is_dropped(path: str, model: str):
    """Whatever its value: it changes what the model is asked, or what the client gets, or is refused or named."""
    published, base = BASES[path]
    async with ModelDouble(answer=lambda request, rng: "Answer: 42") as double, serving(double) as served:

        async def ask(**fields: Any) -> tuple[Any, str, Any]:
            double.requests.clear()
            answer = await served.http.post(path, json={"model": model, **base, **fields})
            asked = [dict(request.body) for request in double.requests]
            ignored = answer.headers.get("x-tts-ignored", "")
            return answer, ignored, asked

        plain, _, usual = await ask()
        assert plain.status_code == 200, plain.text
        dropped = []
        for name in sorted(published.__annotations__.keys() - {*base, "model", "tts"}):
            heard = False
            for value in VALUES:
                answer, ignored, asked = await ask(**{name: value})
                if answer.status_code >= 400:  # by the model's server, which then was asked, or here, naming the field
                    named = name.removeprefix("top_") in answer.text
                    assert asked or (answer.status_code in (400, 404) and named), answer.text
                    heard = True
                    continue
                echoed = name in answer.json() and answer.json()[name] == value != plain.json().get(name)
                if asked != usual or name in ignored or echoed:
                    heard = True
                elif name not in IDLE:
                    dropped.append((name, value))
            assert heard, name
        assert not dropped


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": []}, "messages: must have 1 or more"),
        ({"temperature": "hot"}, "temperature: must be a number"),
        ({"tts": {"deadline": 0}}, "tts.deadline: must be greater than 0.0, not 0; tts has: "),
        ({"tts": {"budget": {"requests": 10**400}}}, "tts.budget.requests: must be less than 2^63; tts has: "),
    ],
)
def test_what_is_wrong_with_a_field_is_told_in_words_of_ours(fields: dict[str, Any], words: str):
    body = {"model": "m", "messages": [{"role": "user", "content": "?"}], **fields}
    with pytest.raises(APIError) as raised:
        options_of(body) if "tts" in fields else check("chat/completions", json.dumps(body).encode())
    assert raised.value.message.startswith(words)
