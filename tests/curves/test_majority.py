from __future__ import annotations

from itertools import product
from math import comb, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.curves.brute_force import over_all_orders, vote
from tts.curves import TooFewSamples, majority_at_k, mean_interval
from tts.curves.majority import Ballots, exact_vote

small_pools = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
    )
)


@settings(max_examples=80, deadline=None)
@given(st.lists(small_pools, min_size=1, max_size=3))
def test_exact_vote_equals_the_plain_run_over_all_orders(problems):
    answers, correct = zip(*problems, strict=True)
    ks = list(range(1, min(map(len, answers)) + 1))
    estimate = majority_at_k(answers, correct, ks, exact=True)
    expected = [[over_all_orders(len(a), k, vote(a, c)) for k in ks] for a, c in zip(answers, correct, strict=True)]
    np.testing.assert_allclose(estimate.values, expected, atol=1e-11)
    assert estimate.method == "majority@k (exact)"


def subsets_by_counts(votes, worth, abstained, k):
    """Sum over every composition of the k votes, weighted by the number of subsets that have it."""
    total = 0.0
    for counts in product(*(range(min(v, k) + 1) for v in votes)):
        rest = k - sum(counts)
        most = max(counts)
        if 0 <= rest <= abstained and most:
            winners = [w for w, count in zip(worth, counts, strict=True) if count == most]
            ways = prod(comb(v, count) for v, count in zip(votes, counts, strict=True)) * comb(abstained, rest)
            total += ways * sum(winners) / len(winners)
    return total / comb(sum(votes) + abstained, k)


@pytest.mark.parametrize("k", [1, 2, 7, 15, 40, 58])
@pytest.mark.parametrize(
    ("votes", "abstained"),
    [((60,), 7), ((40, 20), 0), ((25, 20), 14), ((22, 20, 9), 9), ((20, 15, 14, 9), 2)],
)
def test_exact_vote_of_larger_pools_equals_the_sum_over_all_vote_counts(votes, abstained, k):
    worth = np.linspace(1, 0.1, len(votes))
    ballots = Ballots(np.array([votes]), worth[np.newaxis], np.array([abstained]))
    expected = subsets_by_counts(votes, worth, abstained, k)
    assert exact_vote(ballots, k)[0] == pytest.approx(expected, abs=1e-10)


def test_problems_summed_together_do_not_affect_each_other():
    rng = np.random.default_rng(0)
    answers = [rng.integers(-1, rng.integers(1, 9), size=rng.integers(9, 40)) for _ in range(30)]
    correct = [pool == 0 for pool in answers]
    together = majority_at_k(answers, correct, [1, 3, 6, 9], exact=True).values
    alone = [majority_at_k([a], [c], [1, 3, 6, 9], exact=True).values[0] for a, c in zip(answers, correct, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_resampling_agrees_with_the_exact_sum():
    rng = np.random.default_rng(1)
    answers = [rng.integers(-1, 6, size=30) for _ in range(12)]
    correct = [pool == 0 for pool in answers]
    ks, draws = [16, 1, 5, 30], 20_000
    exact = majority_at_k(answers, correct, ks, exact=True).values
    resampled = majority_at_k(answers, correct, ks, exact=False, draws=draws)
    assert not resampled.exact.any()
    error = np.sqrt(exact * (1 - exact) / draws)
    assert (np.abs(resampled.values - exact) <= 4.5 * error + 1e-9).all()


def test_resampling_is_set_by_the_seed_and_independent_of_the_other_problems():
    rng = np.random.default_rng(2)
    answers = [rng.integers(0, 5, size=50) for _ in range(4)]
    correct = [pool == 0 for pool in answers]

    def run(count, seed):
        return majority_at_k(answers[:count], correct[:count], 9, exact=False, draws=50, seed=seed).values

    np.testing.assert_array_equal(run(4, 0)[:2], run(2, 0))
    assert (run(4, 0) != run(4, 1)).any()


def test_small_ks_are_exact_and_the_rest_resampled_when_all_would_be_too_much_work(monkeypatch):
    monkeypatch.setattr("tts.curves.majority.EXACT_WORK", 2e6)
    rng = np.random.default_rng(3)
    answers = rng.integers(0, 12, size=(20, 100))
    estimate = majority_at_k(answers, answers == 0, [1, 2, 4, 16, 64, 100], draws=60, seed=5)
    assert estimate.exact[:, :3].all()
    assert not estimate.exact[:, 3:5].all(axis=0).any()
    assert estimate.exact[:, 5].all()
    assert estimate.method == "majority@k (exact to k=4, then resampled, seed 5, 60 draws)"


def test_all_abstaining_selects_nothing_and_is_not_correct():
    estimate = majority_at_k([[None, None, None]], [[True, True, True]], [1, 3])
    assert estimate.values.tolist() == [[0, 0]]


def test_minus_one_abstains_as_a_class_number_but_is_an_answer_in_a_list():
    correct = [[True, True, False]]
    assert majority_at_k([np.array([-1, -1, 4])], correct, 3).values[0] == 0
    assert majority_at_k([[-1, -1, 4]], correct, 3).values[0] == 1


def test_more_samples_than_drawn_is_an_error():
    with pytest.raises(TooFewSamples, match="majority@k at k=4 needs 4 samples"):
        majority_at_k([["a", "b", "a"]], [[True, False, True]], [1, 4])


def test_votes_of_known_solve_rates_contain_the_analytic_curve():
    rng = np.random.default_rng(4)
    rates = rng.beta(2, 1.5, size=(2000, 1))
    correct = rng.random((2000, 101)) < rates
    ks = np.array([1, 3, 9, 31, 63])
    fresh = rng.beta(2, 1.5, size=200_000)
    analytic = [
        np.mean([comb(k, j) * fresh**j * (1 - fresh) ** (k - j) for j in range(k // 2 + 1, k + 1)], axis=1).sum()
        for k in ks.tolist()
    ]
    estimate = majority_at_k(correct.astype(int), correct, ks)
    assert estimate.exact.all()
    interval = mean_interval(estimate.values)
    assert ((interval.low <= analytic) & (analytic <= interval.high)).all()
