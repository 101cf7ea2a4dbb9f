"""Searches over steps do what a straightforward form of each does, and pay for every branch that they look at."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.rewards import RewardDouble
from tests.support.solving import PROBLEM, check_account, check_exact, endpoint, settle
from tests.support.steps import RAW, StepWorld, Worth, one_by_one, worth, written
from tts import registry
from tts.base import Verifier
from tts.continuation import Continuation
from tts.errors import ConfigError
from tts.sampler import Endpoint, Sampler
from tts.sampler.mock import MockModel
from tts.session import Session
from tts.solving import solve
from tts.strategies.beam_search import BeamSearch
from tts.strategies.particle_filter import ParticleFilter
from tts.strategies.rebase import Rebase
from tts.strategies.stepwise import Node, StepSearch
from tts.types import Budget, Candidate, Charge, Problem, Result, Scale, Verdict, total

STEPS = {"step": "\n"}
SEARCHES = ["beam_search", "dvts", "rebase", "particle_filter"]
ALSO_EAGER = [*SEARCHES, "particle_filter/eager"]
"""With a filter that waits for two fifths of its particles alone."""


async def searched(strategy: StepSearch, world: StepWorld, **options: Any) -> tuple[Result, ModelDouble]:
    async with asyncio.timeout(120), world.double() as double:
        options = {"verifier": Worth(), "stop_early": False, **options}
        result = await solve(options.pop("problem", PROBLEM), strategy, one_by_one(double), **options)
    return result, double


def made(name: str, **fields: Any) -> StepSearch:
    if name.endswith("/eager"):
        name, fields = name.removesuffix("/eager"), {"wait_for": 0.4, **fields}
    return registry.make("strategies", {"name": name, **STEPS, **fields})


def texts(result: Result) -> Counter[str]:
    return Counter(candidate.content for candidate in result.candidates)


# -- against straightforward forms -------------------------------------------------------------------------------------


@dataclass
class Reference:
    """Grows answers in the same world, and counts what it asks for."""

    world: StepWorld
    steps: int = 0

    def next_steps(self, text: str, n: int) -> list[str]:
        self.steps += n
        first = self.world.asked[text]
        self.world.asked[text] += n
        return [text + self.world.step(text, first + i) for i in range(n)]


def done(text: str) -> bool:
    return bool(text) and not text.endswith("\n")


def beam_search(world: Reference, n: int, width: int, depth: int) -> list[str]:
    beam, found = [""], []
    while depth and beam and len(found) < n:
        places = n - len(found)
        beam = sorted(beam, key=worth, reverse=True)[: math.ceil(places / width)]
        turns = [beam[i % len(beam)] for i in range(places)]
        children = [child for one in beam for child in world.next_steps(one, turns.count(one))]
        found += filter(done, children)
        beam = [child for child in children if not done(child)]
        depth -= 1
    return found + sorted(beam, key=worth, reverse=True)[: max(0, n - len(found))]


def rebase(world: Reference, n: int, temperature: float, depth: int) -> list[str]:
    found, beam, shares = [], [""], [n]
    while depth and beam and len(found) < n:
        children = [c for one, share in zip(beam, shares, strict=True) if share for c in world.next_steps(one, share)]
        found += filter(done, children)
        beam = sorted((c for c in children if not done(c)), key=worth, reverse=True)
        places, powers = n - len(found), [math.exp(worth(c) / temperature) for c in beam]
        shares = []
        for i, power in enumerate(powers):
            shares.append(math.ceil(places * power / sum(powers[i:])))
            places -= shares[-1]
        depth -= 1
    return found + beam[: max(0, n - len(found))]


def dvts(world: Reference, n: int, width: int, depth: int) -> list[str]:
    found = []
    firsts = [world.next_steps("", width) for _ in range(n // width)]
    for children in firsts:
        best = ""
        for level in range(depth):
            children = children if level == 0 else world.next_steps(best, width)
            found += filter(done, children)
            best = max(children, key=worth)
            if done(best):
                break
        found += [] if done(best) else [best]
    return found


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6), n=st.integers(1, 9), width=st.integers(1, 4), depth=st.integers(1, 6), data=st.data()
)
async def test_what_is_found_chosen_and_asked_for_is_what_the_plain_form_finds(
    seed: int, n: int, width: int, depth: int, data: Any
) -> None:
    name = data.draw(st.sampled_from(["beam_search", "rebase", "dvts"]))
    world = StepWorld(seed=seed)
    plain = Reference(StepWorld(seed=seed))
    if name == "beam_search":
        strategy, expected = made(name, n=n, width=width, depth=depth), beam_search(plain, n, width, depth)
    elif name == "rebase":
        strategy, expected = made(name, n=n, temperature=width / 4, depth=depth), rebase(plain, n, width / 4, depth)
    else:
        strategy, expected = made(name, n=n * width, width=width, depth=depth), dvts(plain, n * width, width, depth)
    result, double = await searched(strategy, world)
    assert texts(result) == Counter(expected)
    finished = [text for text in expected if done(text)] or expected
    assert result.text == max(finished, key=worth)
    assert double.stats.choices == plain.steps
    assert world.asked == plain.world.asked
    check_exact(result, double.stats)
    everything = result.loose.union(*(candidate.charges for candidate in result.candidates))
    assert total(everything).completion_tokens == double.stats.completion_tokens


@pytest.mark.parametrize(
    ("values", "room", "shares"),
    [
        ([0.9, 0.7, 0.5], 8, [6, 2, 0]),  # 8 / 1.503 = 5.3; 2 * 0.368 / 0.503 = 1.5
        ([0.9, 0.8, 0.7, 0.6], 16, [8, 5, 2, 1]),  # 16 / 2.197 = 7.3; 8 * 0.607 / 1.197 = 4.1; 3 * 0.368 / 0.591 = 1.9
        ([0.5] * 4, 4, [1, 1, 1, 1]),
        ([0.5] * 4, 6, [2, 2, 1, 1]),
        ([0.9, 0.1, 0.1, 0.1], 1, [1, 0, 0, 0]),
        ([0.5, -math.inf], 3, [3, 0]),
        ([-math.inf] * 2, 4, [2, 2]),
        ([1000.0, 0.0], 5, [5, 0]),
    ],
)
def test_widths_are_shared_out_by_hand_in_the_same_way(values: list[float], room: int, shares: list[int]) -> None:
    assert Rebase().widths(values, room) == shares


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(1, 64), st.floats(0.01, 10))
def test_widths_use_all_the_room_and_the_better_has_no_less(values: list[float], room: int, temperature: float) -> None:
    values = sorted(values, reverse=True)
    shares = Rebase(temperature=temperature).widths(values, room)
    assert sum(shares) == room
    assert shares == sorted(shares, reverse=True) or max(np.diff(shares)) <= 1
    chances = np.exp((np.array(values) - values[0]) / temperature)
    assert shares[0] == math.ceil(room * chances[0] / chances.sum() - 1e-9)


async def test_subtrees_know_nothing_of_each_other() -> None:
    """What one finds does not change where the others' steps are rated otherwise."""

    class Partly(Worth):
        def check(self, problem: Problem, candidate: Candidate) -> float:
            known = candidate.content.startswith(("0 ", "1 ", "2 "))
            return worth(candidate.content) if known else 1 - worth(candidate.content)

    async def found(verifier: Verifier) -> dict[int, list[str]]:
        result, _ = await searched(made("dvts", n=9, width=3), StepWorld(seed=4), verifier=verifier)
        groups: dict[int, list[str]] = {0: [], 1: [], 2: []}
        for candidate in sorted(result.candidates, key=lambda candidate: candidate.spawned):
            groups[candidate.spawned[0]].append(candidate.content)
        return groups

    one, other = await found(Worth()), await found(Partly())
    assert one[0] == other[0]
    assert (one[1], one[2]) != (other[1], other[2])
    alone, _ = await searched(made("dvts", n=3, width=3), StepWorld(seed=4))
    assert [candidate.content for candidate in alone.candidates] == one[0]  # a smaller budget is a part of a larger one


