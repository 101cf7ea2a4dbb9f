"""Diversity has the closed forms of its definition; gain and its regression."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tts.curves import CurveError, filtered_pass_at_k, pass_at_k
from tts.curves.fits import fit_line
from tts.curves.plot import save_figure
from tts.studies.diversity import (
    draw_gain,
    group_diversity,
    pair_diversity,
    relative_gain,
    vector_diversity,
)


def similarity(labels: list[int]) -> np.ndarray:
    return np.equal.outer(labels, labels).astype(float)


@given(k=some.integers(1, 12), n=some.integers(1, 12))
def test_k_ideas_of_n_programs_each(k: int, n: int):
    if k * n < 2:
        return
    labels = [i for i in range(k) for _ in range(n)]
    assert group_diversity(labels) == pytest.approx((k - 1) * n / (k * n - 1))
    assert pair_diversity(similarity(labels)) == pytest.approx((k - 1) * n / (k * n - 1))


@given(n=some.integers(1, 40))
def test_one_other_among_equals_and_two_equal_groups(n: int):
    assert group_diversity([0] * (2 * n - 1) + [1]) == pytest.approx(1 / n)
    assert group_diversity([0] * n + [1] * n) == pytest.approx(n / (2 * n - 1))


@given(some.lists(some.integers(0, 4), min_size=2, max_size=20))
def test_groups_and_pairs_agree(labels: list[int]):
    pairs = list(combinations(labels, 2))
    assert group_diversity(labels) == pytest.approx(sum(a != b for a, b in pairs) / len(pairs))
    assert pair_diversity(similarity(labels)) == pytest.approx(group_diversity(labels))


def test_a_pair_that_was_not_judged_counts_neither_way():
    matrix = similarity([0, 0, 1])
    matrix[0, 2] = matrix[2, 0] = np.nan
    assert pair_diversity(matrix) == 0.5
    with pytest.raises(CurveError, match="judged pair"):
        pair_diversity(np.full((3, 3), np.nan))


def test_vectors_differ_by_the_angle_between_them():
    assert vector_diversity([[1, 0], [2, 0]]) == pytest.approx(0)
    assert vector_diversity([[1, 0], [0, 3]]) == pytest.approx(1)
    vectors = np.random.default_rng(0).random((6, 4))
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(vectors, 2)]
    assert vector_diversity(vectors) == pytest.approx(1 - np.mean(cosines))


@pytest.mark.parametrize("measure", [group_diversity, vector_diversity])
def test_one_candidate_alone_has_no_diversity(measure):
    with pytest.raises(CurveError, match="at least two"):
        measure([[1.0]])


def test_filtered_pass_at_k_is_pass_at_k_among_what_passed_the_public_tests():
    ks = [1, 2, 5, 20]
    found = filtered_pass_at_k([0, 4, 10, 30], [0, 1, 0, 3], ks)
    np.testing.assert_allclose(found[0], 0)
    np.testing.assert_allclose(found[1], [1 / 4, 1 / 2, 1, 1])
    np.testing.assert_allclose(found[2], 0)
    np.testing.assert_allclose(found[3], pass_at_k(30, 3, ks))
    assert filtered_pass_at_k(4, 1, 2) == pytest.approx(0.5)
    with pytest.raises(CurveError):
        filtered_pass_at_k([1], [2], 1)


def test_gain_and_its_line():
    assert relative_gain(0.4, 0.6) == pytest.approx(0.5)
    with pytest.raises(CurveError, match="pass@1 of 0"):
        relative_gain(0, 0.5)
    line = fit_line([0.1, 0.2, 0.4], [1.2, 1.4, 1.8])
    assert (line.slope, line.intercept, line.correlation) == pytest.approx((2, 1, 1))
    for x in ([0.1, 0.2], [0.3, 0.3, 0.3]):
        with pytest.raises(CurveError, match="regression"):
            fit_line(x, [1.0] * len(x))


def test_the_figure_has_a_point_each_and_a_line_from_three_on(tmp_path):
    pytest.importorskip("matplotlib")
    points = [("a", 0.1, 0.2), ("b", 0.5, 0.6), ("c", 0.3, 0.5)]
    assert len(draw_gain(points[:2], k=8).axes[0].lines) == 2
    axes = draw_gain(points, k=8).axes[0]
    assert len(axes.lines) == 4
    assert "r = 0.9" in axes.get_title(loc="left")
    assert "pass@8" in axes.get_ylabel()
    save_figure(draw_gain(points, k=8), tmp_path / "gain.svg")
    assert "<svg" in (tmp_path / "gain.svg").read_text()
    with pytest.raises(CurveError, match="no strategy"):
        draw_gain([], k=8)
