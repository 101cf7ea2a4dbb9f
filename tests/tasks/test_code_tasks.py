"""HumanEval+ and MBPP: the reference solutions pass, and what is hidden stays hidden."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tts.errors import ConfigError
from tts.resources import Resources
from tts.session import Session
from tts.tasks import Example
from tts.tasks.humaneval import HumanEval, HumanEvalPlus
from tts.tasks.loading import read_json_list
from tts.tasks.mbpp import MBPP, MBPPPlus
from tts.types import Verdict
from tts.verifiers.programs.plan import make_plan
from tts.verifiers.programs.suite import typed_arguments
from tts.verifiers.unit_tests import UnitTests

RealData = Callable[[str], Path]
PLUS = {
    "task_id": "HumanEval/900",
    "prompt": 'def after(x):\n    """The next number.\n    >>> after(1)\n    2\n    """\n',
    "entry_point": "after",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(candidate):\n    assert candidate(10) == 11\n",
    "base_input": [[10]],
    "plus_input": [[0], [-5], [0.25]],
    "atol": 0,
}
SHARED_ITEMS = {
    "task_id": 2,
    "prompt": "Write a function to find the shared items.",
    "code": "def helper(x):\n    return set(x)\ndef shared(a, b):\n    return tuple(helper(a) & helper(b))",
    "test_imports": ["import math"],
    "test_list": ["assert set(shared((1, 2), (2, 3))) == set((2,))", "assert set(shared((4,), (4, 5))) == set((4,))"],
}


@pytest.fixture
async def resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Resources]:
    monkeypatch.setenv("TTS_DATA", str(tmp_path / "data"))
    async with Resources() as made:
        yield made


async def graded(example: Example, answer: str, resources: Resources, verifier: Any = None) -> Verdict:
    session = Session(example.problem, {}, resources=resources)
    return await (verifier or example.truth).verify(example.problem, session.candidate(answer), session)


async def test_humaneval_plus_judges_by_the_reference_on_all_inputs(tmp_path: Path, resources: Resources):
    path = tmp_path / "plus.jsonl"
    path.write_text(json.dumps(PLUS))
    (example,) = HumanEvalPlus(path=path).examples()
    assert example.problem.tests is not None
    assert example.problem.tests["asserts"] == ["assert after(1) == 2"]
    assert "-5" not in example.problem.model_dump_json()
    right = await graded(example, "```python\ndef after(x):\n    return x - -1\n```", resources)
    assert right.passed, right
    assert right.details["total"] == 4
    wrong = await graded(example, "def after(x):\n    return abs(x) + 1", resources)
    assert (wrong.passed, wrong.feedback) == (False, "after(-5): expected -4, got 6")


async def test_mbpp_shows_its_first_assertion_and_hides_the_others(tmp_path: Path, resources: Resources):
    path = tmp_path / "mbpp.json"
    path.write_text(json.dumps([SHARED_ITEMS]))
    (example,) = MBPP(path=path).examples()
    assert example.problem.id == "Mbpp/2"
    assert example.problem.metadata == {"entry_point": "shared"}
    assert SHARED_ITEMS["test_list"][0] in example.problem.messages[0]["content"]  # type: ignore[index]
    assert "(4, 5)" not in example.problem.model_dump_json()
    assert (await graded(example, SHARED_ITEMS["code"], resources)).passed
    memorised = "def shared(a, b):\n    return (2,)"
    assert (await graded(example, memorised, resources, UnitTests())).passed
    assert not (await graded(example, memorised, resources)).passed


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ({}, "expected a JSON list"),
        ([{**SHARED_ITEMS, "code": "x = 1"}], r"mbpp\.json:1: .*calls no function"),
        ([{**SHARED_ITEMS, "test_list": None}], r"mbpp\.json:1: .*test_list"),
        ([SHARED_ITEMS, 3], r"mbpp\.json:2: .*JSON object"),
    ],
)
def test_mbpp_names_what_cannot_be_used(records: Any, words: str, tmp_path: Path):
    path = tmp_path / "mbpp.json"
    path.write_text(json.dumps(records))
    with pytest.raises(ConfigError, match=words):
        list(MBPP(path=path).examples())


async def all_pass(examples: list[Example], solutions: dict[str, str], resources: Resources) -> list[Any]:
    async def one(example: Example) -> list[Any]:
        answer = solutions[example.problem.id]
        hidden = await graded(example, answer, resources)
        public = await graded(example, answer, resources, UnitTests())
        failed = [] if hidden.passed else [(example.problem.id, "hidden", hidden)]
        return failed + ([(example.problem.id, "public", public)] if public.passed is False else [])

    return [failed for found in await asyncio.gather(*map(one, examples)) for failed in found]


async def test_every_reference_solution_of_mbpp_passes(real_data: RealData, resources: Resources):
    path = real_data("mbpp_sanitized.json")
    solutions = {f"Mbpp/{line.fields['task_id']}": line.fields["code"] for line in read_json_list(path)}
    examples = list(MBPP(path=path).examples())
    assert len(examples) == 427
    assert await all_pass(examples, solutions, resources) == []


def test_nearly_all_checks_of_humaneval_are_compared_here(real_data: RealData):
    examples = list(HumanEval(path=real_data("HumanEval.jsonl.gz")).examples())
    left = [example.problem.id for example in examples if make_plan(example.truth.tests).remote]  # type: ignore[attr-defined]
    assert left == ["HumanEval/32", "HumanEval/38", "HumanEval/50", "HumanEval/53"]


def test_nearly_all_assertions_of_mbpp_are_compared_here(real_data: RealData):
    examples = list(MBPP(path=real_data("mbpp_sanitized.json")).examples())
    left = [example.problem.id for example in examples if make_plan(example.truth.tests).remote]  # type: ignore[attr-defined]
    assert left == ["Mbpp/596"]


MORE_SHARED = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nFind the shared\nelements.\nassert similar_elements((3, 4),(5, 4)) == (4,)\n"""\n',
    "entry_point": "similar_elements",
    "canonical_solution": "\ndef similar_elements(a, b):\n  return tuple(set(a) & set(b))\n",
    "base_input": [[[3, 4], [5, 4]]],
    "plus_input": [[[], []], [[1, 2, 9], [9, 1, 5]]],
    "atol": 0,
}


