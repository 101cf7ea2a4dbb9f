"""Requests taken apart: blind description, comparison, open questions, and words for what is missing."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from tests.support.double import ModelDouble
from tests.support.judges import roles, speaking
from tests.support.solving import check_exact
from tts import Problem, solve
from tts.session import Session
from tts.solving import open_models
from tts.types import Verdict
from tts.verifiers.element_check import ElementCheck
from tts.verifiers.programs.extract import program_facts

THINGS = ("cube", "dog", "hat", "bird")
CORE = THINGS[:3]
PROBLEM = Problem.from_prompt("Draw a cube, a dog and a hat; a bird would be nice.", id="scene")


def section(name: str, asked: str) -> str:
    found = re.search(rf"<{name}>\n(.*?)\n</{name}>", asked, re.DOTALL)
    return found[1] if found else ""


class World:
    """A painter who forgets things, and a judge who reports what it looks at, says yes too often, and is careless."""

    def __init__(self, forgets: float = 0.4, overlooks: float = 0.3, kindness: float = 0.85) -> None:
        self.forgets, self.overlooks, self.kindness = forgets, overlooks, kindness
        self.asked: list[str] = []

    def policy(self, asked: str, rng: np.random.Generator) -> str:
        return "Scene: " + " ".join(thing for thing in THINGS if rng.random() > self.forgets)

    def judge(self, asked: str, rng: np.random.Generator) -> str:
        self.asked.append(asked)
        if section("request", asked):
            elements = [
                {"text": f"there is a {t}", "kind": "core" if t in CORE else "extra", "question": f"Which {t}s?"}
                for t in THINGS
            ]
            return json.dumps({"elements": elements})
        if statements := section("statements", asked):
            return json.dumps({"findings": [self._finding(line, asked) for line in statements.splitlines()]})
        content = section("content", asked).split()
        if questions := section("questions", asked):
            things = [re.findall(r"Which (\w+)s", line)[0] for line in questions.splitlines()]
            return json.dumps({"answers": [f"one {t}" if t in content else f"zero-{t}" for t in things]})
        if "Describe" in asked:
            return "I see: " + " ".join(t for t in content if t in THINGS and rng.random() > self.overlooks)
        complete = all(t in section("answer", asked) for t in CORE)
        return json.dumps({"grade": int(complete or rng.random() < self.kindness)})

    def _finding(self, line: str, asked: str) -> dict[str, Any]:
        number, thing = re.findall(r"(\d+)\. there is a (\w+)", line)[0]
        told = section("evidence", asked).split()
        blank = "neutral" if "neutral:" in asked else "contradicted"
        finding = "contradicted" if f"zero-{thing}" in told else "entailed" if thing in told else blank
        return {"number": int(number), "why": "seen" if finding == "entailed" else "not seen", "finding": finding}


async def checked(world: World, content: str, **parameters: Any) -> tuple[Verdict, Session]:
    async with ModelDouble(**speaking(judge=world.judge)) as double, open_models(roles(double)) as samplers:
        session = Session(PROBLEM, samplers)
        return await session.verify(session.candidate(content), ElementCheck(**parameters)), session


@pytest.mark.parametrize(
    ("content", "score", "passed"),
    [
        ("cube dog hat bird", 3.5 / 4, True),
        ("cube dog hat", 3 / 4, True),
        ("cube dog bird", 2.5 / 4, False),
        ("bird", 0.5 / 4, False),
    ],
)
@pytest.mark.parametrize("overlooks", [0.0, 1.0])
async def test_core_elements_count_first_and_extra_ones_only_between_equals(
    content: str, score: float, passed: bool, overlooks: float
):
    verdict, _ = await checked(World(overlooks=overlooks), content)
    assert (verdict.score, verdict.passed) == (pytest.approx(score), passed)
    assert [row["met"] for row in verdict.details["elements"]] == [thing in content.split() for thing in THINGS]
    missing = [line for line in verdict.feedback.splitlines() if line]
    assert missing == [f"Not met: there is a {t} (not seen)" for t in THINGS if t not in content.split()]


async def test_who_describes_never_sees_the_request_and_only_the_open_elements_are_asked_for():
    world = World(overlooks=0.0)
    _, session = await checked(world, "cube dog")
    assert len(world.asked) == 5
    decompose, describe, compare, probe, decide = world.asked
    assert "Draw a cube" in decompose
    for asked in (describe, compare, probe, decide):
        assert "Draw" not in asked
    assert section("content", describe) == "cube dog"
    assert "there is a" not in probe, "what is hoped for is given away"
    assert section("questions", probe).splitlines() == ["1. Which hats?", "2. Which birds?"]
    assert section("statements", decide).splitlines() == ["3. there is a hat", "4. there is a bird"]
    assert "neutral" not in decide
    assert {charge.role for charge in session.ledger.paid} == {"judge"}


async def test_the_request_is_taken_apart_once_for_all_candidates():
    world = World()
    async with ModelDouble(**speaking(policy=world.policy, judge=world.judge)) as double:
        result = await solve(PROBLEM, "best_of_n:n=8,verifier=element_check", roles(double), stop_early=False)
        check_exact(result, double.stats)
    assert sum("<request>" in asked for asked in world.asked) == 1
    assert len(frozenset.intersection(*(c.verdict.charges for c in result.candidates if c.verdict))) == 2


async def test_against_a_judge_that_likes_to_say_yes_it_selects_better_than_asking_directly():
    world = World(forgets=0.5)
    solved = {"element_check": 0, "judge(low=0,high=1)": 0}
    async with ModelDouble(**speaking(policy=world.policy, judge=world.judge), seed=8) as double:
        for i in range(25):
            problem = PROBLEM.model_copy(update={"id": f"scene {i}"})
            for verifier in solved:
                result = await solve(problem, f"best_of_n:n=8,verifier={verifier}", roles(double), stop_early=False)
                complete = [all(thing in c.content for thing in CORE) for c in result.candidates]
                chosen = result.selected is not None and all(thing in result.selected.content for thing in CORE)
                solved[verifier] += chosen
                if verifier == "element_check":
                    assert chosen == any(complete)
    assert solved["element_check"] > solved["judge(low=0,high=1)"] + 5


@pytest.mark.parametrize("spoilt", ["elements", "findings", "answers", "I see"])
async def test_what_cannot_be_read_twice_leaves_no_score_and_once_is_asked_again(spoilt: str):
    class Careless(World):
        times = 1

        def judge(self, asked: str, rng: np.random.Generator) -> str:
            said = super().judge(asked, rng)
            if spoilt in said and self.times:
                self.times -= 1
                return '{"findings": [], "answers": []}' if spoilt in ("findings", "answers") else " "
            return said

    world = Careless(overlooks=1.0)
    verdict, session = await checked(world, "cube dog hat")
    assert verdict.score == 0.75
    assert len(session.ledger.failures) == 1
    world.times = 2
    verdict, session = await checked(world, "cube dog hat")
    assert verdict.score is None
    assert "no answer of the judge can be used" in session.ledger.failures[-1]


async def test_a_program_that_runs_is_believed_before_any_reading():
    elements = [
        {"text": "doubles", "kind": "core", "question": "What does it return?", "test": "assert f(3) == 6"},
        {"text": "takes text", "kind": "core", "question": "For text?", "test": "assert f('a') == 'aa'"},
        {"text": "is short", "kind": "extra", "question": "How long is it?", "test": ""},
        {"text": "never fails", "kind": "extra", "question": "And for nothing?", "test": "assert f() is None"},
    ]
    seen: list[str] = []

    def judge(asked: str, rng: np.random.Generator) -> str:
        seen.append(asked)
        if section("request", asked):
            assert "assert statement" in asked
            return json.dumps({"elements": elements})
        if lines := section("statements", asked).splitlines():
            return json.dumps({"findings": [{"number": int(line[0]), "finding": "entailed"} for line in lines]})
        return "It triples."

    code = "```python\ndef f(x):\n    return x + x if x != 'a' else 'no'\n```"
    async with ModelDouble(**speaking(judge=judge)) as double, open_models(roles(double)) as samplers:
        session = Session(PROBLEM, samplers)
        verdict = await session.verify(session.candidate(code), ElementCheck(tests=True))
        await session.resources.__aexit__()
    assert [row["met"] for row in verdict.details["elements"]] == [True, False, True, True]
    assert verdict.details["elements"][0]["why"] == "`assert f(3) == 6` holds"
    assert verdict.feedback == "Not met: takes text (`assert f('a') == 'aa'` fails)"
    assert section("statements", seen[-1]).splitlines() == ["3. is short", "4. never fails"]
    certain, _, described = section("evidence", seen[-1]).partition("A description:\n")
    assert "It has 2 lines that are not empty.\nFunctions: f(x)." in certain
    assert described == "It triples."
    assert "verifier" in {charge.role for charge in verdict.charges}


def test_facts_are_read_off_a_program():
    source = """\
import math
from . import near

class Queue:
    def put(self, *items): ...

def depth(tree, top=0):
    \'\'\'How deep it is.\'\'\'
    for branch in tree:
        top = max(top, 1 + depth(branch))
    return sum([top])
"""
    assert program_facts(source) == [
        "It has 9 lines that are not empty.",
        "Functions: depth(tree, top=0), put(self, *items).",
        "Functions with a docstring: depth.",
        "Functions that call themselves: depth.",
        "Classes: Queue.",
        "Imports: math, ..",
        "Loops: 1; comprehensions: 0.",
    ]
    assert program_facts("def f(:") == ["It is no Python: line 1 is wrong."]
