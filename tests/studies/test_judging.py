"""Measures of a verifier against their definitions, spelt out pair by pair and bin by bin."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.curves import CurveError, mean_ranks
from tts.studies.judging import (
    auroc,
    aurocs,
    calibration,
    decisions,
    rank_correlation,
    rank_correlations,
    within_problems,
)

scores = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 0.5, 1.0, 3.0]) | st.floats(-10, 10)
judged = st.lists(st.tuples(scores, st.booleans()), min_size=1, max_size=12)
rows = st.tuples(st.sampled_from([0.0, 1.0, np.nan]), st.booleans())


def columns(pairs: list[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [value for value, _ in pairs], [flag for _, flag in pairs]


@given(pairs=judged)
def test_auroc_is_how_often_a_right_one_scores_above_a_wrong_one(pairs: list[tuple[float, bool]]):
    right = [value for value, flag in pairs if flag]
    wrong = [value for value, flag in pairs if not flag]
    above = [1.0 if one > other else 0.5 if one == other else 0.0 for one, other in product(right, wrong)]
    expected = sum(above) / len(above) if above else None
    assert auroc(*columns(pairs)) == (None if expected is None else pytest.approx(expected))


@given(values=st.lists(scores, min_size=1, max_size=12))
def test_a_rank_counts_who_is_smaller_and_half_of_who_is_equal(values: list[float]):
    expected = [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]
    assert mean_ranks(values).tolist() == expected


@given(pairs=judged)
def test_rank_correlation_is_that_of_the_ranks(pairs: list[tuple[float, bool]]):
    values, flags = columns(pairs)
    if len(set(values)) == 1 or len(set(flags)) == 1:
        assert rank_correlation(values, flags) is None
    else:
        expected = np.corrcoef(mean_ranks(values), mean_ranks(flags))[0, 1]
        assert rank_correlation(values, flags) == pytest.approx(expected)


@given(said=st.lists(rows, max_size=12))
def test_rates_are_shares_of_what_was_decided(said: list[tuple[float, bool]]):
    found = decisions(*columns(said))
    known = [(passed > 0, right) for passed, right in said if passed == passed]

    def share(flags: list[bool]) -> float | None:
        return sum(flags) / len(flags) if flags else None

    assert found.decided == len(known)
    assert found.completeness == share([passed for passed, right in known if right])
    assert found.soundness == share([not passed for passed, right in known if not right])
    assert found.false_discovery == share([not right for passed, right in known if passed])


@given(
    pairs=st.lists(st.tuples(st.floats(0, 1) | st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]), st.booleans()), min_size=1),
    bins=st.integers(1, 12),
)
def test_calibration_error_is_the_weighted_gap_of_the_bins(pairs: list[tuple[float, bool]], bins: int):
    members: dict[int, list[tuple[float, bool]]] = {}
    for value, flag in pairs:
        members.setdefault(min(int(value * bins), bins - 1), []).append((value, flag))
    gaps = [abs(sum(v for v, _ in part) - sum(flag for _, flag in part)) for part in members.values()]
    found = calibration(*columns(pairs), bins=bins)
    assert found is not None
    assert found.error == pytest.approx(sum(gaps) / len(pairs))
    assert found.count.tolist() == [len(members[i]) for i in sorted(members)]
    assert found.low.tolist() == [i / bins for i in sorted(members)]


def test_scores_that_are_no_probabilities_have_no_calibration():
    assert calibration([0.5, 1.5], [1, 0]) is None
    assert calibration([-0.1], [1]) is None
    assert calibration([], []) is None


def test_within_problems_leaves_out_those_that_agree():
    scores, flags, problems = [1.0, 5.0, 2.0, 6.0, 9.0, 8.0], [0, 1, 1, 1, 0, 1], np.array([0, 2, 0, 2, 1, 1])
    assert within_problems(aurocs, scores, flags, problems) == (0.5, 2)
    assert within_problems(aurocs, [1.0], [1], np.array([0])) == (None, 0)
    assert within_problems(aurocs, [], [], np.array([], dtype=int)) == (None, 0)


@given(st.lists(st.tuples(scores, st.booleans(), st.integers(0, 3)), min_size=1, max_size=20))
def test_measures_of_many_problems_are_those_of_each_alone(candidates: list[tuple[float, bool, int]]):
    problems = np.array([problem for *_, problem in candidates])
    alone = [columns([(score, flag) for score, flag, one in candidates if one == problem]) for problem in range(4)]
    for together, measure in ((aurocs, auroc), (rank_correlations, rank_correlation)):
        values, flags = columns([(score, flag) for score, flag, _ in candidates])
        found = together(values, flags, problems).tolist()
        expected = [np.nan if (value := measure(*part)) is None else value for part in alone[: problems.max() + 1]]
        np.testing.assert_array_equal(found, expected)


def test_candidates_that_could_not_be_graded_are_refused():
    with pytest.raises(CurveError, match="graded"):
        auroc([1.0], [np.nan])
    with pytest.raises(CurveError, match="one truth for each"):
        auroc([1.0, 2.0], [1])
