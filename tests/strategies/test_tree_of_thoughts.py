"""Tree of thoughts: what it follows is what plain references follow, in a tree of digits and in the game of 24."""

from __future__ import annotations

import asyncio
import re
from fractions import Fraction
from functools import cache
from itertools import permutations
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.branching import DIGITS, Branching, KnownValue, Memory, chance
from tests.support.double import ModelDouble
from tests.support.solving import check_exact, endpoint
from tts.base import Verifier
from tts.errors import ConfigError
from tts.sampler.mock import MockModel
from tts.solving import solve
from tts.strategies.stepwise import Node
from tts.strategies.tree_of_thoughts import TreeOfThoughts
from tts.types import Budget, Candidate, Problem, Result, Scale, Verdict, sum_usage

Body = dict[str, Any]
VALUES = KnownValue()


async def searched(model: Any, options: dict[str, Any] | None = None, **fields: Any) -> Result:
    async with asyncio.timeout(120):
        settings = {"verifier": VALUES, "stop_early": False, **(options or {})}
        return await solve(DIGITS, TreeOfThoughts(step="\n", **fields), model, **settings)


def followed(result: Result) -> list[str]:
    """The texts of all nodes, in the order in which they were booked."""
    texts = {"": ""}
    for candidate in sorted(result.candidates, key=lambda one: one.spawned):
        for record in candidate.notes["tree"]:
            texts[record["node"]] = texts[record["node"].rpartition(".")[0]] + record["text"]
    return list(texts.values())[1:]


def below(text: str, width: int, depth: int) -> list[str]:
    end = "" if text.count("\n") == depth - 1 else "\n"
    return [f"{text}{i}{end}" for i in range(width)]


# -- against plain references ----------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(width=st.integers(1, 4), keep=st.integers(1, 5), depth=st.integers(1, 4))
def test_breadth_first_follows_the_best_of_each_level(width, keep, depth):
    expected, live = list[str](), [""]
    for _ in range(depth):
        level = [text for one in live for text in below(one, width, depth)]
        expected += level
        live = sorted(level, key=chance, reverse=True)[:keep]
    result = asyncio.run(searched(Branching(depth).endpoint, branching=width, keep=keep))
    assert followed(result) == expected
    assert result.text == live[0]
    assert not result.unused


@settings(max_examples=15, deadline=None)
@given(width=st.integers(1, 3), depth=st.integers(1, 4), nodes=st.integers(1, 20), prune=st.sampled_from([0.0, 0.5]))
def test_depth_first_follows_the_best_child_and_comes_back(width, depth, nodes, prune):
    expected = list[str]()

    def visit(text: str) -> None:
        nonlocal nodes
        if nodes == 0 or (text and text[-1] != "\n"):
            return
        nodes -= 1
        children = below(text, width, depth)
        expected.extend(children)
        for child in sorted(children, key=chance, reverse=True):
            if chance(child) >= prune:
                visit(child)

    fields = {"order": "depth", "branching": width, "nodes": nodes, "prune_below": prune}
    visit("")
    result = asyncio.run(searched(Branching(depth).endpoint, **fields))
    assert followed(result) == expected
    assert result.candidates


def test_states_are_drawn_in_proportion_to_their_values():
    strategy, rng = TreeOfThoughts(keep=2, keep_by="draw"), np.random.default_rng(0)
    world: Any = None

    def rated(*rewards: float | None) -> list[Node]:
        return [Node(answer=world, above=Node(answer=world), reward=reward) for reward in rewards]

    nodes = rated(0.1, 0.3, 0.6, None)
    counts = dict.fromkeys(nodes, 0)
    for _ in range(6000):
        for node in strategy.kept(nodes, rng):
            counts[node] += 1
    p = [0.1, 0.3, 0.6]  # drawn first, or second after another one
    chances = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(3) if j != i) for i in range(3)]
    assert [counts[node] / 6000 for node in nodes[:3]] == pytest.approx(chances, abs=0.02)
    assert counts[nodes[3]] == 0
    assert len(strategy.kept(rated(0, 0, 0, 0), rng)) == 2
    assert len(strategy.kept(rated(None, 0, None), rng)) == 2
    assert len(strategy.kept(rated(0.5, 0, 0), rng)) == 1


