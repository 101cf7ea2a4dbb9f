from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.curves import CurveError, bootstrap, paired_difference


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(level):
    rng = np.random.default_rng(0)
    datasets = rng.beta(0.5, 1.5, size=(80, 1000))  # 1000 benchmarks of 80 problems: skewed, as accuracies are
    interval = bootstrap(datasets, level=level, resamples=1000)
    covered = ((interval.low <= 0.25) & (interval.high >= 0.25)).mean()
    assert covered == pytest.approx(level, abs=0.03)


def test_the_interval_narrows_with_the_square_root_of_the_problems():
    rng = np.random.default_rng(1)
    few, many = (bootstrap(rng.random((count, 1))) for count in (100, 6400))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(8, rel=0.15)


def test_the_interval_is_set_by_the_seed():
    values = np.random.default_rng(2).random((50, 3))
    first, again, other = bootstrap(values), bootstrap(values), bootstrap(values, seed=1)
    np.testing.assert_array_equal([first.low, first.high], [again.low, again.high])
    assert (first.low != other.low).any()


def test_problems_that_all_agree_give_an_interval_of_width_zero():
    interval = bootstrap(np.tile([0.0, 0.1, 1.0], (30, 1)))
    np.testing.assert_allclose([interval.low, interval.high], [[0.0, 0.1, 1.0]] * 2, rtol=1e-15)


def test_the_interval_of_a_proportion_is_inside_its_range_and_around_its_mean():
    values = (np.random.default_rng(3).random((40, 20)) < np.linspace(0.02, 0.98, 20)).astype(float)
    interval = bootstrap(values)
    assert (interval.low >= 0).all()
    assert (interval.high <= 1).all()
    assert ((interval.low <= interval.mean) & (interval.mean <= interval.high)).all()


def test_a_paired_difference_sees_what_the_separate_intervals_hide():
    rng = np.random.default_rng(4)
    difficulty = rng.random((200, 1))
    weak = difficulty + rng.normal(0, 0.02, (200, 1))
    strong = difficulty + 0.02 + rng.normal(0, 0.02, (200, 1))
    difference = paired_difference(strong, weak)
    assert difference.low[0] > 0
    assert difference.low[0] < 0.02 < difference.high[0]
    assert bootstrap(strong).low[0] < bootstrap(weak).high[0]


def test_what_has_no_interval_is_refused():
    for values in (np.zeros((1, 3)), np.zeros(5), [[0.1], [float("nan")]]):
        with pytest.raises(CurveError):
            bootstrap(values)
    with pytest.raises(CurveError, match="level"):
        bootstrap(np.zeros((4, 1)), level=95)
    with pytest.raises(CurveError, match="same problems"):
        paired_difference(np.zeros((4, 1)), np.zeros((5, 1)))


@given(st.integers(2, 200), st.sampled_from([0.5, 0.9, 0.95]))
def test_proportions_without_spread_have_the_exact_bounds_of_as_many_trials(problems: int, level: float):
    nothing = bootstrap(np.zeros((problems, 1)), level=level, resamples=20, proportions=True)
    everything = bootstrap(np.ones((problems, 1)), level=level, resamples=20, proportions=True)
    # With a true rate at the bound, no success in all trials has exactly the probability that the level leaves out.
    assert (1 - nothing.high[0]) ** problems == pytest.approx((1 - level) / 2)
    assert (nothing.low[0], everything.low[0], everything.high[0]) == (0, pytest.approx(1 - nothing.high[0]), 1)
