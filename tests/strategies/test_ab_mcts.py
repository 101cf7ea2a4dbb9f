"""Adaptive branching: its draws follow the posterior distributions, its tree the draws, and its requests the tree."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.branching import Memory, chance
from tests.support.double import ModelDouble
from tests.support.solving import PROBLEM, check_exact, endpoint
from tts.base import Verifier
from tts.errors import ConfigError
from tts.sampler.mock import MockModel
from tts.session import Session
from tts.solving import solve
from tts.strategies.ab_mcts import AbMcts, Refined, mixed_draws, worn_out
from tts.types import Budget, Candidate, Problem, Result, Scale, Verdict, sum_usage

Body = dict[str, Any]


class Chance(Verifier):
    """Scores a text by `chance`, with words; after some time where `seconds` says so."""

    scale: ClassVar[Scale | None] = "positive"
    seconds: float = 0.0
    factor: float = 1.0

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        await asyncio.sleep(self.seconds * chance(f"{candidate.content} {self.factor}"))
        return Verdict(self.factor * chance(candidate.content), feedback=f"said of {candidate.content}")


def author(body: Body, rng: Any) -> str:
    """New answers are a, b, c, ...; what is made of one is the one and a letter."""
    told = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
    return f"{told[-1] if told else ''}{'abcdefghijklmnopqrstuvwxyz'[rng.integers(26)]}"


async def searched(strategy: AbMcts, answer: Any = author, **options: Any) -> tuple[Result, ModelDouble]:
    async with asyncio.timeout(120), ModelDouble(answer=answer) as double:
        settings = {"verifier": Chance(), "stop_early": False, **options}
        return await solve(PROBLEM, strategy, endpoint(double), **settings), double


# -- draws -----------------------------------------------------------------------------------------------------------

SCORES = [[], [0.3], [0.9, 0.8, 0.85], [0.0] * 6, [0.0, 1.0, 1.0, 0.0, 1.0]]


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("prior", [None, 0.7])
def test_normal_draws_have_the_mean_and_spread_of_the_posterior(scores, prior):
    strategy, rng = AbMcts(prior=prior), np.random.default_rng(0)
    draws = np.array([strategy.draw(scores, rng) for _ in range(20_000)])
    n, m = len(scores), prior or 0.0
    x = np.mean(scores) if scores else 0.0
    centre = (m + n * x) / (1 + n)
    tau2 = (0.1 + sum((s - x) ** 2 for s in scores) + n * (m - x) ** 2 / (1 + n)) / (1 + n)
    scale = (tau2 / (1 + n)) ** 0.5  # the marginal distribution is Student's t with 1 + n degrees of freedom
    quartile = {0: 1.0, 1: 0.8165, 3: 0.7407, 5: 0.7176, 6: 0.7111}[n]
    low, middle, high = np.quantile(draws, [0.25, 0.5, 0.75])
    assert middle == pytest.approx(centre, abs=0.05 * scale)
    assert (low, high) == pytest.approx((centre - quartile * scale, centre + quartile * scale), abs=0.06 * scale)


@pytest.mark.parametrize("scores", SCORES)
def test_beta_draws_have_the_mean_of_the_posterior(scores):
    strategy, rng = AbMcts(model="beta"), np.random.default_rng(0)
    draws = [strategy.draw(scores, rng) for _ in range(20_000)]
    a, b = 0.5 + sum(scores), 0.5 + len(scores) - sum(scores)
    assert np.mean(draws) == pytest.approx(a / (a + b), abs=0.01)
    assert np.var(draws) == pytest.approx(a * b / (a + b) ** 2 / (a + b + 1), abs=0.005)


@pytest.mark.parametrize(
    "groups", [[[0.5]], [[0.1, 0.2, 0.15], [0.8, 0.9]], [[0.3], [0.35, 0.7, 0.2], [0.6, 0.5], [0.0, 1.0]]]
)
def test_mixed_draws_are_those_of_brute_force(groups):
    """Parameters drawn from their prior, each draw weighed by the likelihood of all scores."""
    rng = np.random.default_rng(1)
    draws = np.array([mixed_draws(groups, rng) for _ in range(3000)])
    many = 800_000
    mean, spread = rng.normal(0.5, 0.2, many), np.abs(rng.normal(0, 0.2, many))
    noise = np.abs(rng.normal(0, 0.3, many))
    levels = mean[:, None] + spread[:, None] * rng.normal(size=(many, len(groups) + 1))
    logs = np.zeros(many)
    for place, group in enumerate(groups):
        for score in group:
            logs += -np.log(noise) - (score - levels[:, place]) ** 2 / (2 * noise**2)
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    expected = weights @ levels
    deviation = np.sqrt(weights @ (levels**2 + noise[:, None] ** 2) - expected**2)
    assert 1 / (weights**2).sum() > 500
    assert draws.mean(0) == pytest.approx(expected, abs=0.03)
    assert draws.std(0) == pytest.approx(deviation, rel=0.1)


def test_a_group_is_worn_out_when_three_quarters_of_four_scores_are_one():
    assert [worn_out(scores) for scores in ([1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0, 0])] == [
        False,
        True,
        False,
        False,
    ]


# -- the tree --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1)), max_size=30))
def test_every_node_knows_the_scores_of_its_kin(made):
    """Against definitions: its own score and those below; those of its children; those further down."""
    root = Refined()
    nodes, scores = [root], {}
    for number, (parent, score) in enumerate(made):
        above = nodes[parent % len(nodes)]
        above.gained(None, str(number), score)  # pyright: ignore[reportArgumentType] - the tree does not look at it
        nodes.append(above.below[-1])
        scores[above.below[-1]] = score

    def under(node: Refined) -> list[float]:
        return [score for child in node.below for score in (scores[child], *under(child))]

    for node in nodes:
        own = [scores[node]] if node is not root else []
        assert Counter(node.direct) == Counter(scores[child] for child in node.below)
        assert Counter(node.deeper) == Counter(under(node)) - Counter(node.direct)
        assert node is root or Counter(node.scores) == Counter([*own, *under(node)])


def walk(strategy: AbMcts, tree: dict[str, float], rng: np.random.Generator) -> str:
    """The choice of variant A, by name, from nothing but the scores by name."""

    def below(name: str) -> list[str]:
        return [other for other in tree if other.startswith(f"{name}." if name else "")]

    name = ""
    while under := below(name):
        depth = name.count(".") + 2 if name else 1
        children = [other for other in under if other.count(".") + 1 == depth]
        new = strategy.draw([tree[one] for one in children], rng)
        deeper = [tree[one] for one in under if one not in children]
        if new >= strategy.draw(deeper, rng):
            return name
        draws = [strategy.draw([tree[one], *(tree[other] for other in below(one))], rng) for one in children]
        name = children[int(np.argmax(draws))]
    return name


@settings(max_examples=15, deadline=None)
@given(model=st.sampled_from(["gaussian", "beta"]), n=st.integers(1, 25), seed=st.integers(0, 50))
def test_answers_stand_where_a_plain_reference_puts_them(model, n, seed):
    strategy = AbMcts(n=n, model=model)
    result, _ = asyncio.run(searched(strategy, seed=seed))
    rng = Session(PROBLEM, {}, seed=seed, stream=strategy.spec).rng
    tree: dict[str, float] = {}
    begun: Counter[str] = Counter()
    for candidate in sorted(result.candidates, key=lambda one: one.spawned):
        above = walk(strategy, tree, rng)
        name = f"{above}.{begun[above]}" if above else str(begun[above])
        begun[above] += 1
        assert candidate.notes["node"] == name
        tree[name] = chance(candidate.content)
    assert len(tree) == n


class Refining(Verifier):
    """Each time that an answer is made of another one changes its score by `gain`."""

    scale: ClassVar[Scale | None] = "positive"
    gain: float = 0.15

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        return Verdict(min(1.0, max(0.0, 0.3 + self.gain * (len(candidate.content) - 1))), False, "more")


@pytest.mark.parametrize("model", ["gaussian", "beta", "mixed"])
async def test_the_search_goes_deep_where_that_helps_and_wide_where_it_does_not(model):
    async def depth(gain: float) -> float:
        found = [await searched(AbMcts(n=24, model=model), verifier=Refining(gain=gain), seed=i) for i in range(4)]
        return fmean(len(one.content) for result, _ in found for one in result.candidates)

    assert await depth(0.35) > await depth(-0.3) + 0.3


# -- requests and costs ----------------------------------------------------------------------------------------------


async def test_what_is_made_of_an_answer_is_asked_with_the_words_about_it():
    result, double = await searched(AbMcts(n=12, refine_prompt="Better, please: $feedback"))
    check_exact(result, double.stats)
    by_name = {one.notes["node"]: one for one in result.candidates}
    for request in double.requests:
        told = request.body["messages"]
        if len(told) == 1:
            continue
        assert [message["role"] for message in told] == ["user", "assistant", "user"]
        assert told[2]["content"] == f"Better, please: said of {told[1]['content']}"
    for name, candidate in by_name.items():
        above = by_name.get(name.rpartition(".")[0])
        assert candidate.parents == ((above.id,) if above else ())
        assert candidate.content[:-1] == (above.content if above else "")
    last = max(result.candidates, key=lambda one: one.spawned)
    assert last.usage == sum_usage(result.needed.values())
    assert not result.unused


@settings(max_examples=8, deadline=None)
@given(in_flight=st.integers(2, 6), seed=st.integers(0, 20))
def test_a_resumed_search_takes_its_answers_in_the_order_of_the_first_run(in_flight, seed):
    strategy, store = AbMcts(n=14, in_flight=in_flight), Memory()

    async def twice() -> list[Result]:
        async with asyncio.timeout(120), ModelDouble(answer=author) as double:
            options: Any = {"stop_early": False, "store": store, "seed": seed}
            both = [
                await solve(PROBLEM, strategy, endpoint(double), verifier=Chance(seconds=seconds), **options)
                for seconds in (0.01, 0.005)
            ]
            assert double.stats.received == 14
        return both

    once, again = asyncio.run(twice())

    def told(result: Result) -> list[Any]:
        return [(one.spawned, one.content, one.notes, one.charges) for one in result.candidates]

    assert told(once) == told(again)
    assert len(once.candidates) == 14


async def test_scores_that_are_none_are_refused_with_what_to_do_and_odd_ones_are_not_lost():
    with pytest.raises(ConfigError, match="from 0 to 1"):
        await searched(AbMcts(n=4), verifier=Chance(factor=7.0))
    result, _ = await searched(AbMcts(n=6), verifier=Chance(factor=float("nan")))
    assert len(result.candidates) == 6
    assert {one.notes["node"] for one in result.candidates} == set("012345")
    assert any("not a finite number" in words for words in result.failures)


@pytest.mark.parametrize("requests", [1, 2, 5])
async def test_a_budget_that_ends_loses_nothing(requests):
    result, double = await searched(AbMcts(n=9, in_flight=3), budget=Budget(requests=requests))
    assert result.ended == "budget"
    assert len(result.candidates) == requests == double.stats.received


async def test_a_failed_call_counts_as_a_try_and_not_as_a_score():
    calls = 0

    def dying(request: Body) -> str:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise ConnectionError("gone")
        return "a" * len(request["messages"])

    async with asyncio.timeout(120):
        mortal = MockModel(dying, max_attempts=2, retry_wait=0.001)
        result = await solve(PROBLEM, AbMcts(n=10), mortal, verifier=Chance(), stop_early=False)
    assert len(result.candidates) == 4
    assert sum(bool(re.match("answer [0-9]", words)) for words in result.failures) == 6


async def test_it_stops_at_an_answer_that_is_accepted():
    verifier = "numeric_answer(reference=42)"
    result, _ = await searched(
        AbMcts(n=50),
        lambda body, rng: f"Answer: {42 if len(body['messages']) > 1 else 7}",
        verifier=verifier,
        stop_early=True,
    )
    assert result.ended == "settled"
    assert result.text == "Answer: 42"