# -- the game of 24 --------------------------------------------------------------------------------------------------


@cache
def moves(numbers: tuple[Fraction, ...]) -> list[tuple[str, tuple[Fraction, ...]]]:
    """All operations on two of the numbers, and what is left after each."""
    found: dict[str, tuple[Fraction, ...]] = {}
    for i, j in permutations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
        for sign, value in (("+", a + b), ("-", a - b), ("*", a * b), ("/", a / b if b else None)):
            if value is not None and not (sign in "+*" and i > j):
                left = tuple(sorted([*rest, value]))
                found[f"{a} {sign} {b} = {value} (left: {' '.join(map(str, left))})"] = left
    return list(found.items())


@cache
def reachable(numbers: tuple[Fraction, ...]) -> bool:
    return numbers == (24,) if len(numbers) == 1 else any(reachable(left) for _, left in moves(numbers))


def left_in(text: str) -> tuple[Fraction, ...]:
    numbers = re.findall(r"\(left: ([^)]*)\)|game of 24: ([^.]*)\.", text)[-1]
    return tuple(sorted(map(Fraction, "".join(numbers).split())))


class Possible(Verifier):
    """The published values: sure 20, likely 1, impossible 0.001, scaled to 1; `blind` to all but the end."""

    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        if not candidate.partial:
            return Verdict(float(candidate.content.strip().endswith("Answer: 24")), "Answer: 24" in candidate.content)
        return Verdict(1.0 if reachable(left_in(candidate.content)) else 0.001)


def player(body: Body, rng: Any = None) -> str:
    """Lists all moves, with bullets of several kinds and one of them twice; votes for the first that can be won."""
    asked = body["messages"][0]["content"]
    if "Compare them" in asked:
        choices = re.findall(r"Choice (\d+):\n(.*?)(?=\n\nChoice|\n\nCompare)", asked, re.DOTALL)
        good = [number for number, text in choices if reachable(left_in(text))]
        return f"I think so.\nBest: {(good or ['1'])[0]}"
    numbers = left_in(asked.split("<beginning>")[1] if "(left:" in asked else asked)
    if len(numbers) == 1:
        return f"Answer: {numbers[0]}"
    lines = [text for text, _ in moves(numbers)]
    marks = ["- ", "1. ", "* ", "  2) ", ""]
    return "\n".join(f"{marks[i % 5]}{line}" for i, line in enumerate([lines[0], *lines]))


def game(*numbers: int) -> Problem:
    return Problem.from_prompt(f"Play the game of 24: {' '.join(map(str, numbers))}.", id="24")


@pytest.mark.parametrize("numbers", [(4, 9, 10, 13), (1, 2, 3, 4), (3, 3, 8, 8), (1, 1, 1, 1)])
@pytest.mark.parametrize(
    "fields", [{"keep": 1}, {"order": "depth", "prune_below": 0.5}, {"keep": 1, "weigh": "vote", "votes": 1}]
)
async def test_the_game_of_24_is_won_where_it_can_be(numbers, fields):
    strategy = TreeOfThoughts(thoughts="propose", branching=100, depth=4, **fields)
    async with asyncio.timeout(120), ModelDouble(answer=player) as double:  # no server that continues answers
        result = await solve(game(*numbers), strategy, endpoint(double), verifier=Possible())
    check_exact(result, double.stats)
    won = reachable(tuple(map(Fraction, numbers)))
    assert (result.selected is not None and result.selected.passed) == won
    if won:
        assert result.text is not None
        assert result.text.count("\n") == 4


async def test_equal_thoughts_are_rated_once_and_paid_for():
    asked = []

    class Noting(KnownValue):
        def check(self, problem: Problem, candidate: Candidate) -> Verdict:
            asked.append(candidate.content)
            return super().check(problem, candidate)

    result = await searched(MockModel(lambda request: "same\n"), {"verifier": Noting()}, branching=4, keep=2, depth=3)
    assert asked == ["same\n", "same\nsame\n", "same\nsame\nsame\n"]
    assert sum(len(one.notes["tree"]) for one in result.candidates) == 12
    assert sum_usage(result.needed.values()) == result.candidates[0].usage
    assert not result.unused


