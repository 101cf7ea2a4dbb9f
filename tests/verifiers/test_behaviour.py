"""Votes over what programs return: whatever their texts, programs that do the same vote for the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.double import ModelDouble
from tests.support.judges import roles, speaking
from tests.support.solving import check_exact
from tts import Problem, solve
from tts.errors import ConfigError
from tts.resources import Resources
from tts.session import Session
from tts.verifiers.behaviour import Behaviour, mutants
from tts.verifiers.sandbox import Invocation, decode, encode

TESTS = {"entry_point": "f", "calls": [{"args": [2], "expected": "unknown"}, {"args": [3], "expected": "unknown"}]}


def problem(**tests: Any) -> Problem:
    return Problem.from_prompt("Write f.", id="f", tests={**TESTS, **tests})


async def classes(asked: Problem, reader: Behaviour, *programs: str) -> list[str | None]:
    """The class of each program's answer."""
    known: list[str] = []
    async with Resources() as resources:
        session = Session(asked, {}, resources=resources)
        found = [
            await session.classify(session.candidate(f"```python\n{program}\n```"), reader, known)
            for program in programs
        ]
        assert not session.ledger.failures
    return [candidate.notes["answer"] for candidate in found]


async def test_programs_of_one_behaviour_are_one_class_whatever_they_look_like_print_or_do_elsewhere():
    twice, looped, chatty, squared, elsewhere = await classes(
        problem(),
        Behaviour(),
        "def f(x): return 2 * x",
        "def f(x):\n    total = 0\n    for _ in range(x):\n        total += 2\n    return total * 1.0",
        "def f(x):\n    print('twice', x)\n    return x + x\n\nassert f(2) == 5",
        "def f(x): return x ** 2",
        "def f(x): return 2 * x if x < 10 else 0",
    )
    assert twice == looped == chatty == elsewhere != squared
    assert squared is not None


async def test_order_where_there_is_none_and_rounding_do_not_part_programs():
    one, other, near, far, rows = await classes(
        problem(),
        Behaviour(),
        "def f(x): return [{'b', 'a', 'c'}, {'k': 0.3, 'l': 1}]",
        "def f(x): return [set('cab'), {'l': True, 'k': 0.1 + 0.2}]",
        "def f(x): return [set('cab'), {'l': 1.0, 'k': 0.3}]",
        "def f(x): return [set('cab'), {'l': 1.0, 'k': 0.3001}]",
        "def f(x): return ({'b', 'a', 'c'}, {'k': 0.3, 'l': 1})",
    )
    assert one == other == near
    assert len({one, far, rows}) == 3


async def test_what_fails_everywhere_has_no_answer_and_failing_somewhere_is_a_behaviour():
    found = await classes(
        problem(),
        Behaviour(timeout=1),
        "def f(x): raise ValueError(x)",
        "def f(x):\n    while True: pass",
        "import os\nos._exit(0)",
        "def g(:",
        "def f(x):\n    if x == 3: raise ValueError\n    return x",
        "def f(x): return 2 if x == 2 else {}[x]",
        "def f(x): return x",
    )
    assert found[:4] == [None] * 4
    assert found[4] == found[5] != found[6]


async def test_more_inputs_part_what_the_tests_inputs_do_not():
    programs = ("def f(x): return 2 * x", "def f(x): return 2 * x if x in (2, 3) else 0", "def f(x): return x + x")
    one, special, same = await classes(problem(), Behaviour(mutants=4), *programs)
    assert one == same != special


async def test_scripts_methods_objects_and_assertions_have_inputs_too():
    scripts = problem(calls=[], entry_point=None, stdin=[{"input": "2\n", "output": "?"}])
    one, other, wrong = await classes(
        scripts, Behaviour(), "print(int(input()) * 2)", "x = int(input())\nprint(x + x, '')", "print(5)"
    )
    assert one == other != wrong
    method = "class Solution:\n    def f(self, x):\n        return {}"
    one, other, wrong = await classes(
        problem(container="Solution"),
        Behaviour(mutants=3),
        method.format("x * 2"),
        "def f(x): return 2 * x",
        method.format("7"),
    )
    assert one == other != wrong
    asserted = problem(calls=[], asserts=["assert f(2) == 'unknown'", "assert abs(f(5)) < 1"])
    one, other, wrong = await classes(asserted, Behaviour(), "def f(x): return -x", "f = lambda x: 0 - x", "f = abs")
    assert one == other != wrong
    stack = {"args": [], "calls": [{"method": "push", "args": [1]}, {"method": "top", "expected": "?"}]}
    made = "class Stack:\n    def __init__(self): self.all = []\n    def push(self, x): self.all.append(x)\n"
    one, other = await classes(
        problem(calls=[], entry_point="Stack", interactions=[stack]),
        Behaviour(mutants=2),
        made + "    def top(self): return self.all[-1]",
        made + "    def top(self): return self.all[-1] + 1",
    )
    assert one != other


async def test_without_inputs_there_are_no_votes_and_without_tests_it_says_so():
    assert await classes(problem(calls=[]), Behaviour(mutants=5), "def f(x): return x") == [None]
    with pytest.raises(ConfigError, match="no tests"):
        await classes(Problem.from_prompt("Write f."), Behaviour(), "def f(x): return x")
    with pytest.raises(ConfigError, match="whole answers"):
        Behaviour().parse("def f(x): return x")


async def test_a_vote_needs_no_expected_value_and_pays_for_each_program_once():
    drawn = ["x ** 2", "2 * x", "x + 1", "x + x", "2 * x"]
    left = iter(drawn)

    def say(asked: str, rng: Any) -> str:
        return f"```python\ndef f(x):\n    return {next(left)}\n```"

    async with ModelDouble(**speaking(policy=say)) as double:
        spec = "self_consistency:n=5,answer=behaviour(mutants=3)"
        result = await solve(problem(), spec, roles(double, max_n=5))
        check_exact(result, double.stats)
    assert result.selected is not None
    assert "2 * x" in result.selected.content
    paid = [frozenset(c for c in one.charges if c.role == "verifier") for one in result.candidates]
    assert all(paid)
    assert len(set(paid)) == 4
    assert result.spent["verifier"].verifier_seconds > 0


async def test_as_a_verifier_it_compares_with_a_program():
    verifier = Behaviour(reference="def f(x): return x * 2")
    async with Resources() as resources:
        session = Session(problem(), {}, resources=resources)
        right, wrong, nothing = [
            await session.verify(session.candidate(text), verifier)
            for text in ("def f(x): return x + x", "def f(x): return x", "I cannot.")
        ]
    assert (right.passed, wrong.passed, nothing.passed) == (True, False, False)
    assert {charge.role for charge in right.charges} == {"verifier"}


plain = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.lists(plain, max_size=3), max_size=4), st.integers(0, 12))
def test_mutants_are_new_few_reproducible_and_of_the_same_types(arguments: list[list[Any]], count: int):
    cases = [(Invocation("f", encode(tuple(one))),) for one in arguments]
    made = list(mutants(cases, count))
    assert made == list(mutants(cases, count))
    assert len(made) <= count
    assert len({*made, *cases}) == len(made) + len(set(cases))
    shapes = [_types(one) for one in arguments]
    assert all(_types(decode(case[-1].args)) in shapes for case in made)


def _types(arguments: Sequence[Any]) -> list[type]:
    return [type(one) for one in arguments]
