"""Statistics over attempts, against their definitions spelt out attempt by attempt."""

from __future__ import annotations

from math import sqrt
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.curves import CurveError
from tts.studies.repeats import (
    RepeatAccuracy,
    conventional_to_reasoning_gap,
    cost_spread,
    heterogeneity,
    repeats,
    summarise,
)


def matrices(cells: st.SearchStrategy) -> st.SearchStrategy:
    shapes = st.tuples(st.integers(1, 5), st.integers(1, 5))
    return shapes.flatmap(
        lambda shape: st.lists(
            st.lists(cells, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
        )
    )


outcomes = st.sampled_from([(1.0, "a"), (0.0, "b"), (0.0, "c"), (float("nan"), None)])


@given(table=matrices(outcomes))
def test_average_best_worst_and_majority_follow_their_definitions(table: list[list[tuple[float, str | None]]]):
    found = repeats([[flag for flag, _ in row] for row in table], [[said for _, said in row] for row in table])
    n = len(table[0])
    by_attempt = [fmean(1.0 if row[i][0] == 1 else 0.0 for row in table) for i in range(n)]
    assert found.n == n
    assert found.average == pytest.approx(fmean(by_attempt))
    assert found.deviation == (pytest.approx(stdev(by_attempt)) if n > 1 else None)
    best, worst, majority = [], [], []
    for row in table:
        said = [flag for flag, answer in row if answer is not None]
        best.append(max(said, default=0.0))
        worst.append(min(said, default=0.0))
        votes = [answer for _, answer in row if answer is not None]
        top = [answer for answer in set(votes) if votes.count(answer) == max(map(votes.count, votes))]
        majority.append(fmean(answer == "a" for answer in top) if top else 0.0)
    assert (found.best, found.worst, found.majority) == pytest.approx((fmean(best), fmean(worst), fmean(majority)))
    assert found.worst <= found.best
    assert repeats([[flag for flag, _ in row] for row in table]).majority is None


@given(table=matrices(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 1000))))
def test_cost_spread_is_the_mean_deviation_at_a_problem_by_how_it_went(table: list[list[tuple[float, int]]]):
    found = cost_spread([[cost for _, cost in row] for row in table], [[flag for flag, _ in row] for row in table])
    assert found.mean == pytest.approx(fmean(cost for row in table for _, cost in row))
    if len(table[0]) == 1:
        assert found.deviation is found.mixed is None
        return
    groups: dict[str, list[float]] = {"all_right": [], "mixed": [], "all_wrong": []}
    for row in table:
        right = [flag == 1 for flag, _ in row]
        name = "all_right" if all(right) else "mixed" if any(right) else "all_wrong"
        groups[name].append(stdev(cost for _, cost in row))
    assert found.deviation == pytest.approx(fmean(value for group in groups.values() for value in group))
    for name, group in groups.items():
        assert getattr(found, name) == (pytest.approx(fmean(group)) if group else None)


def test_the_gap_is_the_best_average_less_the_lowest_bound():
    models = [RepeatAccuracy(5, 0.78, 0.02, 0.9, 0.6), RepeatAccuracy(5, 0.5, 0.02, 0.745, 0.3)]
    assert conventional_to_reasoning_gap(models) == pytest.approx(0.78 - 0.745)
    with pytest.raises(CurveError, match="none"):
        conventional_to_reasoning_gap([])


def test_tables_without_form_are_refused():
    with pytest.raises(CurveError, match="problems x attempts"):
        repeats([])
    with pytest.raises(CurveError, match="same shape"):
        cost_spread([[1, 2]], [[1]])


# -- heterogeneity ---------------------------------------------------------------------------------------------------


@given(right=st.integers(0, 30), wrong=st.integers(0, 30), epsilon=st.floats(0, 5))
def test_of_passes_and_failures_the_right_stand_out_where_they_are_rare(right: int, wrong: int, epsilon: float):
    if right + wrong == 0:
        return
    found = heterogeneity([1.0] * right + [0.0] * wrong, epsilon=epsilon)
    share = right / (right + wrong)
    assert found.mean == pytest.approx(share)
    assert found.spread == pytest.approx(sqrt(share * (1 - share)))
    edge = 1 / (1 + epsilon)
    if abs(share - edge) > 1e-6:
        assert found.anticoncentration == pytest.approx(share if 0 < share < edge else 0.0)
        assert found.advice == ("neither" if right == 0 else "verifier" if share < edge and wrong else "majority")


@given(rewards=st.lists(st.floats(0, 10), min_size=1, max_size=20), epsilon=st.floats(0.01, 4), scale=st.floats(0.5, 2))
def test_few_stand_out_by_cantelli_and_the_scale_does_not_matter(rewards: list[float], epsilon: float, scale: float):
    found = heterogeneity(rewards, epsilon=epsilon)
    assert found.anticoncentration <= 1 / (1 + epsilon) + 1e-9
    if found.spread > 1e-3:
        margin = np.abs(np.array(rewards) - found.mean - found.spread * sqrt(epsilon)).min()
        if margin > 1e-5:
            scaled = heterogeneity(np.array(rewards) * scale, epsilon=epsilon)
            assert scaled.anticoncentration == found.anticoncentration


def test_what_is_recommended_in_all_is_what_serves_most_problems_that_can_be_served():
    hopeless, rare, usual = heterogeneity([0, 0, 0, 0]), heterogeneity([1, 0, 0, 0]), heterogeneity([1, 1, 1, 0])
    assert [one.advice for one in (hopeless, rare, usual)] == ["neither", "verifier", "majority"]
    assert summarise([hopeless, hopeless, rare]).advice == "verifier"
    assert summarise([hopeless, usual, usual, rare]).advice == "majority"
    assert summarise([hopeless]).advice == "neither"
    summary = summarise([hopeless, rare])
    assert (summary.prompts, summary.mean, summary.anticoncentration) == pytest.approx((2, 0.125, 0.125))
    assert summary.shares == {"verifier": 0.5, "majority": 0.0, "neither": 0.5}
    with pytest.raises(CurveError):
        summarise([])


@pytest.mark.parametrize("wrong", [[], [-1.0], [float("nan")]])
def test_rewards_that_are_none_are_refused(wrong: list[float]):
    with pytest.raises(CurveError, match="reward"):
        heterogeneity(wrong)