# -- votes, budgets, faults ------------------------------------------------------------------------------------------


async def test_a_vote_across_thoughts_decides_and_is_paid_for_and_bad_votes_do_not_count():
    said = iter(["Best: 2", "no idea", "Best: 9", "Best: 2", "Best: 1"])
    world = Branching(2)

    def model(request: Body) -> Any:
        return next(said, "Best: 1") if "messages" in request else world.step(request)

    result = await searched(MockModel(model), weigh="vote", votes=5, branching=2, keep=1, depth=2)
    records = {record["node"]: record for one in result.candidates for record in one.notes["tree"]}
    assert records["0"]["reward"] == pytest.approx(1 / 3)
    assert records["1"]["reward"] == pytest.approx(2 / 3)
    assert {one.content for one in result.candidates} == {"1\n0", "1\n1"}
    assert len([words for words in result.failures if "vote" in words]) == 2
    assert result.text == max(["1\n0", "1\n1"], key=chance)


@pytest.mark.parametrize("fields", [{"thoughts": "propose", "rollouts": 2}, {"weigh": "vote", "lookahead": 1}])
def test_what_does_not_go_together_is_refused(fields):
    with pytest.raises(ValidationError, match="sampled"):
        TreeOfThoughts(**fields)


async def test_a_verifier_of_whole_answers_alone_is_refused_but_for_votes():
    whole = {"verifier": "exact_answer:reference=1"}
    with pytest.raises(ConfigError, match="unfinished"):
        await searched(Branching(2).endpoint, whole)
    result = await searched(MockModel(lambda request: "Best: 1"), whole, weigh="vote", branching=2)
    assert result.candidates


async def test_votes_of_the_model_alone_need_no_verifier_unless_one_chooses():
    fields: Any = {"weigh": "vote", "branching": 2, "keep": 1, "answer": "numeric_answer"}
    world = Branching(2)
    model = MockModel(lambda request: "Best: 2" if "messages" in request else world.step(request))
    result = await searched(model, {"verifier": None}, select_by="majority", **fields)
    assert result.text in {one.content for one in result.candidates}
    assert {one.content[0] for one in result.candidates} == {"1"}
    assert all(one.verdict is None for one in result.candidates)
    with pytest.raises(ConfigError, match="needs a verifier"):
        await searched(model, {"verifier": None}, **fields)


@pytest.mark.parametrize("order", ["breadth", "depth"])
@pytest.mark.parametrize("requests", range(1, 9))
async def test_a_budget_may_end_anywhere(order, requests):
    budget = {"budget": Budget(requests=requests)}
    result = await searched(Branching(3).endpoint, budget, order=order, branching=2, keep=2)
    assert result.candidates
    assert sum_usage(result.needed.values()).requests <= requests
    assert sum_usage(result.needed.values()) == max(result.candidates, key=lambda one: one.spawned).usage


async def test_unreadable_lists_end_the_search_without_an_answer_and_say_nothing_false():
    async with ModelDouble(answer=lambda body, rng: "\n\n") as double:
        strategy = TreeOfThoughts(thoughts="propose")
        result = await solve(game(1, 2, 3, 4), strategy, endpoint(double), verifier=Possible())
    assert result.selected is None
    assert not result.candidates


@pytest.mark.parametrize("order", ["breadth", "depth"])
async def test_a_resumed_search_pays_for_nothing_again(order):
    store = {"store": Memory()}
    once = await searched(Branching(3).endpoint, store, order=order, branching=2, keep_by="draw", keep=2, nodes=4)
    other = Branching(3)
    again = await searched(other.endpoint, store, order=order, branching=2, keep_by="draw", keep=2, nodes=4)
    assert not other.said
    assert [(one.content, one.charges) for one in once.candidates] == [
        (one.content, one.charges) for one in again.candidates
    ]
