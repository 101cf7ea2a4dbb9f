"""A run that is killed at any moment continues without loss and without paying twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from pathlib import Path

import numpy as np

from tests.support.double import ModelDouble
from tts import Endpoint, Experiment

CHILD = """
import asyncio, sys
from tts import Endpoint, Experiment
task, url, out = sys.argv[1:]
endpoint = Endpoint(model="test-model", base_url=url, params={"seed": 7}, max_n=3)
experiment = Experiment.parse({"task": task, "models": endpoint, "strategies": ["single", "self_consistency:n=16"]})
asyncio.run(experiment.run(out, resume=True))
"""


def stored(out: Path) -> dict[tuple[bytes, int], str]:
    if not (out / "run.sqlite").exists():
        return {}
    with sqlite3.connect(out / "run.sqlite") as db:
        tables = db.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'samples'").fetchone()[0]
        rows = db.execute("SELECT key, occurrence, json_extract(data, '$.text') FROM samples") if tables else ()
        return {(key, occurrence): text for key, occurrence, text in rows}


async def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(
    task: str, double: ModelDouble, tmp_path: Path
) -> None:
    double.latency = (0.01, 0.06)
    generator, out = np.random.default_rng(), tmp_path / "run"
    survived: dict[tuple[bytes, int], str] = {}
    for _ in range(5):
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, task, double.base_url, str(out))
        served = double.stats.served + int(generator.integers(1, 25))
        while double.stats.served < served and child.returncode is None:
            await asyncio.sleep(0.001)
        if child.returncode is None:
            os.kill(child.pid, signal.SIGKILL)
        await child.wait()
        await double.idle()
        now = stored(out)
        assert survived.items() <= now.items(), "what was stored stays as it was"
        survived = now
    assert survived
    before = double.stats.choices
    endpoint = Endpoint(model="test-model", base_url=double.base_url, params={"seed": 7}, max_n=3)
    grid = {"task": task, "models": endpoint, "strategies": ["single", "self_consistency:n=16"]}
    run = await Experiment.parse(grid).run(out, resume=True)
    assert double.stats.choices - before == 20 * 16 - len(survived), "nothing stored is asked for again"
    whole = await Experiment.parse(grid).run(tmp_path / "uninterrupted")
    assert stored(out) == stored(tmp_path / "uninterrupted")
    for one, other in zip(run.tracks, whole.tracks, strict=True):
        assert {row.problem: flags.tolist() for row, flags in zip(one.rows, one.correct, strict=True)} == {
            row.problem: flags.tolist() for row, flags in zip(other.rows, other.correct, strict=True)
        }
        assert {(row.problem, row.selected) for row in one.rows} == {(row.problem, row.selected) for row in other.rows}
        assert one.usage().completion_tokens == other.usage().completion_tokens
