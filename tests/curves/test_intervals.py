from __future__ import annotations

from itertools import combinations_with_replacement
from math import comb, lgamma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tts.curves import CurveError, Interval, mean_interval, paired_difference, pass_at_k
from tts.curves.intervals import beta_quantiles

Floats = NDArray[np.float64]
PROBLEMS = (10, 20, 50, 164)
RATES = (0.005, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.995)
BENCHMARKS = 600
LOW, HIGH = 0.93, 0.98
NOISE = (0.95 * 0.05 / BENCHMARKS) ** 0.5
"""The standard error of a coverage that is measured on so many benchmarks; exact ones have none."""


def coverage(interval: Interval, truth: float) -> float:
    return float(((interval.low <= truth + 1e-12) & (truth - 1e-12 <= interval.high)).mean())


def logistic(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))


def rates_of(mean: float, spread: float, k: int) -> tuple[float, float]:
    """Parameters of the beta distribution of solve rates under which pass@k is `mean` on average."""
    low, high = -25.0, 25.0  # log-odds of the mean solve rate
    steps = np.arange(k)[:, np.newaxis]
    for _ in range(60):
        middle = (low + high) / 2
        rate = logistic(middle)
        missed = np.prod(((1 - rate) * spread + steps) / (spread + steps))
        low, high = (middle, high) if 1 - missed < mean else (low, middle)
    return logistic(low) * spread, logistic(-low) * spread


# -- coverage ---------------------------------------------------------------------------------------------------------


def binomial(outcomes: int, rate: float) -> Floats:
    """Probability of each number of successes."""
    return np.array([comb(outcomes, x) * rate**x * (1 - rate) ** (outcomes - x) for x in range(outcomes + 1)])


def attainable(chances: Floats) -> bool:
    """Whether any outcomes in a row have a probability from LOW to HIGH together."""
    below = np.cumsum(np.append(0, chances))
    between = below - below[:, np.newaxis]
    return bool(((between >= LOW) & (between <= HIGH)).any())


@pytest.mark.parametrize("problems", PROBLEMS)
def test_the_exact_coverage_of_counts_is_as_stated_at_every_rate(problems: int):
    solved = np.arange(problems)[:, np.newaxis] < np.arange(problems + 1)
    interval = mean_interval(solved.astype(float))
    above, unavoidable = 0, 0
    rates = np.arange(0.005, 0.9951, 0.001)
    for rate in rates:
        chances = binomial(problems, rate)
        covered = float(chances[(interval.low <= rate) & (rate <= interval.high)].sum())
        assert covered >= 0.94, rate
        above += covered > HIGH
        unavoidable += not attainable(chances)
    assert above <= 2.5 * unavoidable <= 0.3 * len(rates)


def test_ten_problems_leave_no_choice_but_to_cover_too_much():
    assert not attainable(binomial(10, 0.01))
    assert not attainable(binomial(10, 0.05))
    assert attainable(binomial(164, 0.01))


@pytest.mark.parametrize("spread", [0.5, 2.0])
@pytest.mark.parametrize("k", [1, 8])
def test_coverage_for_shares_is_as_stated(spread: float, k: int):
    """pass@k of 16 samples, where problems differ much or little."""
    table = pass_at_k(np.full(17, 16), np.arange(17), k)
    for problems in PROBLEMS:
        for rate in RATES:
            generator = np.random.default_rng([problems, round(1000 * rate), k])
            solve = generator.beta(*rates_of(rate, spread, k), size=(problems, BENCHMARKS))
            covered = coverage(mean_interval(table[generator.binomial(16, solve)]), rate)
            rare = min(rate, 1 - rate) * problems < 5  # most benchmarks then have no spread at all
            assert covered >= LOW - NOISE, (problems, rate)
            assert covered <= HIGH + NOISE or rare, (problems, rate)


@pytest.mark.parametrize(("share", "few", "most"), [(0.03, 0.95, 0.03), (0.1, 0.9, 0.02), (0.01, 0.9, 0.01)])
def test_coverage_holds_where_few_problems_are_unlike_the_others(share: float, few: float, most: float):
    """Most benchmarks of few problems then hold none of them."""
    for problems in PROBLEMS:
        generator = np.random.default_rng([problems, round(100 * share)])
        unlike = generator.random((problems, BENCHMARKS)) < share
        values = generator.binomial(16, np.where(unlike, few, most)) / 16
        assert coverage(mean_interval(values), share * few + (1 - share) * most) >= LOW - NOISE, problems


def trinomial(wins: NDArray[np.int64], losses: NDArray[np.int64], problems: int, win: float, lose: float) -> Floats:
    """Probability of so many wins and losses among the problems."""
    logs = np.array([lgamma(x + 1) for x in range(problems + 1)])
    equal = problems - wins - losses
    ways = logs[problems] - logs[wins] - logs[losses] - logs[equal]
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [
            np.where(count > 0, count * np.log(chance), 0)
            for count, chance in ((wins, win), (losses, lose), (equal, 1 - win - lose))
        ]
    return np.exp(ways + sum(parts))


@pytest.mark.parametrize("problems", PROBLEMS)
def test_the_exact_coverage_of_paired_outcomes_is_as_stated(problems: int):
    wins, losses = (count.ravel() for count in np.indices((problems + 1, problems + 1)))
    wins, losses = (count[wins + losses <= problems] for count in (wins, losses))
    place = np.arange(problems)[:, np.newaxis]
    first, second = place < wins, (place >= wins) & (place < wins + losses)
    interval = paired_difference(first.astype(float), second.astype(float))
    for one, other in combinations_with_replacement((0.005, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.995), 2):
        for shared in (0.0, 0.5, 0.9):
            win = (1 - shared) * one * (1 - other)
            lose = shared * (other - one) + (1 - shared) * other * (1 - one)
            chances = trinomial(wins, losses, problems, win, lose)
            inside = (interval.low <= win - lose + 1e-12) & (win - lose - 1e-12 <= interval.high)
            covered = float(chances[inside].sum())
            assert covered >= 0.94 - 0.001, (one, other, shared)
            few = (win + lose) * problems < 20  # problems that differ at all, or are alike
            assert covered <= HIGH or few or (1 - win - lose) * problems < 10, (one, other, shared)


