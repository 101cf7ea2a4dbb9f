"""Resampling against an imperfect verifier: closed forms against every order of the samples, and simulation."""

from __future__ import annotations

from dataclasses import astuple
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.curves.brute_force import first_accepted
from tts.curves import CurveError
from tts.curves.fits import fit_line
from tts.studies.imperfect_verifier.counts import (
    Counts,
    abstention_ratio,
    best_k,
    ceiling_line,
    critical_ratio,
    false_discovery_by_attempt,
    reward_interval,
    weak_against_strong,
)
from tts.studies.judging import decisions

Pool = list[tuple[bool, bool]]
"""(accepted, correct) of each sample of a problem."""

pools = st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5), min_size=1, max_size=4)
ratios = st.sampled_from([0.0, 0.3, 1.0, 2.5]) | st.floats(0, 10)

PUBLISHED = {
    "GPT-4o": (0.855000, 0.928828),
    "Llama3.1-405B": (0.780933, 0.893268),
    "Llama3.1-70B": (0.712100, 0.869534),
    "Phi-3 Medium": (0.607867, 0.858880),
    "CodeLlama-7B": (0.286200, 0.764536),
    "Command": (0.223833, 0.773533),
    "Phi-3 Mini": (0.579096, 0.855856),
    "Llama3.1-8B": (0.550167, 0.824622),
    "Command-R": (0.368067, 0.842403),
    "CodeLlama-13B": (0.338767, 0.779149),
    "CodeT5+ 16B": (0.229800, 0.766251),
    "StarCoder": (0.214767, 0.761754),
    "Mistral 7B": (0.199533, 0.758716),
    "CodeGen 6B": (0.178867, 0.781946),
    "CodeGen2 7B": (0.112467, 0.789156),
    "Vicuna 7B": (0.091500, 0.752291),
    "Command-Light": (0.063527, 0.714769),
}
"""Single-sample and conditional accuracy on HumanEval+ (arXiv 2411.17501)."""


def counted(problems: list[Pool]) -> Counts:
    return Counts.of(
        [len(pool) for pool in problems],
        [sum(accepted for accepted, _ in pool) for pool in problems],
        [sum(accepted and right for accepted, right in pool) for pool in problems],
        [sum(right for _, right in pool) for pool in problems],
    )


def reward(pool: Pool, k: int, ratio: float) -> float:
    """The mean over all orders of what the first accepted of k samples is worth."""
    first = first_accepted([accepted for accepted, _ in pool])
    places = [first(order) for order in permutations(range(len(pool)), k)]
    worth = [0.0 if place is None else 1.0 if pool[place][1] else -ratio for place in places]
    return sum(worth) / len(worth)


@given(problems=pools, ratio=ratios)
def test_rewards_are_the_mean_over_all_orders_of_the_samples(problems: list[Pool], ratio: float):
    counts = counted(problems)
    for k in range(1, counts.most + 1):
        expected = [reward(pool, k, ratio) for pool in problems]
        assert counts.rewards(k, ratio).tolist() == pytest.approx(expected)
        if len(problems) > 1:
            assert reward_interval(counts, k, ratio).mean[0] == pytest.approx(np.mean(expected))


@given(problems=pools, ratio=ratios)
def test_the_best_k_is_the_smallest_that_nothing_beats(problems: list[Pool], ratio: float):
    counts = counted(problems)
    rewards = [0.0] + [float(np.mean([reward(pool, k, ratio) for pool in problems])) for k in range(1, counts.most + 1)]
    found = best_k(counts, ratio)
    assert found.reward == pytest.approx(max(rewards))
    assert rewards[int(found.k)] == pytest.approx(max(rewards))
    assert all(value < max(rewards) for value in rewards[: int(found.k)])
    assert found.at_most == (found.k == counts.most)


@given(problems=pools)
def test_from_the_critical_ratio_on_the_last_samples_harm(problems: list[Pool]):
    counts = counted(problems)
    critical, hopeless = critical_ratio(counts), abstention_ratio(counts)
    last = counts.rewards(counts.most, critical if np.isfinite(critical) else 1e6).mean()
    for k in range(counts.most):
        at_k = counts.rewards(k, critical if np.isfinite(critical) else 1e6).mean() if k else 0.0
        assert at_k <= last + 1e-6
    if np.isfinite(critical):
        assert best_k(counts, critical * 1.01 + 1e-6).k < counts.most
    if np.isfinite(hopeless):
        assert best_k(counts, hopeless + 1e-6).k == 0
    if 1e-6 < hopeless < np.inf:
        assert best_k(counts, hopeless * 0.99).k > 0


