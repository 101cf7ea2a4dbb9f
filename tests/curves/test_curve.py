from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.curves import Curve, CurveError, TooFewSamples, pass_at_k, powers_of_two, replay


def line(x, y) -> Curve:
    k = np.arange(1, len(x) + 1)
    x, y = np.array(x, float), np.array(y, float)
    return Curve("line", "replay", k, x, y, y, y, problems=10, x_name="compute", x_unit="tokens")


def test_accuracy_is_read_between_points_and_not_beyond_them():
    curve = line([100, 200, 400], [0.2, 0.6, 0.7])
    assert curve.accuracy_at(100) == pytest.approx(0.2)
    assert curve.accuracy_at(150) == pytest.approx(0.4)
    assert curve.accuracy_at(300) == pytest.approx(0.65)
    with pytest.raises(CurveError, match=r"from 100 to 400 compute \(tokens\), not at 401"):
        curve.accuracy_at(401)


def test_compute_to_reach_is_the_first_crossing_even_if_the_curve_falls_later():
    curve = line([100, 200, 400, 800], [0.2, 0.6, 0.5, 0.7])
    assert curve.compute_to_reach(0.4) == pytest.approx(150)
    assert curve.compute_to_reach(0.6) == pytest.approx(200)
    assert curve.compute_to_reach(0.65) == pytest.approx(700)
    assert curve.compute_to_reach(0.1) == 100
    assert curve.compute_to_reach(0.71) is None


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 1)), min_size=1, max_size=8), st.floats(0, 1))
def test_the_two_read_outs_invert_each_other(points, accuracy):
    curve = line(np.cumsum([dx for dx, _ in points]), [y for _, y in points])
    compute = curve.compute_to_reach(accuracy)
    if compute is None:
        assert curve.y.max() < accuracy
    elif compute > curve.x[0]:
        assert curve.accuracy_at(compute) == pytest.approx(accuracy, abs=1e-6)


def test_a_curve_averages_problems_and_compute():
    values = pass_at_k([4, 4, 4], [0, 2, 4], [1, 4])
    cost = np.array([[10, 40], [20, 80], [30, 120]])
    curve = Curve.from_values("gpt", "pass@k", [1, 4], values, x=cost, x_name="compute", x_unit="tokens")
    assert curve.y.tolist() == pytest.approx([0.5, 2 / 3])
    assert curve.x.tolist() == [20, 80]
    assert (curve.low <= curve.y).all()
    assert (curve.y <= curve.high).all()
    assert (curve.problems, curve.x_label) == (3, "compute (tokens)")


def test_a_curve_counts_samples_unless_told_otherwise():
    curve = Curve.from_values("gpt", "pass@k", [1, 4], pass_at_k([4, 4], [1, 2], [1, 4]))
    assert (curve.x.tolist(), curve.x_label) == ([1, 4], "samples")


@pytest.mark.parametrize(("k", "x"), [([2, 1], [1, 2]), ([1, 2], [2, 1]), ([1, 2, 3], [1, 2, 3])])
def test_points_out_of_order_or_of_unequal_number_are_refused(k, x):
    with pytest.raises(CurveError):
        Curve.from_values("gpt", "pass@k", k, np.zeros((3, 2)), x=x)


def test_powers_of_two_end_at_the_limit():
    assert powers_of_two(1).tolist() == [1]
    assert powers_of_two(8).tolist() == [1, 2, 4, 8]
    assert powers_of_two(100).tolist() == [1, 2, 4, 8, 16, 32, 64, 100]


def test_replay_reads_each_prefix_of_the_recorded_run():
    costs = [[5, 9, 20], [1, 2, 3]]
    correct = [[False, True, False], [True, True, True]]
    values, compute = replay(costs, correct, [1, 3])
    assert values.tolist() == [[0, 0], [1, 1]]
    assert compute.tolist() == [[5, 20], [1, 3]]
    values, compute = replay(costs, correct, [1, 2, 3])
    axis = {"x": compute, "x_name": "compute", "x_unit": "tokens"}
    curve = Curve.from_values("tree search", "replay", [1, 2, 3], values, **axis)
    assert curve.estimator == "replay"
    assert curve.y.tolist() == [0.5, 1, 0.5]
    assert curve.x.tolist() == [3, 5.5, 11.5]


def test_a_problem_that_ended_by_itself_keeps_its_selection_and_its_cost():
    costs, correct = [[5, 9, 20], [1]], [[False, False, True], [True]]
    values, compute = replay(costs, correct, [1, 2, 3], finished=[False, True])
    assert values.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert compute.tolist() == [[5, 9, 20], [1, 1, 1]]


def test_replaying_beyond_what_was_run_is_an_error():
    with pytest.raises(TooFewSamples, match=r"replay at k=3 .* problem 1 .* has 1"):
        replay([[5, 9, 20], [1]], [[0, 0, 1], [1]], [1, 3], finished=[True, False])
    with pytest.raises(CurveError, match="one cumulative cost and one flag"):
        replay([[5, 9]], [[1]], 1)
    with pytest.raises(CurveError, match="no candidates"):
        replay([[]], [[]], 1, finished=[True])