def node(*rewards: float | None) -> Node:
    """A node after steps with these rewards."""
    found = Node(answer=Continuation(session=None, heads={}))  # pyright: ignore[reportArgumentType]
    for reward in rewards:
        found = Node(answer=found.answer, above=found, reward=reward)
    return found


@pytest.mark.parametrize(("aggregate", "value"), [("last", 0.5), ("min", 0.2), ("prod", 0.08), ("mean", 0.5)])
def test_the_rewards_of_steps_make_the_value_of_an_answer(aggregate: Any, value: float) -> None:
    search = BeamSearch(aggregate=aggregate)
    assert search.value(node(0.8, 0.2, 0.5)) == pytest.approx(value)
    assert search.value(node(0.8, 0.2, None)) == -math.inf
    assert (search.value(node(None, 0.5)) == -math.inf) == (aggregate != "last")
    best = [node(0.1), node(None), node(0.9), node(0.1)]
    assert search.best_first(best) == [best[2], best[0], best[3], best[1]]


def test_a_chain_of_steps_may_be_as_long_as_it_likes() -> None:
    long = node(*[0.5] * 5000)
    assert long.depth == 5000
    assert BeamSearch(aggregate="mean").value(long) == pytest.approx(0.5)


# -- particles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resampling", ["systematic", "multinomial"])
def test_particles_are_drawn_in_proportion_to_the_odds(resampling: Any) -> None:
    rewards = [0.1, 0.5, 0.8, 0.9]
    odds = np.array([1 / 9, 1, 4, 9])
    particles, rng = [node(reward) for reward in rewards], np.random.default_rng(1)
    search, rounds, size = ParticleFilter(resampling=resampling), 3000, 6
    counts = np.zeros(4)
    for _ in range(rounds):
        drawn = search.drawn(particles, size, 0, rng)
        assert len(drawn) == size
        each = np.array([drawn.count(particle) for particle in particles])
        if resampling == "systematic":  # which differs from its expectation by less than one
            assert (abs(each - size * odds / odds.sum()) < 1).all()
        counts += each
    expected = rounds * size * odds / odds.sum()
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 16.3  # 0.1 % at three degrees of freedom; systematic draws vary less