def test_rewards_agree_with_a_simulation_within_three_standard_errors():
    """100 random tables of counts; no more of them lie beyond than chance has there."""
    generator, scores = np.random.default_rng(5), []
    for _ in range(100):
        problems, runs, ratio = 6, 1000, generator.uniform(0, 4)
        n = generator.integers(5, 60, problems)
        accepted = generator.integers(1, n)
        right = generator.integers(0, accepted + 1)
        counts = Counts.of(n, accepted, right)
        k = int(generator.integers(1, 5))
        worth = np.zeros((runs, problems))
        for problem in range(problems):
            order = generator.permuted(np.tile(np.arange(n[problem]), (runs, 1)), axis=1)[:, :k]
            hit = order < accepted[problem]  # samples are numbered: right ones first, then the other accepted
            ended = order[np.arange(runs), hit.argmax(axis=1)]
            worth[:, problem] = np.where(ended < right[problem], 1.0, np.where(hit.any(axis=1), -ratio, 0.0))
        error = np.sqrt(worth.var(axis=0).sum() / runs) / problems
        scores.append((worth.mean() - counts.rewards(k, ratio).mean()) / error)
    assert np.mean(np.abs(scores) > 3) <= 0.01
    assert 0.8 < np.std(scores) < 1.2


@given(problems=pools)
def test_rates_without_resampling_follow_their_definitions(problems: list[Pool]):
    counts = counted(problems)
    accepted, correct = ([float(flags[side]) for pool in problems for flags in pool] for side in (0, 1))
    assert astuple(counts.decisions) == pytest.approx(astuple(decisions(accepted, correct)))
    assert counts.accuracy == pytest.approx(np.mean([np.mean([right for _, right in pool]) for pool in problems]))
    assert counts.unconditional_gap == pytest.approx(
        np.mean([np.mean([float(a) - float(r) for a, r in pool]) for pool in problems])
    )
    precisions = [float(np.mean([r for a, r in pool if a])) for pool in problems if any(a for a, _ in pool)]
    if not precisions:
        with pytest.raises(CurveError, match="accepts no sample"):
            counts.conditional_accuracy  # noqa: B018
        return
    assert counts.conditional_accuracy == pytest.approx(np.mean(precisions))
    assert counts.generalisation_gap == pytest.approx(1 - np.mean(precisions))
    silent = [0.0] * (len(problems) - len(precisions))
    assert counts.conditional_accuracy_range == pytest.approx(
        (np.mean([*precisions, *silent]), np.mean([*precisions, *[1.0] * len(silent)]))
    )


