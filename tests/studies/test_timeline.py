"""A run keeps when every call was made, also those of samples that were ended early."""

from __future__ import annotations

from pathlib import Path

from tests.runs.test_kill_atts import grid
from tests.support.double import ModelDouble
from tests.support.solutions import continued
from tts import Experiment
from tts.runs.timed_calls import calls
from tts.studies.timeline import utilisation


async def test_every_token_that_was_paid_for_is_in_the_timeline(task: str, tmp_path: Path):
    async with ModelDouble(models=["small", "large"], answer=continued, latency=(0.001, 0.01)) as double:
        table = grid(task, double, "atts:n=12,draft_tokens=60,target_tokens=40") | {"stop_early": True}
        run = await Experiment.parse(table).run(tmp_path / "run")
    [track] = run.tracks
    assert any(row.ended == "settled" for row in track.rows)
    every = calls(track)
    assert any(call.lane is None for call in every)
    assert sum(call.completion_tokens for call in every) == track.usage().completion_tokens
    assert {row["kind"] for row in utilisation(every)} == {"draft", "target", "target scoring"}
    one = calls(track, "p0")
    assert 0 < len(one) < len(every)
    assert {call.lane for call in one} - {None} <= set(range(12))