def test_weights_are_flat_at_first_where_they_are_told_to_be_and_what_is_unknown_has_none() -> None:
    search = ParticleFilter(start_temperature=1.0, cooling=4)
    particles = [node(0.8), node(0.5), node(None)]
    for number, power in ((0, 1 / 2), (2, 2 / 3), (4, 1), (9, 1)):
        weights = np.array([4**power, 1, 0])
        assert search.weights(particles, number) == pytest.approx(weights / weights.sum())
    assert search.weights([node(None)] * 4, 0) == pytest.approx([0.25] * 4)
    assert search.weights([node(0.0), node(1.0)], 9) == pytest.approx([0, 1], abs=1e-6)


STEP_REWARDS = {"a\n": 0.8, "b\n": 0.4, "a\na\n": 0.3, "a\nb\n": 0.7, "b\na\n": 0.9, "b\nb\n": 0.2}
ANSWERS = {f"{one}{two}{end}": 0.5 + 0.1 * i for i, (one, two, end) in enumerate(product("ab", "ab", "xy"))}
REWARDS = STEP_REWARDS | {"\n".join(answer): reward / 1.5 for answer, reward in ANSWERS.items()}
CHANCES = {"a": 0.3, "b": 0.7, "x": 0.6, "y": 0.4}


class Tabled(Verifier):
    """Rates by the table of a world with eight answers."""

    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    def check(self, problem: Problem, candidate: Candidate) -> float:
        return REWARDS[candidate.content]


def odds(reward: float) -> float:
    return reward / (1 - reward)


def tilted() -> dict[str, float]:
    """By answer: its chance times the odds of all its steps, which the particles stand for."""
    return {
        answer: math.prod(CHANCES[letter] for letter in answer)
        * math.prod(odds(REWARDS["\n".join(answer)[: 2 * i + 2]]) for i in range(3))
        for answer in ANSWERS
    }


@pytest.mark.parametrize("resampling", ["systematic", "multinomial"])
async def test_what_the_particles_estimate_is_right_on_average(resampling: Any) -> None:
    """The mean of all mean weights, times the share of an event, has the exact sum over all answers as expectation."""
    rng = np.random.default_rng(7)

    def tiny(body: dict[str, Any]) -> str:
        last = written(body).count("\n") == 2
        pair = "xy" if last else "ab"
        return pair[int(rng.random() >= CHANCES[pair[0]])] + ("" if last else "\n")

    means: list[float] = []

    class Watched(ParticleFilter):
        def weights(self, particles: Sequence[Node], number: int) -> Any:
            means.append(float(np.mean([odds(self.value(one)) for one in particles])))
            return super().weights(particles, number)

    model, search = MockModel(tiny, max_n=64), Watched(n=4, resampling=resampling, step="\n")
    exact, found, event = tilted(), [], []
    for seed in range(250):
        means.clear()
        result = await solve(RAW, search, model, verifier=Tabled(), seed=seed, stop_early=False)
        assert len(means) == 2
        assert len(result.candidates) == 4
        answers = [candidate.content.replace("\n", "") for candidate in result.candidates]
        last = np.array([odds(REWARDS["\n".join(answer)]) for answer in answers])
        found.append(math.prod(means) * last.mean())
        event.append(math.prod(means) * (last * [answer.startswith("a") for answer in answers]).mean())
    for values, truth in (
        (found, sum(exact.values())),
        (event, sum(weight for answer, weight in exact.items() if answer.startswith("a"))),
    ):
        error = np.std(values) / math.sqrt(len(values))
        assert abs(np.mean(values) - truth) < 4 * error
        assert error < 0.1 * truth  # so that the check says something


async def test_filters_are_independent_and_the_first_ones_are_a_smaller_search() -> None:
    result, _ = await searched(made("particle_filter", n=7, filters=3), StepWorld(seed=2))
    assert Counter(candidate.spawned[0] for candidate in result.candidates) == {0: 3, 1: 2, 2: 2}
    alone, _ = await searched(made("particle_filter", n=3), StepWorld(seed=2))
    assert len(alone.candidates) == 3
    more, _ = await searched(made("particle_filter", n=2, filters=5), StepWorld(seed=2))
    assert len(more.candidates) == 2