@pytest.mark.parametrize("equal", [0.0, 0.5, 0.9])
def test_coverage_of_paired_shares_is_as_stated(equal: float):
    """pass@4 of 16 samples of a model and of a weaker one; on a share of the problems both give the same samples."""
    table = pass_at_k(np.full(17, 16), np.arange(17), 4)
    for spread, mean, harder in ((2.0, 0.5, 1.2), (4.0, 0.3, 1.1), (0.5, 0.3, 1.5), (2.0, 0.9, 3.0), (0.3, 0.02, 2.0)):
        solve = np.random.default_rng(5).beta(mean * spread, (1 - mean) * spread, size=400_000)
        exact = [np.mean(1 - (1 - rates) ** 4) for rates in (solve, solve**harder)]
        for problems in PROBLEMS:
            generator = np.random.default_rng(problems)
            solve = generator.beta(mean * spread, (1 - mean) * spread, size=(problems, BENCHMARKS))
            one, other = (table[generator.binomial(16, rates)] for rates in (solve, solve**harder))
            other = np.where(generator.random(one.shape) < equal, one, other)
            covered = coverage(paired_difference(one, other), (1 - equal) * float(exact[0] - exact[1]))
            assert covered >= LOW - NOISE, (spread, problems)
            many = np.abs(one - other).sum(axis=0).mean() >= 5  # problems' worth of differences
            assert covered <= HIGH + NOISE or not many, (spread, problems)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(level: float):
    rng = np.random.default_rng(0)
    datasets = rng.beta(0.5, 1.5, size=(80, 1000))  # 1000 benchmarks of 80 problems: skewed, as accuracies are
    assert coverage(mean_interval(datasets, level=level), 0.25) == pytest.approx(level, abs=0.03)


# -- behaviour --------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 1.0]), min_size=2, max_size=40), st.integers(0, 2**32 - 1))
def test_values_that_are_equal_but_for_rounding_have_the_same_interval(values: list[float], seed: int):
    exact = np.array(values)[:, np.newaxis]
    rounded = exact + 1e-15 * np.random.default_rng(seed).uniform(-1, 1, exact.shape)
    for one, other in (
        (mean_interval(exact), mean_interval(rounded)),
        (paired_difference(exact, exact[::-1]), paired_difference(rounded, exact[::-1])),
    ):
        np.testing.assert_allclose([one.low, one.high], [other.low, other.high], atol=1e-9)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60), st.sampled_from([0.5, 0.9, 0.95]))
def test_an_interval_lies_in_its_range_around_its_mean_and_has_a_width(values: list[float], level: float):
    column = np.array(values)[:, np.newaxis]
    for interval, least in (
        (mean_interval(column, level=level), 0),
        (paired_difference(column, column[::-1], level=level), -1),
    ):
        assert least - 1e-9 <= interval.low[0] <= interval.mean[0] <= interval.high[0] <= 1 + 1e-9
        assert interval.low[0] < interval.high[0]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_the_range_may_be_any(values: list[float]):
    column = np.array(values)[:, np.newaxis]
    plain, wide = mean_interval(column), mean_interval(5 * column - 3, low=-3, high=2)
    for name in ("mean", "low", "high"):
        np.testing.assert_allclose(getattr(wide, name), 5 * getattr(plain, name) - 3, atol=1e-6)


def test_the_interval_narrows_with_the_square_root_of_the_problems():
    rng = np.random.default_rng(1)
    few, many = (mean_interval(rng.random((count, 1))) for count in (100, 6400))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(8, rel=0.15)


def test_a_paired_difference_sees_what_the_separate_intervals_hide():
    rng = np.random.default_rng(4)
    difficulty = rng.uniform(0.1, 0.9, (200, 1))
    weak = difficulty + rng.normal(0, 0.02, (200, 1))
    strong = difficulty + 0.02 + rng.normal(0, 0.02, (200, 1))
    difference = paired_difference(strong, weak)
    assert difference.low[0] > 0
    assert difference.low[0] < 0.02 < difference.high[0]
    assert mean_interval(strong).low[0] < mean_interval(weak).high[0]


def test_what_has_no_interval_is_refused():
    for values in (np.zeros((1, 3)), np.zeros(5), [[0.1], [float("nan")]]):
        with pytest.raises(CurveError):
            mean_interval(values)
    with pytest.raises(CurveError, match="level"):
        mean_interval(np.zeros((4, 1)), level=95)
    with pytest.raises(CurveError, match="beyond 0 to 1"):
        mean_interval(np.full((4, 1), 1.1))
    with pytest.raises(CurveError, match="same problems"):
        paired_difference(np.zeros((4, 1)), np.zeros((5, 1)))


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 30), (4, 7), (160, 5), (300, 300)])
@pytest.mark.parametrize("p", [0.025, 0.5, 0.975])
def test_beta_quantiles_invert_the_binomial_tail(a: int, b: int, p: float):
    at = beta_quantiles(p, np.array([a]), np.array([b]))[0]
    trials = a + b - 1
    assert sum(comb(trials, x) * at**x * (1 - at) ** (trials - x) for x in range(a, trials + 1)) == pytest.approx(
        p, abs=1e-4
    )
