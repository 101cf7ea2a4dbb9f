"""OpenTelemetry spans of runs: one for each cell, one for each call below it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.collector import collector, spans_of
from tts import Experiment, MockModel
from tts.runs.progress import Progress, TracedProgress


async def test_each_cell_is_a_span_with_its_calls_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    grid = Experiment(
        task="lab_math",
        strategies=["single", "best_of_n:n=3,verifier=oracle"],
        models=MockModel(lambda body: "Answer: 42", max_n=1),
        limit=2,
    )
    async with collector(monkeypatch) as received:
        progress = TracedProgress(Progress())
        monkeypatch.setattr(progress, "end", lambda: None)  # which sends the rest, and the loop is the collector's
        run = await grid.run(tmp_path / "run", progress=progress)
        await asyncio.to_thread(progress._tracer.close)
    spans = spans_of(received)
    cells = [(span, told) for span, told in spans if "tts.problem" in told]
    assert len(cells) == 4
    for span, told in cells:
        calls = [one for other, one in spans if other.parent_span_id == span.span_id]
        count = 1 if told["tts.strategy"].string_value == "single" else 3
        assert sum(one["gen_ai.operation.name"].string_value == "chat" for one in calls) >= count
        tokens = sum(one["gen_ai.usage.output_tokens"].int_value for one in calls)
        assert tokens == told["gen_ai.usage.output_tokens"].int_value > 0
    whole = sum(told["gen_ai.usage.output_tokens"].int_value for _, told in cells)
    assert whole == sum(track.usage().completion_tokens for track in run.tracks)
