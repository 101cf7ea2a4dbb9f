"""The model of easy and hard problems: the published numbers, and closed forms against sums and simulation."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tts.curves import CurveError
from tts.studies.imperfect_verifier.counts import Counts
from tts.studies.imperfect_verifier.two_types import TwoTypes

LLAMA_8B = TwoTypes(84 / 150, 0.8738248665464701, 0.13823971665148135, 0.7516008131097383)
TOY = TwoTypes(0.58, 0.87, 0.13, 0.75)
RATIOS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2, 4, 10]

shares = st.floats(0.01, 0.99)
models = st.builds(
    lambda share, rates, soundness, completeness: TwoTypes(share, max(rates), min(rates), soundness, completeness),
    shares,
    st.tuples(shares, shares),
    shares,
    shares | st.just(1.0),
)


def test_the_published_best_k_of_llama_8b_and_what_it_really_is():
    assert [LLAMA_8B.best(ratio, "paper").k for ratio in RATIOS] == [82, 81, 81, 80, 79, 76, 3, 2, 2, 2, 1, 1, 0]
    assert [LLAMA_8B.best(ratio).k for ratio in RATIOS] == [inf] * 6 + [3, 2, 2, 2, 1, 1, 0]
    assert LLAMA_8B.critical_ratio == pytest.approx(0.645797, abs=1e-6)
    assert LLAMA_8B.refused == pytest.approx([0.09483333, 0.64769973])
    assert LLAMA_8B.accepted_right == pytest.approx([0.87382487, 0.13823972])
    assert LLAMA_8B.accepted_wrong == pytest.approx([0.03134180, 0.21406055], abs=1e-8)


@pytest.mark.parametrize(
    ("ratio", "paper", "paper_best", "paper_limit", "exact", "exact_best", "limit"),
    [
        (0.7, (0.48206, 0.55258, 0.55413, 0.54908), (3, 0.554134), 0.5376,
         (0.48206, 0.52387, 0.52457, 0.52243), (3, 0.524567), 0.5176),
        (1, (0.44900, 0.48843, 0.46370, 0.44068), (2, 0.488433), 0.3952,
         (0.44900, 0.47238, 0.46135, 0.45159), (2, 0.472381), 0.4325),
        (2, (0.33880, 0.27461, 0.16227, 0.07934), (1, 0.338800), -0.0796,
         (0.33880, 0.30074, 0.25064, 0.21548), (1, 0.338800), 0.1487),
        (10, (-0.5428,), (0, 0.0), -3.878, (-0.5428,), (0, 0.0), -2.121),
    ],
)  # fmt: skip
def test_the_toy_model_of_the_notebook_and_its_correction(
    ratio, paper, paper_best, paper_limit, exact, exact_best, limit
):
    assert TOY.rewards(len(paper), ratio, "paper") == pytest.approx(paper, abs=6e-6)
    assert TOY.rewards(len(exact), ratio) == pytest.approx(exact, abs=6e-6)
    for best, (k, reward) in ((TOY.best(ratio, "paper"), paper_best), (TOY.best(ratio), exact_best)):
        assert (best.k, best.reward) == (k, pytest.approx(reward, abs=1e-6))
    assert TOY.limit(ratio) == pytest.approx(limit, abs=6e-4)
    assert TOY.rewards(2000, ratio, "paper")[-1] == pytest.approx(paper_limit, abs=6e-4)


@given(model=models, ratio=st.floats(0, 20))
def test_the_best_k_in_closed_form_is_that_of_brute_force(model: TwoTypes, ratio: float):
    rewards = np.concatenate([[0.0], model.rewards(3000, ratio)])
    assume(model.refused.max() < 0.98)  # so that 3000 attempts are as good as endless
    best = model.best(ratio)
    assert model.limit(ratio) == pytest.approx(rewards[-1], abs=1e-9)
    assert best.reward == pytest.approx(rewards.max(), abs=1e-9)
    if best.k < inf:
        assert rewards[int(min(best.k, 3000))] == pytest.approx(rewards.max(), abs=1e-9)
        assert np.all(rewards[: int(min(best.k, 3000))] <= rewards.max() + 1e-15)
    else:
        assert rewards.max() == pytest.approx(rewards[-1], abs=1e-9)


@given(model=models)
def test_it_never_harms_to_go_on_up_to_the_critical_ratio(model: TwoTypes):
    assume(model.refused[0] < model.refused[1] - 1e-3)  # a verifier that knows something
    assert model.best(model.critical_ratio * 0.999).k == inf
    assert model.best(model.critical_ratio * 1.001 + 1e-9).k < inf


@pytest.mark.parametrize(
    ("model", "k"),
    [
        (TwoTypes(0.5, 1, 0.1, 0.5), 1),  # easy ones are accepted at once
        (TwoTypes(1, 0.5, 0, 0.5), inf),  # there are no hard ones
        (TwoTypes(0, 1, 0.1, 0.5), 0),  # there are no easy ones
        (TwoTypes(0.5, 0.9, 0.1, 1), inf),  # a perfect verifier
        (TwoTypes(0.6, 0.9, 0.1, 0), 1),  # accepts whatever comes first
        (TwoTypes(0.5, 0.9, 0.1, 1, 0), 0),  # accepts nothing
    ],
)
def test_the_ends_of_the_scales(model: TwoTypes, k: float):
    assert model.best(1.0).k == k
    assert np.isfinite(model.rewards(50, 1.0, "paper")).all()


def test_rewards_are_those_of_a_simulated_resampling():
    generator, model, ratio, runs = np.random.default_rng(1), TwoTypes(0.4, 0.7, 0.2, 0.8, 0.9), 1.5, 40_000
    rates = np.where(generator.random(runs) < model.easy_share, model.easy, model.hard)
    worth, going = np.zeros(runs), np.ones(runs, bool)
    for expected in model.rewards(6, ratio):
        right = generator.random(runs) < rates
        accepted = generator.random(runs) < np.where(right, model.completeness, 1 - model.soundness)
        worth[going & accepted] = np.where(right, 1.0, -ratio)[going & accepted]
        going &= ~accepted
        assert worth.mean() == pytest.approx(expected, abs=3 * worth.std() / runs**0.5)


def test_the_model_is_fitted_to_the_problems_above_and_below_a_half():
    counts = Counts.of([10] * 4, [10, 9, 4, 1], [9, 8, 2, 1])
    model = TwoTypes.fit(counts, mode="paper")
    assert (model.easy_share, model.easy, model.hard, model.completeness) == pytest.approx((0.5, 0.85, 0.15, 1))
    assert model.soundness == counts.soundness("paper")
    partly = TwoTypes.fit(Counts.of([10] * 4, [10, 9, 4, 1], [9, 7, 2, 1], [9, 8, 3, 2]))
    assert partly.completeness == pytest.approx(19 / 22)
    assert partly.soundness == pytest.approx(1 - 5 / 18)
    assert TwoTypes.fit(Counts.of([10], [3], [2])).easy_share == 0


def test_what_is_no_probability_is_refused():
    with pytest.raises(CurveError, match="soundness"):
        TwoTypes(0.5, 0.9, 0.1, 1.2)
    with pytest.raises(CurveError, match="more often"):
        TwoTypes(0.5, 0.1, 0.9, 1)
