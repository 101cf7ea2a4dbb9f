"""Conformal rejection holds its rate: exact order statistics, super-uniform p-values, strata, growth and drift."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts.errors import ConfigError
from tts.strategies.speculation.conformal import (
    STEP,
    Calibration,
    Scored,
    load,
    p_values,
    rate_within,
    rejects,
    save,
)

scores = st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=40)
rates = st.integers(0, 40).map(lambda i: i / 40)


def close_to(rate: float, outcomes: Any) -> bool:
    """Whether the mean of independent outcomes is within 3 standard errors of `rate`."""
    outcomes = np.asarray(outcomes, dtype=float)
    return abs(outcomes.mean() - rate) <= 3 * math.sqrt(rate * (1 - rate) / outcomes.size)


def at(score: float, question: str = "q", turn: int = 0, tokens: int = 100) -> Scored:
    return Scored(score, question, turn, tokens)


@given(scores, scores, st.sampled_from(["higher", "lower"]))
def test_the_p_value_is_the_share_that_is_at_least_as_good_itself_included(new, known, better):
    found = p_values(new, known, better=better)
    sign = 1 if better == "higher" else -1
    counted = [(1 + sum(sign * other >= sign * score for other in known)) / (len(known) + 1) for score in new]
    assert found == pytest.approx(counted)


def test_known_order_statistics():
    scores = np.arange(1, 1601)
    kept = ~rejects(p_values(scores, scores, better="lower"), 0.4)
    assert scores[kept].tolist() == list(range(1, 960))  # better than the k-th best, k = floor(0.6 * 1601)
    assert not rejects(p_values(range(1, 10), range(1, 10), better="higher"), 0.0).any()
    assert rejects(p_values(range(1, 10), range(1, 10), better="higher"), 1.0).all()


@given(scores, st.floats(0.001, 1), st.sampled_from([(), ("turn",), ("length",), ("question", "turn")]))
def test_a_calibration_gives_the_p_values_of_its_stratum(known, u, by):
    places = [at(score, f"q{i % 2}", i % 3, 2 ** (i % 4)) for i, score in enumerate(known)]
    calibration = Calibration(places, better="higher", by=by)

    def stratum(one: Scored) -> tuple[Any, ...]:
        return tuple({"question": one.question, "turn": one.turn, "length": one.tokens}[name] for name in by)

    for new in places:
        same = [one.score for one in places if stratum(one) == stratum(new)]
        assert calibration.p_value(new, u) == pytest.approx(p_values(new.score, same, better="higher", u=u)[0])


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([0.5, 1.0, 8.0]))
def test_p_values_of_exchangeable_scores_are_super_uniform(seed, size, step):
    rng = np.random.default_rng(seed)
    draws = np.round(rng.gamma(2.0, size=(400, size + 1)) / step) * step  # with ties; any distribution
    p = np.array([p_values(row[0], row[1:], better="higher")[0] for row in draws])
    grid = np.arange(1, 20) / 20
    shares = (p[:, None] <= grid + 1e-12).mean(axis=0)
    assert (shares <= grid + 4.5 * np.sqrt(grid * (1 - grid) / len(p))).all()


@pytest.mark.parametrize("size", [1, 16, 300])
@pytest.mark.parametrize("rate", [0.1, 0.4, 0.75])
def test_with_random_ties_the_realised_rate_is_the_nominal_one_at_every_size(size, rate):
    rng = np.random.default_rng(5)
    draws = np.round(rng.standard_normal((6000, size + 1)), 1)
    u = 1 - rng.random(6000)
    p = np.array([p_values(row[0], row[1:], better="lower", u=v)[0] for row, v in zip(draws, u, strict=True)])
    assert close_to(rate, rejects(p, rate))


def questions(
    rng: np.random.Generator, n: int, m: int, *, spread: float = 2.0, slope: float = 0.0, turns: int = 1
) -> list[Scored]:
    """Scores that may differ more between questions than within, and fall from turn to turn."""
    level = rng.normal(scale=spread, size=n)
    return [
        at(level[q] + rng.normal() - slope * turn, f"q{q}", turn, int(rng.integers(1, 500)))
        for q in range(n)
        for _ in range(m)
        for turn in range(turns)
    ]


@pytest.mark.parametrize("by", [(), ("question",), ("turn",), ("length",), ("turn", "length")])
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_every_kind_of_fixed_calibration_holds_the_rate(by, better):
    outcomes, rate = [], 0.4
    for seed in range(300):
        rng = np.random.default_rng(seed)
        drawn = questions(rng, 12, 5, turns=2, slope=1.0 if "turn" in by else 0.0)
        new = drawn[int(rng.integers(len(drawn)))]
        if "question" in by:
            known = [one for one in drawn if one is not new]
        else:  # a new question
            known = [one for one in drawn if one.question != new.question]
        calibration = Calibration(known, better=better, by=by, grows=False)
        outcomes.append(rejects(calibration.p_value(new, 1 - rng.random()), rate))
    assert close_to(rate, outcomes)


def test_growing_it_holds_the_rate_from_the_first_score_on():
    first, all_ = [], []
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        calibration = Calibration(better="higher")
        outcomes = []
        for score in rng.standard_normal(12):
            outcomes.append(rejects(calibration.p_value(at(score), 1 - rng.random()), 0.4))
            calibration.add(at(score))
        first.append(outcomes[0])
        all_ += outcomes
    assert close_to(0.4, first)
    assert close_to(0.4, all_)


@given(st.integers(0, 10**9), st.sampled_from([0.0, 0.1, 0.4, 1.0]), st.sampled_from([-2.0, 0.0, 2.0]))
@settings(max_examples=30)
def test_balanced_the_realised_rate_keeps_its_bound_in_whatever_order_scores_come(seed, rate, slope):
    rng = np.random.default_rng(seed)
    calibration, count, rejected = Calibration(better="higher"), 400, 0
    for number, noise in enumerate(rng.standard_normal(count)):
        scored = at(noise + slope * number / count)
        p = calibration.balanced(scored, calibration.p_value(scored, 1 - rng.random()), rate)
        assert 0 < p <= 1
        rejected += bool(rejects(p, rate))
        calibration.add(scored)
    assert abs(rejected / count - rate) <= (1 + STEP) / (STEP * count)


def test_where_late_scores_are_poorer_the_rate_holds_only_if_balanced():
    rng, rate, rejected = np.random.default_rng(0), 0.4, np.zeros(2)
    plain, balanced = Calibration(better="higher"), Calibration(better="higher")
    for number, noise in enumerate(rng.standard_normal(2000)):
        scored, u = at(noise - number / 1000), 1 - rng.random()
        rejected[0] += rejects(plain.p_value(scored, u), rate)
        rejected[1] += rejects(balanced.balanced(scored, balanced.p_value(scored, u), rate), rate)
        plain.add(scored)
        balanced.add(scored)
    assert rejected[0] / 2000 > 0.5
    assert abs(rejected[1] / 2000 - rate) < 0.01


def test_calibrated_on_the_first_turn_only_the_rate_drifts_and_by_turn_or_window_it_does_not():
    rng, rate = np.random.default_rng(0), 0.4
    known, new = (questions(rng, 1500, 2, spread=0, slope=0.4, turns=8) for _ in range(2))
    new.sort(key=lambda one: one.turn)
    kinds = {
        "first turn": Calibration([one for one in known if one.turn == 0], better="higher", grows=False),
        "by turn": Calibration(known, better="higher", by=("turn",), grows=False),
        "online by turn": Calibration(better="higher", by=("turn",)),
        "window": Calibration(better="higher", window=300),
    }
    rates = {name: np.zeros(8) for name in kinds}
    for name, calibration in kinds.items():
        for one in new:
            rates[name][one.turn] += rejects(calibration.p_value(one, 1 - rng.random()), rate) / 3000
            calibration.add(one)
    error = 3 * math.sqrt(2 * rate * (1 - rate) / 3000)  # of the scores and of what they are compared with
    assert abs(rates["first turn"][0] - rate) < error
    assert rates["first turn"][-1] > 0.9
    for name in ("by turn", "online by turn"):
        assert np.abs(rates[name] - rate).max() < error
    assert np.abs(rates["window"] - rate).max() < 0.1


def test_a_window_forgets_the_oldest_scores_of_its_stratum():
    calibration = Calibration(better="higher", window=3, by=("turn",))
    for score in [9.0, 9.0, 1.0, 2.0, 3.0]:
        calibration.add(at(score))
    calibration.add(at(50.0, turn=1))
    assert calibration.p_value(at(2.5)) == p_values(2.5, [1, 2, 3], better="higher")[0]


def test_a_fixed_calibration_answers_for_later_turns_with_its_last_and_for_no_other_question():
    known = [at(float(i), "a", turn) for turn in (0, 1) for i in range(10 * turn, 10 * turn + 10)]
    by_turn = Calibration(known, better="higher", by=("question", "turn"), grows=False)
    assert by_turn.p_value(at(14.5, "a", 7)) == by_turn.p_value(at(14.5, "a", 1)) == pytest.approx(6 / 11)
    with pytest.raises(ConfigError, match="no scores of 'b'"):
        by_turn.p_value(at(0.0, "b"))


def test_a_missing_score_is_never_a_p_value():
    with pytest.raises(ValueError, match="missing"):
        p_values(float("nan"), [1.0], better="higher")
    with pytest.raises(ValueError, match="missing"):
        Calibration([at(1.0)], better="higher").p_value(at(float("nan")))


def test_a_token_budget_is_a_rate():
    assert rate_within(8000, samples=16, rounds=10, tokens=500) == pytest.approx(0.1)
    assert rate_within(10**9, samples=16, rounds=10, tokens=500) == 1.0


def test_a_calibration_file_is_refused_when_anything_that_shaped_it_differs(tmp_path: Path):
    path, made_with = tmp_path / "calibration.json", {"target": "large", "draft_tokens": 500, "first_token": "scored"}
    save(path, [at(-1.0), at(-2.0)], better="higher", made_with=made_with)
    assert load(path, made_with, better="higher").p_value(at(-1.5)) == pytest.approx(2 / 3)
    with pytest.raises(ConfigError, match=r"draft_tokens was 500, is 200; target was 'large', is 'other'"):
        load(path, made_with | {"target": "other", "draft_tokens": 200}, better="higher")
    with pytest.raises(ConfigError, match="better was 'higher', is 'lower'"):
        load(path, made_with, better="lower")
    with pytest.raises(ConfigError, match="never overwritten"):
        save(path, [], better="higher", made_with=made_with)
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "absent", made_with, better="higher")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ConfigError, match="no calibration file"):
        load(tmp_path / "other.json", made_with, better="higher")
