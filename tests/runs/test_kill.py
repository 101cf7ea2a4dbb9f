"""A run that is killed at any moment continues without loss and without paying twice."""

from __future__ import annotations

from pathlib import Path

from tests.support.double import ModelDouble
from tests.support.killing import killed, stored
from tts import Experiment


async def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(
    task: str, double: ModelDouble, tmp_path: Path
) -> None:
    double.latency = (0.01, 0.06)
    out = tmp_path / "run"
    model = {"model": "test-model", "base_url": double.base_url, "params": {"seed": 7}, "max_n": 3}
    grid = {"task": task, "models": {"m": model}, "strategies": ["single", "self_consistency:n=16"]}
    survived = await killed(grid, out, double, times=5, requests=(1, 25))
    assert survived
    before = double.stats.choices
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
