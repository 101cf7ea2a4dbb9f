"""Rules of stopping keep what they promise, in simulation and against brute force, live and replayed."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs.conftest import double as double
from tests.runs.conftest import endpoint as endpoint
from tests.runs.conftest import task as task
from tests.support.double import ModelDouble
from tests.support.solving import PROBLEM, check_exact
from tests.support.solving import endpoint as at
from tts import Endpoint, Experiment, registry, solve
from tts.base import decided
from tts.errors import ConfigError
from tts.stopping import (
    RULES,
    BetaPosterior,
    Certain,
    ExpectedImprovement,
    SequentialTest,
    Stopping,
    Windows,
    expected_improvement,
    lead_probability,
    majority_evidence,
)
from tts.studies.stopping import StoppingRules, stopped_at, stopping_report
from tts.types import Candidate

VOTES = [rule() for rule in RULES.values() if rule.reads == "votes"]
answers = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=30)


def winner(votes: list[Any]) -> Any:
    said = [vote for vote in votes if vote is not None]
    return max(said, key=said.count, default=None)


def changes(rule: Stopping, pools: list[list[Any]], rng: np.random.Generator) -> float:
    """How often the vote of all is another one than that at the stop, each pool in a random order."""
    wrong = 0
    for pool in pools:
        votes = [pool[i] for i in rng.permutation(len(pool))]
        wrong += winner(votes[: stopped_at(rule, votes)]) != winner(votes)
    return wrong / len(pools)


# -- what is promised -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("risk", [0.02, 0.1])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.55, 0.45), (0.4, 0.35, 0.25), (0.34, 0.33, 0.33), (0.7, 0.3)])
def test_a_sequential_test_errs_as_seldom_as_asked_whatever_the_answers_are(shares: tuple[float, ...], risk: float):
    rng, rule = np.random.default_rng(7), SequentialTest(risk=risk)
    pools = [list(rng.choice(list("abc")[: len(shares)], 24, p=shares)) for _ in range(1500)]
    assert changes(rule, pools, rng) <= risk + 3 * math.sqrt(risk * (1 - risk) / len(pools))


def test_the_worst_pool_of_a_sequential_test_errs_as_seldom_as_asked_counted_exactly():
    """Over all orders of pools of 14 samples, by dynamic programming over how many of the kind were drawn."""
    n, rule = 14, SequentialTest(risk=0.1)
    for of_kind in range(n // 2 + 1):
        alive, wrong = {(0, 0): 1.0}, 0.0
        for drawn in range(n):
            following: dict[tuple[int, int], float] = {}
            for (votes, _), chance in alive.items():
                for hit, left in ((1, of_kind - votes), (0, n - of_kind - (drawn - votes))):
                    if left > 0:
                        place = (votes + hit, drawn + 1)
                        following[place] = following.get(place, 0.0) + chance * left / (n - drawn)
            alive = {}
            for (votes, seen), chance in following.items():
                if majority_evidence(votes, seen, n) >= 1 / rule.risk:
                    wrong += chance
                else:
                    alive[votes, seen] = chance
        assert wrong <= rule.risk


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_beta_posterior_errs_as_seldom_as_asked_on_average_over_its_prior(confidence: float):
    rng, rule = np.random.default_rng(3), BetaPosterior(confidence=confidence)
    pools = [list(rng.choice(["a", "b"], 41, p=(p, 1 - p))) for p in rng.uniform(size=2000)]
    asked = 1 - confidence
    assert changes(rule, pools, rng) <= asked + 3 * math.sqrt(asked * (1 - asked) / len(pools))


@pytest.mark.parametrize(("spreads", "ahead"), [((0.02, 0.3, 3.0), 0.1), ((1.0,), -0.15), ((0.3,), -0.15)])
def test_expected_improvement_is_ahead_of_any_fixed_number_where_problems_differ_and_near_it_where_not(
    spreads: tuple[float, ...], ahead: float
):
    """By score less cost; where problems are alike it loses what three samples cost at most, told no deviation."""
    rng, cost, n = np.random.default_rng(5), 0.05, 40
    scores = rng.normal(0, 1, (400, n)) * rng.choice(spreads, 400)[:, np.newaxis]
    best = np.maximum.accumulate(scores, axis=1) - cost * np.arange(1, n + 1)
    rule = ExpectedImprovement(cost=cost)
    gained = [best[i, stopped_at(rule, list(row)) - 1] for i, row in enumerate(scores)]
    assert np.mean(gained) >= best.mean(axis=0).max() + ahead


# -- against brute force ----------------------------------------------------------------------------------------------


@given(answers, st.integers(1, 30))
def test_certain_is_where_no_vote_to_come_can_change_it(votes: list[str | None], more: int):
    n = len(votes) + more
    people = [Candidate(id=i, content="", spawned=(i,), notes={"answer": vote}) for i, vote in enumerate(votes)]
    left = Certain().more(votes, n)
    assert (left == 0) == (decided(people, n) if votes else False)
    if left:  # no fewer would do, even if all were for the lead
        lead = winner(votes) or "a"
        for fewer in range(left):
            assert Certain().more([*votes, *[lead] * fewer], n)


@given(answers, st.integers(0, 30))
def test_a_rule_asks_for_no_more_than_there_are_and_says_enough_only_once_it_has_seen_something(
    votes: list[str | None], more: int
):
    n = len(votes) + more
    for rule in VOTES:
        asked = rule.more(votes, n)
        assert 0 <= asked <= more
        assert asked == rule.more(votes, n)
        assert votes or not more or asked


def test_the_fewest_votes_of_adaptive_consistency_are_those_of_the_paper():
    fewest = {}
    for first, second in product(range(20), range(6)):
        if lead_probability(first, second) >= 0.95:
            fewest.setdefault(second, first)
    assert fewest == {0: 4, 1: 6, 2: 8, 3: 9, 4: 11, 5: 12}
    assert BetaPosterior().more([], 40) == 4
    assert BetaPosterior().more(list("aab"), 40) == 4
    grid = (np.arange(100_000) + 0.5) / 100_000
    density = grid**7 * (1 - grid) ** 3
    assert lead_probability(7, 3) == pytest.approx(density[grid > 0.5].sum() / density.sum(), abs=1e-6)


def test_the_evidence_for_a_majority_is_a_ratio_of_hypergeometric_likelihoods():
    n, drawn, first = 13, 6, 5
    chances = [
        math.comb(k, first) * math.comb(n - k, drawn - first) / math.comb(n, drawn) if k >= first else 0.0
        for k in range(n + 1)
    ]
    expected = np.mean(chances[7:]) / max(chances[:7])
    assert majority_evidence(first, drawn, n) == pytest.approx(expected)
    assert majority_evidence(7, 7, n) == math.inf


@pytest.mark.parametrize("scores", [[0.0, 0.0], [0.2, 0.9, 0.4], [0.5] * 7, [-3.0, 1.0, 4.0, 2.0]])
def test_expected_improvement_is_an_integral_over_students_t(scores: list[float]):
    n, spread = len(scores), 0.3
    scale = math.sqrt((spread**2 + sum((s - np.mean(scores)) ** 2 for s in scores)) / n * (1 + 1 / n))
    z = (max(scores) - np.mean(scores)) / scale
    x = z + np.expm1(np.linspace(0, 25, 2_000_001))
    density = math.gamma((n + 1) / 2) / math.gamma(n / 2) / math.sqrt(n * math.pi) * (1 + x**2 / n) ** (-(n + 1) / 2)
    assert expected_improvement(scores, spread) == pytest.approx(scale * np.trapezoid((x - z) * density, x), rel=1e-3)


def test_windows_end_where_one_is_unanimous():
    rule = Windows(size=3)
    assert stopped_at(rule, list("abaaaabbbb")) == 6
    assert stopped_at(rule, list("ababababab")) == 10
    assert rule.more(["a", "a", None], 9) == 3  # no answer is no agreement


# -- live and replayed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["certain", "beta", "sequential", "windows(size=3)"])
async def test_what_is_drawn_is_what_the_rule_takes_and_nothing_is_cancelled(rule: str):
    async with ModelDouble(answer=lambda *_: "Answer: 42", latency=(0, 0.01)) as double:
        spec = f"self_consistency:n=20,stop={rule}"
        result = await solve(PROBLEM, spec, at(double), stop_early=False)
    assert registry.make("strategies", registry.make("strategies", spec).spec).spec == result.strategy
    stop = registry.make("strategies", spec).stop
    assert len(result.candidates) == stopped_at(stop, ["42"] * 20) < 20
    assert result.ended == "complete"
    check_exact(result, double.stats)


async def test_a_stored_run_replays_to_what_was_stopped_live(task: str, endpoint: Endpoint, tmp_path: Path):
    endpoint = endpoint.model_copy(update={"params": {"seed": 3}})
    vote = "self_consistency:n=12,answer=exact_answer"
    table = {"task": task, "models": endpoint, "strategies": [vote, f"{vote},stop=beta"]}
    run = await Experiment.parse(table).run(tmp_path / "run")
    whole, stopped = run.tracks
    rule = BetaPosterior()
    lengths = {row.problem: stopped_at(rule, said) for row, said in zip(whole.rows, whole.answers, strict=True)}
    assert lengths == {row.problem: len(part) for row, part in zip(stopped.rows, stopped.correct, strict=True)}
    assert stopped.paid() == {}  # all of it was there
    (report,) = stopping_report(run, VOTES, orders=3)
    assert [one.rule for one in report.rules] == ["certain", "beta", "sequential", "windows"]
    certain, beta, sequential, _ = report.rules
    assert certain.changed == 0
    assert certain.samples >= sequential.samples >= beta.samples
    assert certain.low <= certain.accuracy <= certain.high
    found = StoppingRules(rules=(rule,)).findings({"": run})
    assert found.data[0]["rules"][0]["rule"] == "beta"


async def test_best_of_n_stops_where_a_sample_is_not_worth_its_cost(task: str, endpoint: Endpoint, tmp_path: Path):
    specs = [f"best_of_n:n=10{stop},verifier=oracle" for stop in ("", ",stop=improvement(cost=0.02)")]
    run = await Experiment.parse({"task": task, "models": endpoint, "strategies": specs}).run(tmp_path / "run")
    whole, stopped = run.tracks
    drawn = {row.problem: len(part) for row, part in zip(stopped.rows, stopped.correct, strict=True)}
    for row, said in zip(whole.rows, whole.correct, strict=True):
        evidence = [math.inf if right else 0.0 for right in said]
        (drawn,) = [
            len(part) for one, part in zip(stopped.rows, stopped.correct, strict=True) if one.problem == row.problem
        ]
        assert drawn == stopped_at(ExpectedImprovement(cost=0.02), evidence)
    (report,) = stopping_report(run, [ExpectedImprovement(cost=0.02)])
    assert report.rules[0].samples < 10


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("self_consistency:stop=improvement", "use: certain, beta, sequential, windows"),
        ("best_of_n:stop=beta", "use: improvement"),
        ("self_consistency:stop=sometimes", "no rule 'sometimes'; there are: certain"),
        ("self_consistency:stop=beta(confidence=2)", "confidence"),
        ("self_consistency:stop=beta,weighted=true", "leave out weighted"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_with_those_that_do(spec: str, words: str):
    with pytest.raises(ConfigError, match=words):
        registry.make("strategies", spec)


async def test_a_run_without_samples_to_replay_says_what_it_takes(task: str, endpoint: Endpoint, tmp_path: Path):
    table = {"task": task, "models": endpoint, "strategies": ["self_consistency:n=3,stop=certain,answer=exact_answer"]}
    run = await Experiment.parse(table).run(tmp_path / "run")
    with pytest.raises(ConfigError, match="without stop"):
        stopping_report(run, VOTES)
