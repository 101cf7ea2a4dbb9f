"""Procedural tasks through the whole runner: verified, graded, told apart from the oracle, replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.double import ModelDouble
from tts import Endpoint, Experiment
from tts.runs.analysis import curves


def guess(body: dict[str, Any], rng: Any) -> str:
    """Some answer in the form that is asked for."""
    asked = body["messages"][0]["content"]
    if "truth values" in asked:
        return f"Answer: {', '.join(str(bool(value)) for value in rng.integers(0, 2, 4))}"
    if "cities" in asked:
        return f"Answer: {' -> '.join(map(str, [0, *(1 + rng.permutation(4)), 0]))}"
    if "meeting" in asked:
        return f"Answer: Monday {9 + rng.integers(8):02}:00-{10 + rng.integers(8):02}:00"
    return f"Answer: {rng.choice(list('ABCD'))}"


@pytest.mark.parametrize(
    ("task", "strategy"),
    [
        ("sat3:variables=[4],kinds=[under],each=6", "best_of_n:n=8"),
        ("sat3:variables=[4],kinds=[under],each=6", "self_refine:rounds=4"),
        ("tsp:cities=[5],each=6", "best_of_n:n=16"),
        ("calendar:tenths=[0,3,9],each=2", "first_pass:k=6"),
        ("maze:sizes=[3],each=3", "self_consistency:n=5"),
        ("spatial_map:objects=[6],each=3", "self_consistency:n=5"),
    ],
)
async def test_a_procedural_task_runs_with_its_own_feedback_and_without_its_truth(
    task: str, strategy: str, tmp_path: Path
):
    async with ModelDouble(answer=guess) as double:
        endpoint = Endpoint(model="test-model", base_url=double.base_url)
        table = {"task": task, "models": endpoint, "strategies": [strategy]}
        run = await Experiment.parse(table).run(tmp_path / "run")
    rows = list(run.export())
    assert rows
    assert all(row["correct"] in (0, 1) for row in rows)
    assert not any(row.oracle or row.failures for track in run.tracks for row in track.rows)
    assert curves(run, "samples")
    if task.startswith("sat3"):
        assert all(row["passed"] == row["correct"] for row in rows)
    if task.startswith("tsp"):  # the shortest of sixteen of the 24 orders that there are
        chosen = [row for row in rows if row["chosen"]]
        for row in chosen:
            assert row["score"] == max(other["score"] for other in rows if other["problem"] == row["problem"])
        assert sum(row["correct"] for row in chosen) > sum(row["correct"] for row in rows) / 16
    if strategy.startswith("self_refine"):
        told = [turn["content"] for request in double.requests for turn in request.body["messages"][2::2]]
        assert told
        assert all("clauses are violated" in words for words in told)