async def test_particles_that_are_slow_hold_up_only_a_filter_that_waits_for_all() -> None:
    """Once `wait_for` of the particles have their step, those are drawn from and go on."""

    for wait_for, seconds in ((1.0, 0.1), (0.5, 1.5)):  # a busy machine is no slower than that

        def slow(body: dict[str, Any], index: int, seconds: float = seconds) -> float:
            return seconds if written(body)[:1] in tuple("0123") else 0.0

        world = StepWorld(ends=0.0, longest=5)
        async with asyncio.timeout(120), world.double(latency=slow) as double:
            search = made("particle_filter", n=8, wait_for=wait_for)
            result = await solve(PROBLEM, search, endpoint(double), verifier=Worth(), stop_early=False)
            check_exact(result, double.stats)
        levels = [written(request.body).count("\n") for request in double.requests]
        assert (levels == sorted(levels)) == (wait_for == 1)
        assert len(result.candidates) == 8
        assert not any(candidate.cut_off for candidate in result.candidates)


# -- accounts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALSO_EAGER)
@pytest.mark.parametrize("fields", [{}, {"lookahead": 2}, {"rollouts": 2}], ids=str)
async def test_a_candidate_pays_for_all_that_was_looked_at_before_it_and_the_sum_is_the_servers(
    name: str, fields: dict[str, Any]
) -> None:
    world = StepWorld(seed=3)
    result, double = await searched(made(name, n=6, **fields), world)
    check_exact(result, double.stats)
    parts: dict[tuple[int, ...], frozenset[Charge]] = {}
    for candidate in sorted(result.candidates, key=lambda candidate: candidate.spawned):
        part = candidate.spawned[: -2 if name.startswith(("dvts", "particle_filter")) else 0]
        before = parts.get(part, frozenset())
        assert before <= candidate.charges  # never less than what came before
        parts[part] = candidate.charges
    assert total(frozenset().union(*parts.values())).completion_tokens == double.stats.completion_tokens
    assert not total(result.loose).requests
    recorded = [one for candidate in result.candidates for one in candidate.notes["tree"] if "tokens" in one]
    assert len({record["node"] for record in recorded}) == len(recorded)
    if not fields:
        assert sum(record["tokens"] for record in recorded) == double.stats.completion_tokens


@pytest.mark.parametrize("route", ["route=classify", "route=pooling", "route=score", 'separator="<step>"'])
@pytest.mark.parametrize("faults", [{}, {"lists": False}, {"withheld": 1}], ids=["", "no lists", "one is missing"])
async def test_siblings_are_rated_in_one_request_where_the_server_takes_lists(
    route: str, faults: dict[str, Any]
) -> None:
    """And as they would be alone; the sum of what they cost is the server's."""
    verifier, world = f'process_reward:step="\n",{route}', StepWorld(ends=0.0, longest=4)
    async with asyncio.timeout(120), world.double() as double, RewardDouble(reward=worth, **faults) as rewards:
        models = {"policy": one_by_one(double), "reward": Endpoint(model="reward", base_url=rewards.base_url)}
        result = await solve(RAW, made("beam_search", n=6, width=3), models, verifier=verifier, stop_early=False)
    records = [record for candidate in result.candidates for record in candidate.notes["tree"]]
    assert len(records) == 6 * 4
    above = {record["node"]: record["text"] for record in records}
    for record in records:
        parts = record["node"].split(".")
        text = "".join(above[".".join(parts[: i + 1])] for i in range(len(parts)))
        if route == "route=score":
            assert record["reward"] == worth(text.strip())
    listed = [body for _, body in rewards.asked if isinstance(body.get("input", body.get("text_2")), list)]
    single = len(rewards.asked) - len(listed)
    assert len(listed) == (1 if "lists" in faults else 1 + 2 * 3)
    assert single == (6 * 4 if faults else 0)
    assert result.spent["reward"].prompt_tokens == rewards.prompt_tokens
    known = result.loose.union(*(candidate.charges for candidate in result.candidates))
    assert total(one for one in known if one.role == "reward").prompt_tokens == rewards.prompt_tokens


async def test_what_is_seen_ahead_rates_a_step_and_is_thrown_away_but_paid() -> None:
    seen: list[str] = []

    class Listening(Worth):
        def check(self, problem: Problem, candidate: Candidate) -> float:
            seen.append(candidate.content)
            return super().check(problem, candidate)

    world = StepWorld(ends=0.0, longest=4)
    result, double = await searched(made("dvts", n=2, width=2, lookahead=1, depth=2), world, verifier=Listening())
    (only,) = result.candidates
    assert only.content.count("\n") == 2
    assert only.cut_off
    assert sorted(text.count("\n") for text in seen) == [2, 2, 3, 3]
    ahead = [request.body for request in double.requests if request.body.get("temperature") == 0]
    assert len(ahead) == 4
    assert only.usage.completion_tokens == double.stats.completion_tokens