@given(problems=pools)
def test_resampling_tends_to_the_conditional_accuracy(problems: list[Pool]):
    size = np.lcm.reduce([len(pool) for pool in problems])
    counts = counted([pool * (size // len(pool)) for pool in problems])
    if len(counts.answered):
        last = counts.resampled(counts.most)
        assert (last.correct.sum() / last.accepted.sum()) == pytest.approx(counts.conditional_accuracy)


def test_the_two_soundnesses_differ_as_the_notebooks_does():
    counts = Counts.of([10, 10], [8, 2], [6, 0])
    assert counts.soundness() == pytest.approx(1 - (10 - 6) / (20 - 6))
    apparent, right, macro = 0.5, 0.3, (6 / 8 + 0) / 2
    assert counts.soundness("paper") == pytest.approx((1 - apparent - right + macro * apparent) / (1 - right))
    alike = Counts.of([10, 10], [8, 8], [6, 6])
    assert alike.soundness("paper") == pytest.approx(alike.soundness())
    with pytest.raises(CurveError, match="all are right"):
        Counts.of(3, 3, 3).soundness()


@given(problems=pools)
def test_false_discovery_by_attempt_counts_where_each_order_ends(problems: list[Pool]):
    counts = counted(problems)
    found = false_discovery_by_attempt(counts)
    ended = []  # per problem: (attempt, wrong, weight)
    for pool in problems:
        first = first_accepted([accepted for accepted, _ in pool])
        orders = list(permutations(range(len(pool)), counts.most))
        places = [(order, first(order)) for order in orders]
        ended.append(
            [
                (order.index(place) + 1, not pool[place][1], 1 / len(orders))
                for order, place in places
                if place is not None
            ]
        )
    for i, (low, high) in enumerate(zip(found.first, found.last, strict=True)):
        inside = [[(wrong, weight) for attempt, wrong, weight in runs if low <= attempt <= high] for runs in ended]
        weights = [sum(weight for _, weight in runs) for runs in inside]
        wrongs = [sum(weight for wrong, weight in runs if wrong) for runs in inside]
        assert found.stopped[i] == pytest.approx(sum(weights) / len(problems))
        expected = sum(wrongs) / sum(weights) if sum(weights) else np.nan
        assert found.false_discovery[i] == pytest.approx(expected, nan_ok=True)
        shares = [wrong / weight for wrong, weight in zip(wrongs, weights, strict=True) if weight]
        assert found.by_problem[i] == pytest.approx(np.mean(shares) if shares else np.nan, nan_ok=True)


def test_late_acceptances_are_worse_because_easy_problems_leave_early():
    easy, hard = (64, 60, 58), (64, 6, 1)
    found = false_discovery_by_attempt(Counts.of(*zip(*[easy] * 5, *[hard] * 5, strict=True)))
    assert found.first.tolist() == [1, 2, 4, 8, 16, 32, 64]
    assert found.last.tolist() == [1, 3, 7, 15, 31, 63, 64]
    possible = found.false_discovery[found.stopped > 0]
    assert np.all(np.diff(possible) >= -1e-12)
    assert possible[-1] == pytest.approx(5 / 6)


def test_a_weak_model_that_is_bounded_below_a_strong_one_never_catches_up():
    weak, strong = Counts.of([20] * 40, [10] * 40, [6] * 40), Counts.of([20] * 40, [18] * 40, [16] * 40)
    rivalry = weak_against_strong(weak, strong)
    assert (rivalry.weak, rivalry.ceiling, rivalry.strong) == pytest.approx((0.3, 0.6, 0.8))
    assert (rivalry.hopeless, rivalry.k) == (True, None)
    assert rivalry.shortfall.mean[0] == pytest.approx(0.2)
    assert 0.1 < rivalry.shortfall.low[0] < 0.2 < rivalry.shortfall.high[0] < 0.3
    better = weak_against_strong(Counts.of([20] * 40, [10] * 40, [9] * 40), strong)
    assert (better.hopeless, better.k) == (False, 3)  # 1 - C(10, 3) / C(20, 3) = .895, and .9 of it is .805
    with pytest.raises(CurveError, match="same problems"):
        weak_against_strong(weak, Counts.of(1, 1, 1))


def test_the_shortfall_covers_the_truth_as_often_as_it_says():
    generator, covered = np.random.default_rng(3), []
    for _ in range(60):
        solve = generator.beta(2, 2, size=(2, 80))
        right = generator.binomial(30, solve)
        accepted = right + generator.binomial(30 - right, 0.3)
        weak, strong = (Counts.of(np.full(80, 30), accepted[i], right[i]) for i in (0, 1))
        truth = 0.5 - 0.7255  # mean of r / (r + .3 (1 - r)) under Beta(2, 2), by a quadrature
        gap = weak_against_strong(weak, strong).shortfall
        covered.append(gap.low[0] <= truth <= gap.high[0])
    assert np.mean(covered) >= 0.85


def test_the_published_models_lie_on_the_published_line():
    x, y = np.array(list(PUBLISHED.values())).T
    line = fit_line(x, y)
    assert (line.points, line.slope, line.intercept) == pytest.approx((17, 0.2182854, 0.7247121), abs=1e-6)
    assert line.r_squared == pytest.approx(0.8918216, abs=5e-6)  # of values that are rounded themselves
    assert line.x_at(0.855) == pytest.approx(0.597, abs=5e-4)


def test_the_line_over_models_is_that_of_their_accuracies():
    models = {str(c): Counts.of([100] * 2, [c + 20, c + 10], [c, c]) for c in (10, 40, 70)}
    line = ceiling_line(models)
    expected = fit_line([c.accuracy for c in models.values()], [c.conditional_accuracy for c in models.values()])
    assert line == expected
    assert line.slope > 0


def test_counts_that_contradict_each_other_are_refused():
    for wrong in ((3, 4, 1), (3, 2, 3), (0, 0, 0)):
        with pytest.raises(CurveError):
            Counts.of(*wrong)
    with pytest.raises(CurveError, match="all of them among n"):
        Counts.of(4, 3, 1, 3)