def plus_file(tmp_path: Path, *records: dict[str, Any]) -> list[Example]:
    path = tmp_path / "mbpp_plus.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return list(MBPPPlus(path=path).examples())


async def test_mbpp_plus_gives_arguments_the_types_of_the_shown_assertion(tmp_path: Path, resources: Resources):
    (example,) = plus_file(tmp_path, MORE_SHARED)
    question = example.problem.messages[0]["content"]  # type: ignore[index]
    assert "Find the shared elements." in question
    assert "assert similar_elements((3, 4),(5, 4)) == (4,)" in question
    assert "9" not in question
    strict = "def similar_elements(a, b):\n    assert type(a) is type(b) is tuple\n    return [x for x in a if x in b]"
    verdict = await graded(example, strict, resources)
    assert verdict.passed, verdict  # in any order, as a list too
    assert verdict.details["total"] == 3
    assert not (await graded(example, "def similar_elements(a, b):\n    return (4,)", resources)).passed


async def test_mbpp_plus_takes_a_match_for_what_it_is(tmp_path: Path, resources: Resources):
    solution = "\nimport re\ndef check_str(string):\n  return re.search(r'^[aeiou]', string)\n"
    asked = '"""\nDoes it begin with a vowel?\nassert check_str("ann")\n"""'
    inputs = {"base_input": [["ann"], ["dog"]], "plus_input": []}
    record = {**MORE_SHARED, "prompt": asked, "entry_point": "check_str", "canonical_solution": solution, **inputs}
    (example,) = plus_file(tmp_path, record)
    assert (await graded(example, solution, resources)).passed
    assert (await graded(example, "def check_str(s):\n    return s[0] in 'aeiou'", resources)).passed
    assert not (await graded(example, "def check_str(s):\n    return s", resources)).passed


@pytest.mark.parametrize(
    ("like", "given", "typed"),
    [
        ("assert f((1, 2), [3])", [[1, 2], [3]], ((1, 2), [3])),
        ("assert f([(1, 2)], 2)", [[[1, 2], [3, 4]], 2], ([(1, 2), (3, 4)], 2)),
        ("assert f((1, (4, 6), 10))", [[1, [2, 3], 4]], ((1, (2, 3), 4),)),
        ("assert f({'a': (1, 2)}, 3)", [{"b": [3, 4]}, 5], ({"b": (3, 4)}, 5)),
        ("assert f(0, 1j)", ["2.5", "1+2j"], (2.5, 1 + 2j)),
        ("assert f((1, 2), 3)", [[1, [2, [3]]], "three"], ((1, (2, (3,))), "three")),
        ("assert set(f({1, 2})) == set()", [[1, 2]], ({1, 2},)),
        ("assert f(g(1), 'x')", [[1], "y"], ([1], "y")),
        ("", [[1]], ([1],)),
    ],
)
def test_arguments_take_on_the_types_of_an_example(like: str, given: list[Any], typed: tuple[Any, ...]):
    assert typed_arguments([given], like) == [typed]
    assert [type(value) for value in typed_arguments([given], like)[0]] == [type(value) for value in typed]


def test_a_file_of_mbpp_plus_without_assertions_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"jsonl:1: 'prompt' has no assertion"):
        plus_file(tmp_path, {**MORE_SHARED, "prompt": '"""Find."""'})
