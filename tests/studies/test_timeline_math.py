"""When calls were made: what they are, how busy servers were, how long samples waited."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts.curves import CurveError
from tts.curves.plot import save_figure
from tts.runs.timed_calls import TimedCall, calls_of
from tts.studies.timeline import draw_timeline, utilisation, waiting
from tts.types import Charge, Usage


def call(lane: int | None, kind: str, start: float, end: float) -> TimedCall:
    return TimedCall(lane, kind, start, end)


def test_a_completion_is_a_call_with_its_prompt_and_a_score_is_one_by_itself():
    charges = [
        (0, Charge("a", "draft", Usage(requests=1, prompt_tokens=30), 100.0)),
        (0, Charge("a.0", "draft", Usage(completion_tokens=8, seconds=2.0), 100.0)),
        (1, Charge("a.1", "draft", Usage(completion_tokens=9, seconds=2.0), 100.0)),
        (0, Charge("b", "target", Usage(requests=1, prompt_tokens=38, completion_tokens=1, seconds=0.5), 102.0)),
    ]
    assert calls_of(charges) == [
        TimedCall(0, "draft", 100.0, 102.0, 30, 8),
        TimedCall(1, "draft", 100.0, 102.0, 30, 9),
        TimedCall(0, "target scoring", 102.0, 102.5, 38, 1),
    ]


def test_busy_is_the_share_of_time_with_a_call_and_waiting_is_the_rest_of_a_samples_life():
    calls = [call(0, "draft", 0, 4), call(1, "draft", 2, 4), call(0, "target", 6, 8), call(1, "draft", 8, 10)]
    draft, target = utilisation(calls)
    assert (draft["calls"], draft["seconds"], draft["elapsed"], draft["peak in flight"]) == (3, 8, 10, 2)
    assert draft["busy"] == pytest.approx(0.6)
    assert draft["mean in flight"] == pytest.approx(0.8)
    assert target["busy"] == 1.0
    assert waiting(calls) == (6, pytest.approx(6 / 16))  # 2 of 8 seconds, and 4 of 8


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 100), st.floats(0.01, 50)), min_size=1, max_size=30))
def test_shares_are_shares(spans: list[tuple[int, float, float]]):
    calls = sorted((call(lane, "draft", at, at + long) for lane, at, long in spans), key=lambda one: one.start)
    [row] = utilisation(calls)
    assert 0 < row["busy"] <= 1 + 1e-9
    assert row["busy"] <= row["mean in flight"] + 1e-9
    assert row["mean in flight"] <= row["peak in flight"] + 1e-9
    assert row["peak in flight"] <= len(calls)
    assert -1e-9 <= waiting(calls)[1] < 1


def test_the_figure_is_written_in_the_format_of_its_name(tmp_path: Path):
    calls = [call(0, "draft", 0, 4), call(1, "draft", 2, 4), call(None, "target", 6, 8), call(None, "target", 7, 9)]
    for suffix in ("svg", "png"):
        save_figure(draw_timeline({"one": calls, "other": calls[:2], "nothing": []}), tmp_path / f"schedule.{suffix}")
    assert "waiting" in (tmp_path / "schedule.svg").read_text()
    with pytest.raises(CurveError, match="format"):
        save_figure(draw_timeline({"one": calls}), tmp_path / "schedule.bmp")
    with pytest.raises(CurveError, match="no calls"):
        draw_timeline({"nothing": []})