async def test_roll_outs_rate_a_step_and_are_answers_of_their_own() -> None:
    class Whole(Worth):
        rates_partial: ClassVar[bool] = False

        def check(self, problem: Problem, candidate: Candidate) -> float:
            assert done(candidate.content)
            assert not candidate.partial
            return worth(candidate.content)

    world = StepWorld(seed=1, ends=0.1)
    result, double = await searched(made("beam_search", n=4, width=2, rollouts=3, depth=3), world, verifier=Whole())
    assert not result.failures
    finished = [candidate for candidate in result.candidates if not candidate.cut_off]
    assert len(finished) > 4
    assert result.text == max((candidate.content for candidate in finished), key=worth)
    check_exact(result, double.stats)


async def test_a_roll_out_that_the_length_ends_is_no_reason_for_more_of_them() -> None:
    world = StepWorld(ends=0.0, longest=0)
    endless = ModelDouble(answer=lambda body, rng: world.step(written(body), 0) if body.get("stop") else "on " * 100)
    async with endless as double:
        model = endpoint(double, params={"max_tokens": 30})
        search = made("beam_search", n=2, width=2, rollouts=2, depth=2)
        result = await solve(PROBLEM, search, model, verifier=Worth())
    assert double.stats.choices == 2 * (2 + 2 * 2)
    assert sum(candidate.samples[-1].finish_reason == "length" for candidate in result.candidates) == 8


# -- what servers and verifiers may do ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALSO_EAGER)
@pytest.mark.parametrize(
    "fields", [{"n": 1}, {"n": 2, "width": 9}, {"n": 5, "width": 4}, {"n": 3, "width": 1}], ids=str
)
async def test_any_sizes_make_as_many_answers_as_they_say(name: str, fields: dict[str, int]) -> None:
    if name.startswith(("rebase", "particle_filter")):
        fields = {"n": fields["n"]}
    result, double = await searched(made(name, **fields), StepWorld(ends=0.0, longest=3))
    most = max(Counter(body.body["n"] for body in double.requests if "n" in body.body), default=1)
    assert most <= fields["n"]
    assert result.selected is not None
    if name != "dvts":
        assert len(result.candidates) == fields["n"]
    assert len(result.candidates) <= fields["n"]
    assert not any(candidate.cut_off for candidate in result.candidates)


Say = Callable[[dict[str, Any], Any], str]
ODD: dict[str, Say] = {
    "a stop that never comes": lambda body, rng: "x" * 5000,
    "steps of nothing": lambda body, rng: "",
    "steps of nothing but their end": lambda body, rng: "\nand on",
    "steps of white space": lambda body, rng: " \t\nand on",
    "the same step for ever": lambda body, rng: "again\nand on",
}


@pytest.mark.parametrize("name", ALSO_EAGER)
@pytest.mark.parametrize("said", ODD)
async def test_an_odd_model_ends_within_bounds_and_its_answers_are_kept(name: str, said: str) -> None:
    async with asyncio.timeout(120), ModelDouble(answer=ODD[said]) as double:
        search = made(name, n=4, depth=5, step_tokens=20)
        result = await solve(PROBLEM, search, endpoint(double), verifier=Worth(), stop_early=False)
        check_exact(result, double.stats)
    assert result.candidates
    assert result.text is not None
    assert double.stats.choices <= 5 * 4
    assert all(len(candidate.content) <= 5 * 20 for candidate in result.candidates)
    unfinished = said != "steps of nothing"
    assert all(candidate.cut_off == unfinished for candidate in result.candidates)
    assert ("unfinished" in " ".join(result.warnings)) == unfinished


@pytest.mark.parametrize("step", ["。", "🙂\u200d", "\u2028", "e\u0301", "\r\n"])
@pytest.mark.parametrize("name", SEARCHES)
async def test_a_step_may_end_with_any_text(name: str, step: str) -> None:
    def said(body: dict[str, Any], rng: Any) -> str:
        return f"Answer: {rng.integers(9)}" if written(body).count(step) == 2 else f"é {rng.integers(9)}{step}more"

    async with asyncio.timeout(120), ModelDouble(answer=said) as double:
        search = made(name, n=4, step=step)
        result = await solve(PROBLEM, search, endpoint(double), verifier=Worth(), stop_early=False)
        check_exact(result, double.stats)
    assert result.selected is not None
    assert result.selected.content.count(step) == 2
    assert not result.selected.cut_off
    texts = {record["node"]: record["text"] for one in result.candidates for record in one.notes["tree"]}
    assert all(text.endswith(step) or text.startswith("Answer") for text in texts.values())


class Rates(Verifier):
    """Says of everything what it is told to say."""

    rates_partial: ClassVar[bool] = True
    says: Any = None

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        return Verdict(float(self.says) if self.says is not None else None)


