from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.curves.brute_force import best, first_accepted, over_all_orders
from tts.curves import CurveError, TooFewSamples, best_of_k, first_pass_at_k, mean_interval, pass_at_k


@given(st.data(), st.integers(1, 60))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(data, n):
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    assert pass_at_k(n, c, k) == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-12)


def test_pass_at_k_stays_accurate_with_ten_thousand_samples():
    n, ks = 10_000, [1, 7, 100, 5_000]
    expected = [1 - comb(n - 3, k) / comb(n, k) for k in ks]
    np.testing.assert_allclose(pass_at_k(n, 3, ks), expected, atol=1e-10)


def test_pass_at_k_without_a_correct_sample_is_exactly_zero():
    assert (pass_at_k([5, 100, 10_000], 0, [1, 2, 5]) == 0).all()


def test_pass_at_k_of_all_samples_is_one_iff_any_is_correct():
    assert pass_at_k(8, [0, 1, 8], 8).tolist() == [0, 1, 1]


def test_shapes_follow_problems_then_ks():
    assert pass_at_k(10, 3, 1).shape == ()
    assert pass_at_k([10, 12], [3, 0], 1).shape == (2,)
    assert pass_at_k([10, 12], [3, 0], [1, 2, 4]).shape == (2, 3)
    assert best_of_k([[1, 2], [3, 4, 5]], [[0, 1], [1, 0, 0]], [1, 2]).shape == (2, 2)
    assert best_of_k([[1, 2], [3, 4, 5]], [[0, 1], [1, 0, 0]], 2).shape == (2,)


def test_more_samples_than_drawn_is_an_error_that_says_which_problem_and_what_to_do():
    with pytest.raises(TooFewSamples, match=r"k=9 needs 9 .* problem 1 .* has 8: draw more .* k <= 8") as caught:
        pass_at_k([10, 8, 10], [10, 8, 10], [1, 9])
    assert (caught.value.k, caught.value.problem, caught.value.available) == (9, 1, 8)
    with pytest.raises(TooFewSamples):
        best_of_k([[1.0, 2.0]], [[True, True]], 3)
    with pytest.raises(TooFewSamples):
        first_pass_at_k(4, 4, 4, 5)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 6, 1), (5, -1, 1), (5, 2, 0), (5, 2, 1.5)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(CurveError):
        pass_at_k(n, c, k)


small_pools = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([float("-inf"), 0.0, 1.0, 2.5]), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
    )
)


@settings(max_examples=60, deadline=None)
@given(st.lists(small_pools, min_size=1, max_size=3))
def test_best_of_k_equals_the_plain_run_over_all_orders(problems):
    scores, correct = zip(*problems, strict=True)
    ks = list(range(1, min(map(len, scores)) + 1))
    expected = [[over_all_orders(len(s), k, best(s, c)) for k in ks] for s, c in zip(scores, correct, strict=True)]
    np.testing.assert_allclose(best_of_k(scores, correct, ks), expected, atol=1e-12)


@given(st.data(), st.integers(1, 40))
def test_best_of_k_with_the_truth_as_score_is_pass_at_k(data, n):
    correct = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    ks = np.arange(1, n + 1)
    np.testing.assert_allclose(best_of_k([correct], [correct], ks)[0], pass_at_k(n, correct.sum(), ks), atol=1e-12)


def test_best_of_k_refuses_scores_that_are_not_numbers_and_pools_that_do_not_match():
    with pytest.raises(CurveError, match="-inf"):
        best_of_k([[1.0, float("nan")]], [[True, False]], 1)
    with pytest.raises(CurveError, match="one value per sample"):
        best_of_k([[1.0, 2.0]], [[True]], 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_first_pass_equals_resampling_over_all_orders(samples):
    n = len(samples)
    accepted = [a for a, _ in samples]
    right = [a and c for a, c in samples]
    find = first_accepted(accepted)
    ks = list(range(1, n + 1))
    estimate = first_pass_at_k(n, sum(accepted), sum(right), ks)

    def attempts(order):
        found = find(order)
        return len(order) if found is None else order.index(found) + 1

    expected = {
        "accepted": [over_all_orders(n, k, lambda o: find(o) is not None) for k in ks],
        "correct": [over_all_orders(n, k, lambda o: (i := find(o)) is not None and right[i]) for k in ks],
        "attempts": [over_all_orders(n, k, attempts) for k in ks],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(estimate, name), values, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(estimate.false_accept, estimate.accepted - estimate.correct)


def test_resampling_tends_to_the_precision_of_the_verifier_not_to_coverage():
    estimate = first_pass_at_k(1000, 400, 300, 1000)
    assert estimate.correct == pytest.approx(0.75)
    assert pass_at_k(1000, 300, 1000) == 1


# Solve rates drawn from Beta(A, B), for which the population's curves are known.
A, B = 0.7, 1.6
KS = np.array([1, 2, 4, 8, 16, 32, 64])


@pytest.fixture(scope="module")
def recorded():
    rng = np.random.default_rng(7)
    return rng.random((3000, 128)) < rng.beta(A, B, size=(3000, 1))


def test_pass_at_k_contains_the_analytic_coverage(recorded):
    steps = np.arange(KS.max())
    coverage = 1 - np.cumprod((B + steps) / (A + B + steps))[KS - 1]  # the mean of 1 - (1 - p)^k
    interval = mean_interval(pass_at_k(128, recorded.sum(axis=1), KS))
    assert ((interval.low <= coverage) & (coverage <= interval.high)).all()
    assert (interval.high - interval.low < 0.04).all()


def test_best_of_k_under_a_blind_score_stays_at_the_solve_rate(recorded):
    scores = np.random.default_rng(8).normal(size=recorded.shape)
    interval = mean_interval(best_of_k(scores, recorded, KS))
    rate = A / (A + B)
    assert ((interval.low <= rate) & (rate <= interval.high)).all()


def test_best_of_k_under_a_noisy_score_contains_its_analytic_curve(recorded):
    # Half of the right samples score 1, all others 0. The selection is right if any scores 1, and else as
    # often as a sample that scores 0 is: (p/2) / (1 - p/2).
    scores = recorded & (np.random.default_rng(9).random(recorded.shape) < 0.5)
    p = np.random.default_rng(10).beta(A, B, size=(400_000, 1))
    silent = (1 - p / 2) ** KS
    expected = (1 - silent + silent * (p / 2) / (1 - p / 2)).mean(axis=0)
    interval = mean_interval(best_of_k(scores, recorded, KS))
    assert ((interval.low <= expected) & (expected <= interval.high)).all()
