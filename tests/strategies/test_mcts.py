"""Monte Carlo tree search: its visits and choices are those of a plain reference, and nothing it pays for is lost."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from math import inf, log, sqrt
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.branching import DIGITS, Branching, KnownValue, Memory, chance
from tests.support.double import ModelDouble
from tests.support.solving import PROBLEM, check_exact, endpoint
from tts import Continuation
from tts.errors import ConfigError
from tts.sampler.mock import MockModel
from tts.solving import solve
from tts.strategies.mcts import Mcts, Place
from tts.strategies.stepwise import Node
from tts.types import Budget, Result, Sample, sum_usage, total

VALUES = KnownValue()


def reference(policy: str, until: str, simulations: int, width: int, depth: int) -> tuple[dict[str, int], set[str]]:
    """Visits by text, and the texts found, of a search written down as plainly as can be."""
    visits, worth = defaultdict[str, int](int), defaultdict[str, float](float)
    below: dict[str, list[str]] = {}

    def score(text: str, above: str) -> tuple[float, float]:
        n, many = visits[text], visits[above]
        if policy == "uct":
            return (worth[text] / n + sqrt(2) * sqrt(log(many) / n) if n else inf), chance(text)
        c = log((many + 19653) / 19652) + 1.25
        return (worth[text] / n if n else chance(text)) + c / width * sqrt(many) / (1 + n), chance(text)

    for _ in range(simulations):
        path = [""]
        while True:
            while path[-1] in below:
                path.append(max(below[path[-1]], key=lambda text: score(text, path[-1])))
            leaf = path[-1]
            if leaf.count("\n") == depth - 1 and leaf[-1:].isdigit():
                break
            last = leaf.count("\n") == depth - 1
            below[leaf] = [f"{leaf}{i}" + ("" if last else "\n") for i in range(width)]
            if until == "leaf":
                break
            if last:
                path.append(max(below[leaf], key=lambda text: score(text, leaf)))
                break
        for text in path:
            visits[text] += 1
            worth[text] += chance(path[-1]) if path[-1] else 0.0
    return {text: n for text, n in visits.items() if n}, {text for texts in below.values() for text in texts}


async def searched(world: Branching, options: dict[str, Any] | None = None, **fields: Any) -> Result:
    async with asyncio.timeout(120):
        settings = {"verifier": VALUES, "stop_early": False, **(options or {})}
        return await solve(DIGITS, Mcts(step="\n", **fields), world.endpoint, **settings)


def read(result: Result) -> tuple[dict[str, int], dict[str, str]]:
    """Visits by text, and the texts of all nodes by name."""
    records = [record for one in sorted(result.candidates, key=lambda one: one.spawned) for record in one.notes["tree"]]
    texts = {"": ""}
    for record in records:
        texts[record["node"]] = texts[record["node"].rpartition(".")[0]] + record["text"]
    last = max(result.candidates, key=lambda one: one.spawned)
    return {texts[name]: n for name, n in last.notes["visits"].items()}, texts


@settings(max_examples=25, deadline=None)
@given(
    policy=st.sampled_from(["uct", "puct"]),
    until=st.sampled_from(["leaf", "answer"]),
    simulations=st.integers(1, 30),
    width=st.integers(1, 4),
    depth=st.integers(1, 4),
)
def test_visits_are_those_of_a_plain_reference(policy, until, simulations, width, depth):
    fields = {"policy": policy, "until": until, "simulations": simulations, "branching": width}
    result = asyncio.run(searched(Branching(depth), **fields))
    visits, texts = read(result)
    expected, found = reference(policy, until, simulations, width, depth)
    assert visits == expected
    assert set(texts.values()) == found | {""}
    whole = [text for text in found if text[-1] != "\n"]
    if whole:
        assert {one.content for one in result.candidates} == set(whole)
        assert result.text == max(whole, key=chance)
    else:
        assert [one.cut_off for one in result.candidates] == [True]


def place(value: float = 0.0, visits: int = 0, total: float = 0.0, passing: int = 0, prior: float = 1.0) -> Place:
    return Place(cast(Node, None), value, prior, visits, total, passing)


@pytest.mark.parametrize(
    ("search", "below", "above", "expected"),
    [
        (Mcts(policy="uct"), place(0.9), 5, inf),
        (Mcts(policy="uct"), place(visits=2, total=1.2), 8, 2.0420),  # 0.6 + 1.4142 * sqrt(2.0794 / 2)
        (Mcts(policy="uct", exploration=0.5), place(visits=4, total=3.0), 16, 1.1663),  # 0.75 + 0.5 * sqrt(2.7726 / 4)
        (Mcts(policy="uct"), place(visits=1, total=0.6, passing=1), 8, 1.7420),  # the one under way counts 0
        (Mcts(policy="puct"), place(0.7, prior=0.25), 9, 1.6379),  # 0.7 + 0.25 * 1.2505 * 3 / 1
        (Mcts(policy="puct"), place(0.7, 3, 1.5, prior=0.5), 16, 1.1254),  # 0.5 + 0.5 * 1.2509 * 4 / 4
        (Mcts(policy="puct", exploration=0), place(0.7, 3, 1.5), 0, 0.5),
    ],
)
def test_scores_are_those_of_tables_computed_by_hand(search, below, above, expected):
    assert search.score(below, above) == pytest.approx(expected, abs=2e-4)


@settings(max_examples=10, deadline=None)
@given(in_flight=st.integers(2, 8), policy=st.sampled_from(["uct", "puct"]), seed=st.integers(0, 99))
def test_a_resumed_search_backs_up_in_the_order_of_the_first_run(in_flight, policy, seed):
    fields = {"simulations": 12, "branching": 3, "in_flight": in_flight, "policy": policy}
    store = Memory()
    slow = Branching(4, seconds=lambda text: chance(f"{seed} {text}") / 100)
    once = asyncio.run(searched(slow, {"store": store}, **fields))
    other = Branching(4, seconds=lambda text: chance(f"{seed + 1} {text}") / 100)
    again = asyncio.run(searched(other, {"store": store}, **fields))
    assert not other.said
    assert [(one.content, one.spawned, one.notes) for one in again.candidates] == [
        (one.content, one.spawned, one.notes) for one in once.candidates
    ]
    assert read(once)[0][""] == 12
    assert all(one.charges == two.charges for one, two in zip(once.candidates, again.candidates, strict=True))


async def test_a_candidate_carries_what_the_simulations_until_then_have_cost_and_the_last_one_everything():
    result = await searched(Branching(3), simulations=10, branching=2)
    ordered = sorted(result.candidates, key=lambda one: one.spawned)
    for earlier, later in pairwise(ordered):
        assert earlier.charges <= later.charges
    assert total(ordered[-1].charges) == sum_usage(result.needed.values())
    assert not result.unused
    assert ordered[0].usage.completion_tokens < ordered[-1].usage.completion_tokens


async def test_several_simulations_at_once_spread_out_and_none_is_lost():
    world, running, most = Branching(3), 0, 0

    async def slow(request: dict[str, Any]) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return cast(str, world.step(request))

    strategy = Mcts(step="\n", simulations=40, branching=4, in_flight=8)
    async with asyncio.timeout(120):
        result = await solve(DIGITS, strategy, MockModel(slow), verifier=VALUES, stop_early=False)
    assert read(result)[0][""] == 40
    assert most > 4  # the mock writes the steps of one node one after the other


async def test_a_value_may_be_that_of_roll_outs_or_a_mixture():
    fields = {"simulations": 3, "branching": 2, "rollouts": 2, "until": "leaf"}
    result = await searched(Branching(3), **fields)
    records = {record["node"]: record for one in result.candidates for record in one.notes["tree"]}
    ends = [chance("0\n0\n0"), chance("0\n1\n0")]
    assert records["0"]["reward"] == pytest.approx(sum(ends) / 2)
    assert any(one.content == "0\n1\n0" for one in result.candidates)
    mixed = await searched(Branching(3), rollout_share=0.25, **fields)
    records = {record["node"]: record for one in mixed.candidates for record in one.notes["tree"]}
    assert records["0"]["reward"] == pytest.approx(0.25 * sum(ends) / 2 + 0.75 * chance("0"))
    with pytest.raises(ConfigError, match="rate"):
        await searched(Branching(3), {"verifier": "exact_answer:reference=1"}, rollout_share=0.5, **fields)


async def test_what_cannot_be_rated_is_not_gone_through_and_not_lost():
    best = max(range(3), key=lambda i: chance(str(i)))
    result = await searched(Branching(1), {"verifier": KnownValue(nameless=(str(best),))}, simulations=9, branching=3)
    visits, _ = read(result)
    assert sum(visits.values()) == 2 * visits[""]
    assert str(best) not in visits
    assert {one.content for one in result.candidates} == {"0", "1", "2"}
    assert result.text == max(set("012") - {str(best)}, key=chance)
    assert any("not a finite number" in words for words in result.failures)


async def test_where_nothing_can_be_rated_it_goes_on_as_if_nothing_were_worth_anything():
    blind = KnownValue(nameless=("0", "1"))
    result = await searched(Branching(3), {"verifier": blind}, simulations=9, branching=2)
    visits, _ = read(result)
    assert {"0\n", "1\n"} <= visits.keys()
    assert result.ended == "complete"
    assert result.selected is not None
    assert not result.selected.cut_off
    assert not result.unused


@pytest.mark.parametrize("requests", range(1, 12))
async def test_a_budget_may_end_anywhere(requests):
    result = await searched(
        Branching(3), {"budget": Budget(requests=requests)}, simulations=20, branching=2, in_flight=2, rollouts=1
    )
    assert result.ended == "budget"
    assert result.candidates
    assert sum_usage(result.needed.values()).requests <= requests
    assert sum(one.usage.requests for one in result.candidates[-1:]) <= requests


async def test_a_server_that_dies_ends_the_search_with_what_it_found():
    world = Branching(3)

    def dying(request: dict[str, Any]) -> Any:
        if sum(world.said.values()) >= 8:
            raise ConnectionError("gone")
        return world.step(request)

    strategy = Mcts(step="\n", simulations=20, branching=2)
    async with asyncio.timeout(120):
        mortal = MockModel(dying, max_attempts=2, retry_wait=0.001)
        result = await solve(DIGITS, strategy, mortal, verifier=VALUES, stop_early=False)
    assert any("a step after" in words for words in result.failures), result.failures
    assert 2 <= len(result.candidates) <= 4
    assert result.selected is not None
    assert not result.selected.cut_off


def rated(*logprobs: tuple[float, ...] | None) -> list[Node]:
    root = Node(answer=Continuation(session=cast(Any, None), heads={}))
    made = [replace(root.answer, samples=(Sample("x", logprobs=one),), ended="stop") for one in logprobs]
    return [Node(answer=answer, above=root, reward=0.5) for answer in made]


def test_priors_are_the_shares_of_what_the_model_thinks_of_a_step_where_it_says():
    known = Mcts(policy="puct").places(rated((log(0.5), log(0.5)), (log(0.1), log(0.4))))
    assert [place.prior for place in known] == pytest.approx([0.5 / 0.7, 0.2 / 0.7])
    for nodes in (rated((log(0.5),), None), rated((log(0.5),), ())):
        assert [place.prior for place in Mcts(policy="puct").places(nodes)] == [0.5, 0.5]
    assert [place.prior for place in Mcts(policy="uct").places(rated((log(0.9),), (log(0.1),)))] == [0.5, 0.5]


async def test_log_probabilities_are_asked_for_where_the_server_continues_by_token_ids():
    for policy in ("puct", "uct"):
        async with asyncio.timeout(120), ModelDouble(answer=lambda body, rng: f"{rng.integers(9)}\nmore") as double:
            strategy = Mcts(step="\n", policy=policy, depth=2, simulations=4)
            result = await solve(PROBLEM, strategy, endpoint(double), verifier=VALUES, stop_early=False)
        assert {"logprobs" in request.body for request in double.requests} == {policy == "puct"}
        check_exact(result, double.stats)


async def test_64_simulations_at_once_come_to_an_end():
    strategy = Mcts(step="\n", depth=4, simulations=128, in_flight=64, exploration=5)
    async with asyncio.timeout(120), ModelDouble(answer=lambda body, rng: f"{rng.integers(999)}\nmore") as double:
        result = await solve(PROBLEM, strategy, endpoint(double), verifier=VALUES, stop_early=False)
    assert read(result)[0][""] == 128
    assert not result.failures