@pytest.mark.parametrize("name", ALSO_EAGER)
@pytest.mark.parametrize("says", [None, "nan", "inf", "-inf", -3.0, 0.0, 1.0])
async def test_rewards_that_say_nothing_lead_nowhere_and_lose_nothing(name: str, says: Any) -> None:
    result, double = await searched(made(name, n=4), StepWorld(), verifier=Rates(says=says))
    assert result.ended == "complete"
    assert len(result.candidates) >= (1 if name == "dvts" else 4)
    assert bool(result.failures) == (says in ("nan", "inf", "-inf"))
    check_exact(result, double.stats)


async def test_rewards_above_one_are_refused_where_only_odds_will_do_and_fine_elsewhere() -> None:
    with pytest.raises(ConfigError, match=r"rewards from 0 to 1.* gave 7\.5.*scale"):
        await searched(made("particle_filter", n=4), StepWorld(), verifier=Rates(says=7.5))
    for name in SEARCHES[:3]:
        result, _ = await searched(made(name, n=4), StepWorld(), verifier=Rates(says=7.5))
        assert result.ended == "complete"


@pytest.mark.parametrize("name", ALSO_EAGER)
async def test_some_rewards_that_are_missing_leave_those_steps_behind(name: str) -> None:
    class Partly(Worth):
        def check(self, problem: Problem, candidate: Candidate) -> Any:
            if candidate.content.startswith("1 "):
                raise ValueError("2 steps and 3 rewards")
            return worth(candidate.content)

    result, _ = await searched(made(name, n=6), StepWorld(ends=0.0), verifier=Partly())
    assert any("2 steps and 3 rewards" in failure for failure in result.failures)
    assert result.text is not None
    assert not result.text.startswith("1 ")


@pytest.mark.parametrize("name", ALSO_EAGER)
@pytest.mark.parametrize("fields", [{}, {"lookahead": 1}, {"rollouts": 1}], ids=str)
@pytest.mark.parametrize("after", [0, 1, 4])
async def test_a_server_that_dies_keeps_what_was_found(name: str, after: int, fields: dict[str, Any]) -> None:
    def dies(number: int, body: dict[str, Any]) -> Fault | None:
        return Fault(FaultKind.SERVER_ERROR) if number >= after else None

    world = StepWorld(ends=0.2)
    async with asyncio.timeout(120), world.double(faults=dies) as double:
        model = one_by_one(double, max_attempts=2)
        result = await solve(PROBLEM, made(name, n=4, **fields), model, verifier=Worth(), stop_early=False)
        check_account(result, double.stats)
    assert result.failures
    assert result.ended == "failed" or any(not candidate.cut_off for candidate in result.candidates)
    assert bool(result.candidates) == (after > 0)
    known = result.loose.union(*(candidate.charges for candidate in result.candidates))
    assert total(known).completion_tokens == double.stats.completion_tokens


@pytest.mark.parametrize("queue", [True, False], ids=["queues", "refuses"])
@pytest.mark.parametrize("name", ALSO_EAGER)
async def test_64_branches_end_on_a_server_of_few_places(name: str, queue: bool) -> None:
    world = StepWorld(ends=0.1)
    async with asyncio.timeout(120), world.double(max_running=3, queue=queue, latency=0.002) as double:
        patient = endpoint(double, max_attempts=1000)
        result = await solve(PROBLEM, made(name, n=64), patient, verifier=Worth(), stop_early=False)
        check_account(result, double.stats)
    assert not result.failures
    assert len(result.candidates) == 64 or name == "dvts"  # whose subtrees end when they do
    assert queue or double.stats.faults["busy"]


BOUNDS = 'step="\\n",step_tokens=20,depth=6'
EVERY = [
    *(f"{name}:n=4,{BOUNDS}" for name in SEARCHES),
    f"particle_filter:n=4,wait_for=0.4,{BOUNDS}",
    f"mcts:simulations=4,branching=2,in_flight=2,{BOUNDS}",
    f"mcts:simulations=4,branching=2,until=leaf,rollouts=1,rollout_share=0.5,{BOUNDS}",
    f"tree_of_thoughts:branching=2,keep=2,{BOUNDS}",
    f"tree_of_thoughts:order=depth,branching=2,nodes=9,{BOUNDS}",
    f"tree_of_frames:n=4,{BOUNDS}",
    f"staged_resampling:n=1,{BOUNDS}",
    "ab_mcts:n=6,in_flight=2",
]
AT_TAGS = 'process_reward:step="\n",separator="<step>"'


class Paying(Worth):
    """Asks a model for each verdict."""

    roles: ClassVar[frozenset[str]] = frozenset({"judge"})

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        await session.one(f"How good is {candidate.content}?", role="judge", max_tokens=5)
        return Verdict(worth(candidate.content))


