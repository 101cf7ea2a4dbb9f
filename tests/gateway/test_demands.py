"""What a request demands of its answer: tests, a schema, a form, a rubric."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.serving import serving
from tests.support.double import ModelDouble
from tts.gateway.settings import GatewaySettings

DOUBLE = [{"role": "user", "content": "Write double(x)."}]
TESTS = {"entry_point": "double", "calls": [{"args": [2], "expected": 4}, {"args": [3], "expected": 6}]}
SCHEMA = {"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]}

DEMANDS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "tests": (
        {"tests": TESTS},
        ["def double(x): return x + 2", "def double(x): raise SystemExit", "def double(x): return 2 * x"],
        "def double(x): return 2 * x",
    ),
    "schema": ({"schema": SCHEMA}, ["value: 4", '{"value": "4"}', '{"value": 4}'], '{"value": 4}'),
    "format": ({"format": r"^\d{4}-\d\d-\d\d$"}, ["today", "1-2-3", "2024-02-29"], "2024-02-29"),
    "schema and format": (
        {"schema": SCHEMA, "format": "7"},
        ['{"value": 4}', "7", '{"value": 7}'],
        '{"value": 7}',
    ),
}


@pytest.mark.parametrize("name", DEMANDS)
async def test_the_answer_meets_what_the_request_demands(name: str):
    demand, answers, right = DEMANDS[name]
    said: Iterator[str] = iter(answers)
    async with (
        ModelDouble(answer=lambda request, rng: next(said)) as double,
        serving(double, run_code=True, endpoint={"max_n": 1, "max_concurrency": 1}) as served,
    ):
        tts = {"strategy": "first_pass:k=3", **demand, "details": True}
        answer = (await served.chat("qwen", DOUBLE, tts=tts)).json()
        assert answer["choices"][0]["message"]["content"] == right
        assert [one["passed"] for one in answer["tts"]["candidates"]] == [False, False, True]
        assert all(one["feedback"] for one in answer["tts"]["candidates"][:2])


async def test_a_rubric_is_put_before_the_judge_that_the_request_names():
    def answer(request: dict[str, Any], rng: Any) -> str:
        if request["model"] != "judge-model":
            return next(said)
        asked = request["messages"][-1]["content"]
        assert "Rhymes win." in asked
        return json.dumps({"reasons": "", "grade": 10 if "blue and true" in asked else 2})

    said = iter(["plain", "blue and true", "dull"])
    async with ModelDouble(models=["test-model", "judge-model"], answer=answer) as double:
        big = {"model": "judge-model", "base_url": double.base_url, "api_key_env": "NO_KEY"}
        async with serving(double, models={"big": big}) as served:
            tts = {"strategy": "best_of_n:n=3", "rubric": "Rhymes win.", "models": {"judge": "big"}, "details": True}
            answered = (await served.chat("qwen", tts=tts)).json()
            assert answered["choices"][0]["message"]["content"] == "blue and true"
            assert answered["tts"]["usage"]["judge"]["requests"] == 3
            assert double.by_model["judge-model"].received == 3


HOSTILE = {
    "a pattern that takes for ever": ({"format": "(a+)+$"}, "a" * 40 + "b"),
    "a schema's pattern that takes for ever": ({"schema": {"pattern": "^(a+)+$"}}, '"' + "a" * 40 + 'b"'),
    "a schema from elsewhere": ({"schema": {"$ref": "http://127.0.0.1:1/x.json"}}, "{}"),
    "a schema in a file": ({"schema": {"$ref": "file:///etc/passwd"}}, "{}"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_demands_are_not_met_and_hold_nobody_up(name: str):
    demand, said = HOSTILE[name]
    async with ModelDouble(answer=lambda request, rng: said) as double, serving(double) as served:
        answer = await served.chat("qwen", tts={"strategy": "best_of_n:n=1", "details": True, **demand})
        assert answer.status_code == 200
        told = answer.json()["tts"]["candidates"][0]
        assert told["passed"] is False
        assert "root:" not in answer.text


def test_programs_are_off_unless_the_operator_says_so():
    assert GatewaySettings.model_fields["run_code"].default is False
