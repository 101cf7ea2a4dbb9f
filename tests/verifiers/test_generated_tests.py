"""Tests that a model writes: programs and tests vouch for each other, and wrong tests are outvoted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.support.double import ModelDouble
from tests.support.judges import roles, speaking
from tests.support.solving import check_exact
from tts import Problem, solve
from tts.types import Candidate, Verdict
from tts.verifiers.generated_tests import GeneratedTests, _asserts

PROBLEM = Problem.from_prompt("Write double(x) that returns twice x.", id="double")
PROGRAMS = {"right": "x * 2", "also right": "x + x", "wrong": "x ** 2", "constant": "4"}
TESTS = ["assert double(1) == 2", "assert double(2) == 4", "assert double(3) == 6", "assert double(0) == 1"]
"""The last one is wrong."""


def writer(programs: list[str], tests: str) -> Any:
    """A policy that writes programs and, when asked for tests, tests."""
    left = iter(programs)

    def say(asked: str, rng: np.random.Generator) -> str:
        if "Write tests" in asked:
            return tests
        return f"```python\ndef double(x):\n    return {PROGRAMS[next(left)]}\n```"

    return speaking(policy=say)


BLOCK = "```python\n" + "\n".join(TESTS) + "\n```"


async def test_the_largest_set_of_agreeing_programs_and_tests_wins_without_any_public_test():
    drawn = ["wrong", "constant", "right", "wrong", "also right", "right"]
    async with ModelDouble(**writer(drawn, BLOCK)) as double:
        result = await solve(PROBLEM, "best_of_n:n=6,verifier=generated_tests(writers=3)", roles(double, max_n=6))
        check_exact(result, double.stats)
        assert double.stats.choices == 6 + 3
    ordered = sorted(result.candidates, key=lambda candidate: candidate.spawned)
    worth = {"right": 3 * 3.0, "also right": 3 * 3.0, "wrong": 3 * 1.0, "constant": 3 * 1.0}
    assert [c.verdict and c.verdict.score for c in ordered] == [worth[name] for name in drawn]
    assert result.selected == ordered[2]
    assert all(c.verdict and c.verdict.details["tests"] == 4 for c in ordered)
    assert result.spent["verifier"].verifier_seconds > 0


async def test_the_tests_are_charged_to_every_program_and_counted_once():
    async with ModelDouble(**writer(["right", "wrong"], BLOCK)) as double:
        result = await solve(PROBLEM, "best_of_n:n=2,verifier=generated_tests(writers=1)", roles(double, max_n=1))
    first, second = result.candidates
    shared = first.charges & second.charges
    assert {charge.role for charge in shared} == {"policy"}
    assert result.spent["policy"].requests == 3


async def test_without_a_single_test_there_is_no_rating_and_the_writers_are_asked_once():
    async with ModelDouble(**writer(["right"] * 4, "I would test it with small numbers.")) as double:
        result = await solve(PROBLEM, "best_of_n:n=4,verifier=generated_tests(writers=2)", roles(double, max_n=1))
        assert double.stats.received == 4 + 2
    assert [c.verdict and c.verdict.score for c in result.candidates] == [None] * 4
    assert any("the policy wrote no usable test" in failure for failure in result.failures)


async def test_programs_that_read_their_input_are_tested_by_it():
    problem = Problem.from_prompt("Read a number and print twice it.", id="stdin")
    programs = iter(["print(int(input()) * 2)", "print(input() * 2)"])

    def say(asked: str, rng: np.random.Generator) -> str:
        if "Write tests" in asked:
            return '{"tests": [{"input": "2\\n", "output": "4"}, {"input": "5", "output": "10\\n"}]}'
        return f"```python\n{next(programs)}\n```"

    async with ModelDouble(**speaking(policy=say)) as double:
        spec = "best_of_n:n=2,verifier=generated_tests(form=stdin,writers=1)"
        result = await solve(problem, spec, roles(double))
    ordered = sorted(result.candidates, key=lambda candidate: candidate.spawned)
    assert [c.verdict and c.verdict.details["agreed"] for c in ordered] == [[0, 1], []]


@given(some.lists(some.none() | some.sets(some.integers(0, 3)).map(sorted), max_size=8))
def test_the_worth_among_any_prefix_is_programs_times_tests(agreed: list[list[int] | None]):
    verifier = GeneratedTests()
    made = [
        Candidate(
            id=i,
            content="",
            spawned=(i,),
            verdict=Verdict(None) if tests is None else verifier.rated(float(len(tests)), agreed=tests),
        )
        for i, tests in enumerate(agreed)
    ]
    whole = verifier.among(made)
    for k in range(len(made) + 1):
        ratings = [c.verdict and c.verdict.score for c in verifier.among(whole[:k])]
        assert ratings == [t if t is None else len(t) * agreed[:k].count(t) for t in agreed[:k]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("assert f(1) == 2", ["assert f(1) == 2"]),
        (
            "Sure:\n```python\nassert f(1)==2, 'one'\nx = 3\nassert f(x)\n```",
            ["assert f(1) == 2, 'one'", "assert f(x)"],
        ),
        ("```\nassert f(1 == 2\nassert f(2) == 3\n```", ["assert f(2) == 3"]),
        ("```\n# none\n```\n```\nassert f('a;b') == [1]\n```", ["assert f('a;b') == [1]"]),
    ],
)
def test_asserts_are_found_whatever_is_around_them(text: str, found: list[str]):
    assert _asserts(text) == found


@pytest.mark.parametrize("text", ["", "assert", "f(1) == 2", "```python\n" + "(" * 5000 + "\n```"])
def test_a_text_without_a_test_is_refused(text: str):
    with pytest.raises(ValueError, match="no assert statement"):
        _asserts(text)