BAD: dict[str, dict[str, Any]] = {
    "a stop that never comes": {"says": lambda body, rng: "x" * 5000},
    "steps of nothing": {"says": lambda body, rng: ""},
    "steps of white space": {"says": lambda body, rng: " \t\nand on"},
    "no reward": {"verifier": Rates()},
    "a reward that is no number": {"verifier": Rates(says="nan"), "told": "not a finite number"},
    "a reward without an end": {"verifier": Rates(says="-inf"), "told": "not a finite number"},
    "too few rewards": {"verifier": AT_TAGS, "rewards": {"separator": "no such"}, "told": "and 0 rewards"},
    "too many rewards": {"verifier": AT_TAGS, "rewards": {"separator": ""}, "told": r"steps and \d+ rewards"},
    "a reward model that is gone": {"verifier": AT_TAGS, "rewards": {"failing": 10**9}, "told": "out of memory"},
    "a server that is not there": {"dies": 0, "told": "500", "ended": {"failed"}},
    "a server that dies": {"dies": 2, "told": "500", "ended": {"failed", "complete"}},
    "a budget that ends before the verdict": {"verifier": Paying(), "requests": 1, "ended": {"budget"}},
    "a budget that ends between verdicts": {"verifier": Paying(), "requests": 3, "ended": {"budget"}},
}
"""What may go wrong: in the model's answers, in the rewards, in the servers, with the budget."""


@pytest.mark.parametrize("spec", EVERY)
@pytest.mark.parametrize("wrong", BAD)
async def test_whatever_goes_wrong_every_search_ends_and_what_it_found_is_there_and_paid_for(
    spec: str, wrong: str
) -> None:
    bad = BAD[wrong]
    world = StepWorld(ends=0.0 if "dies" in bad else 0.3)

    def said(body: dict[str, Any], rng: Any) -> str:
        return "fine" if body["model"] == "judge" else bad.get("says", world.answer)(body, rng)

    def dies(number: int, body: dict[str, Any]) -> Fault | None:
        return Fault(FaultKind.SERVER_ERROR) if number >= bad.get("dies", math.inf) else None

    double = ModelDouble(models=("policy", "judge"), answer=said, faults=dies)
    rewards = RewardDouble(reward=worth, **bad.get("rewards", {}))
    async with asyncio.timeout(120), double, rewards:
        models = {role: one_by_one(double, model=role, max_attempts=2) for role in double.models}
        models["reward"] = Endpoint(model="reward", base_url=rewards.base_url, max_attempts=2, retry_wait=0.001)
        budget = Budget(requests=bad.get("requests"))
        verifier = bad.get("verifier", Worth())
        result = await solve(PROBLEM, spec, models, verifier=verifier, budget=budget, stop_early=False)
    assert result.ended in bad.get("ended", {"complete"})
    assert bool(result.candidates) == (bad.get("dies") != 0)
    assert bool(result.failures) == ("told" in bad)
    assert re.search(bad.get("told", ""), " ".join(result.failures))
    assert "says" in bad or "ended" in bad or any(not candidate.cut_off for candidate in result.candidates)
    assert double.stats.choices <= 100
    known = result.loose.union(*(candidate.charges for candidate in result.candidates))
    assert total(one for one in known if one.role != "reward").completion_tokens == double.stats.completion_tokens


@pytest.mark.parametrize("name", ALSO_EAGER)
async def test_one_branch_that_fails_is_told_and_the_others_go_on(name: str) -> None:
    def one(number: int, body: dict[str, Any]) -> Fault | None:
        return Fault(FaultKind.SERVER_ERROR) if number == 2 else None

    world = StepWorld(ends=0.0, longest=4)
    async with asyncio.timeout(120), world.double(faults=one) as double:
        model = one_by_one(double, max_attempts=1)
        result = await solve(PROBLEM, made(name, n=8), model, verifier=Worth(), stop_early=False)
    assert any(failure.startswith("a step after ") for failure in result.failures)
    assert result.ended == "complete"
    assert result.selected is not None
    assert not result.selected.cut_off
    assert name != "dvts" or {candidate.spawned[0] for candidate in result.candidates} == {0, 1}


