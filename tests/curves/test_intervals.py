from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tts.curves import CurveError, Interval, mean_interval, paired_difference, pass_at_k
from tts.curves.intervals import beta_quantiles

Floats = NDArray[np.float64]
PROBLEMS = (10, 20, 50, 164)
RATES = (0.005, 0.01, 0.03, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.97, 0.99, 0.995)
BENCHMARKS = 500
LOW, HIGH = 0.93, 0.98
NOISE = 3 * (0.95 * 0.05 / BENCHMARKS) ** 0.5
"""Three standard errors of a coverage that is measured on so many benchmarks."""


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


@pytest.mark.parametrize("problems", PROBLEMS)
def test_the_exact_coverage_for_single_outcomes_is_as_stated(problems: int):
    solved = np.arange(problems) < np.arange(problems + 1)[:, np.newaxis]
    interval = mean_interval(solved.T.astype(float))
    for rate in RATES:
        chances = binomial(problems, rate)
        inside = (interval.low <= rate) & (rate <= interval.high)
        covered = float(chances[inside].sum())
        assert covered >= LOW - 0.002
        # Above HIGH only where outcomes are too coarse: without the outermost one inside, it would cover too little.
        assert covered <= HIGH or covered - chances[np.flatnonzero(inside)[[0, -1]]].max() < 0.95


@pytest.mark.parametrize("spread", [0.5, 2.0])
@pytest.mark.parametrize("k", [1, 8])
def test_coverage_for_shares_is_as_stated(spread: float, k: int):
    """pass@k of 16 samples, where problems differ much or little."""
    table = pass_at_k(np.full(17, 16), np.arange(17), k)
    for problems in PROBLEMS:
        for rate in RATES[::2]:
            generator = np.random.default_rng([problems, round(1000 * rate), k])
            solve = generator.beta(*rates_of(rate, spread, k), size=(problems, BENCHMARKS))
            covered = coverage(mean_interval(table[generator.binomial(16, solve)]), rate)
            rare = min(rate, 1 - rate) * problems < 5  # most benchmarks then have no spread at all
            assert covered >= LOW - NOISE, (problems, rate)
            assert covered <= HIGH + NOISE or rare, (problems, rate)


PAIRS = [(0.01, 0.03), (0.05, 0.1), (0.1, 0.3), (0.5, 0.5), (0.5, 0.7), (0.7, 0.95), (0.95, 0.99), (0.995, 0.9)]


@pytest.mark.parametrize("shared", [0.0, 0.8])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_coverage_of_paired_outcomes_is_as_stated(first: float, second: float, shared: float):
    for problems in PROBLEMS:
        generator = np.random.default_rng([problems, round(1000 * first), round(1000 * second), round(10 * shared)])
        one, other, which = generator.random((3, problems, BENCHMARKS))
        other = np.where(which < shared, one, other)
        difference = paired_difference((one < first).astype(float), (other < second).astype(float))
        covered = coverage(difference, first - second)
        apart = shared * abs(first - second) + (1 - shared) * (first * (1 - second) + second * (1 - first))
        assert covered >= LOW - NOISE, problems
        assert covered <= HIGH + NOISE or apart * problems < 10, problems  # few pairs that differ at all


def test_coverage_of_paired_shares_is_as_stated():
    table = pass_at_k(np.full(17, 16), np.arange(17), 4)
    for spread, mean, harder in ((2.0, 0.5, 1.2), (4.0, 0.3, 1.1), (0.5, 0.3, 1.5)):
        solve = np.random.default_rng(5).beta(mean * spread, (1 - mean) * spread, size=400_000)
        exact = [np.mean(1 - (1 - rates) ** 4) for rates in (solve, solve**harder)]
        for problems in PROBLEMS:
            generator = np.random.default_rng(problems)
            solve = generator.beta(mean * spread, (1 - mean) * spread, size=(problems, BENCHMARKS))
            one, other = (table[generator.binomial(16, rates)] for rates in (solve, solve**harder))
            covered = coverage(paired_difference(one, other), float(exact[0] - exact[1]))
            assert covered >= LOW - NOISE, (spread, problems)
            assert covered <= HIGH + NOISE or problems < 50, (spread, problems)


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