@settings(max_examples=20)
@given(
    name=st.sampled_from(ALSO_EAGER),
    requests=st.integers(1, 30),
    fields=st.sampled_from([{}, {"lookahead": 1}, {"rollouts": 1}]),
)
async def test_a_budget_that_ends_anywhere_is_kept_and_what_it_paid_for_is_there(
    name: str, requests: int, fields: dict[str, Any]
) -> None:
    """Between a step and its verdict, within a branch, or in the midst of looking ahead."""
    world = StepWorld(seed=5)
    double = ModelDouble(
        models=("policy", "judge"),
        answer=lambda body, rng: "fine" if body["model"] == "judge" else world.answer(body, rng),
    )
    async with asyncio.timeout(120), double:
        models = {role: endpoint(double, model=role, max_n=2) for role in double.models}
        budget = Budget(requests=requests)
        search = made(name, n=6, **fields)
        result = await solve(PROBLEM, search, models, verifier=Paying(), budget=budget, stop_early=False)
        check_exact(result, double.stats)
    assert double.stats.received <= requests
    assert result.ended in ("budget", "complete")
    known = result.loose.union(*(candidate.charges for candidate in result.candidates))
    assert total(known).completion_tokens == double.stats.completion_tokens
    if requests > 2 and "rollouts" not in fields:
        assert result.candidates
    finished = [candidate for candidate in result.candidates if not candidate.cut_off]
    assert not finished or result.selected in finished


async def test_a_deadline_keeps_the_answers_that_the_particles_had_finished() -> None:
    world = StepWorld(seed=1, ends=0.3, longest=9)

    def latency(body: dict[str, Any], index: int) -> float:
        return 0.0 if written(body).count("\n") < 1 else 600.0

    async with asyncio.timeout(120), world.double(latency=latency) as double:
        search, limit = made("particle_filter", n=12), Budget(seconds=4)
        result = await solve(PROBLEM, search, endpoint(double), verifier=Worth(), budget=limit)
    assert result.ended == "deadline"
    assert result.candidates
    assert all(done(candidate.content) and candidate.verdict for candidate in result.candidates)


# -- what is refused before anything is spent --------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHES)
async def test_a_search_that_cannot_work_is_refused_before_anything_is_spent(name: str) -> None:
    async with ModelDouble() as double, ModelDouble(owned_by="somebody") as hosted:
        model = {role: endpoint(double) for role in ("policy", "judge", "reward")}
        with pytest.raises(ConfigError, match=rf"can rate only whole ones.*{name}:rollouts=4"):
            await solve(PROBLEM, name, model, verifier="numeric_answer:reference=42")
        with pytest.raises(ConfigError, match="only order candidates"):
            await solve(PROBLEM, name, model, verifier="weighted:verifiers=[mean_logprob,judge]")
        with pytest.raises(ConfigError, match="needs a verifier"):
            await solve(PROBLEM, name, model)
        with pytest.raises(ConfigError, match=r"cannot be continued.*vLLM or llama\.cpp"):
            await solve(PROBLEM, name, endpoint(hosted), verifier="mean_logprob")
        with pytest.raises(ConfigError, match="not by both"):
            await solve(PROBLEM, f"{name}:lookahead=1,rollouts=1", model, verifier="judge")
        with pytest.raises(ConfigError, match="never ends"):
            await solve(PROBLEM, f'{name}:step="",step_tokens=null', model, verifier="judge")
        assert not double.stats.received
        assert not hosted.stats.choices


# -- leaving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALSO_EAGER)
async def test_a_search_that_is_left_leaves_nothing_running(name: str) -> None:
    """Neither here nor at the server, whose requests are cancelled."""
    world = StepWorld(ends=0.0, longest=0)
    async with world.double(latency=lambda body, index: 0.0 if written(body).count("\n") < 2 else 600.0) as double:
        before = asyncio.all_tasks()
        task = asyncio.ensure_future(solve(PROBLEM, made(name, n=8), endpoint(double), verifier=Worth()))
        async with asyncio.timeout(120):
            while double.stats.running == 0 or not any(written(one.body).count("\n") == 2 for one in double.requests):
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle(before, double)
        assert double.stats.cancelled


async def test_an_answer_that_is_accepted_ends_the_search_and_what_was_asked_beside_it() -> None:
    class Accepts(Worth):
        def check(self, problem: Problem, candidate: Candidate) -> Any:
            return Verdict(worth(candidate.content), done(candidate.content))

    world = StepWorld(seed=1, ends=0.3)
    async with world.double() as double:
        before = asyncio.all_tasks()
        result = await solve(PROBLEM, made("beam_search", n=8), endpoint(double), verifier=Accepts())
        await settle(before, double)
    assert result.ended == "settled"
    assert result.selected is not None
    assert result.selected.passed


async def test_an_answer_at_the_end_of_the_context_is_whole_and_has_a_name_of_its_own() -> None:
    world = StepWorld(ends=0.0, longest=0)
    async with world.double(max_model_len=80) as double, Sampler(endpoint(double)) as sampler:
        search = made("dvts", n=1, width=1)
        result = await solve(RAW, search, sampler, verifier=Worth())
        check_exact(result, double.stats)
    (only,) = result.candidates
    assert only.samples[-1].finish_reason == "length"
    records = only.notes["tree"]
    assert len({record["node"] for record in records}) == len(records)
    assert sum(record["tokens"] for record in records) == double.stats.completion_tokens
    assert replace(only, notes={}).content == "".join(record["text"] for record in records)
