"""`tts calibrate`: the scores of one run decide in the next, if both were made alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.support.double import ModelDouble
from tests.support.solutions import continued
from tests.support.threaded import serving
from tts.runs import Run

ATTS = "atts:n=4,draft_tokens=60,target_tokens=40"


@pytest.fixture
def pair() -> Iterator[ModelDouble]:
    with serving(models=["small", "large"], answer=continued) as double:
        yield double


@pytest.fixture
def grid(clean: Path, task: str, pair: ModelDouble) -> str:
    """A configuration with two models and nothing to do."""
    models = "".join(
        f'[models.pair.{role}]\nmodel = "{model}"\nbase_url = "{pair.base_url}"\n'
        for role, model in (("draft", "small"), ("target", "large"))
    )
    (clean / "grid.toml").write_text(f"task = {json.dumps(task)}\nstrategies = []\n{models}")
    return "grid.toml"


def test_the_scores_of_a_run_calibrate_the_next(tts: Command, grid: str):
    assert tts("run", grid, "--strategy", ATTS, "--out", "first", "--quiet").code == 0
    ended = tts("calibrate", "first", "scores.json")
    assert ended.code == 0
    scores = json.loads(Path("scores.json").read_text())["scores"]
    assert f"wrote scores.json: {len(scores)} scores" in ended.err
    assert {one["question"] for one in scores} == {f"p{i}" for i in range(10)}
    assert {one["turn"] for one in scores} >= {0, 1, 2}
    words = ["--strategy", f"{ATTS},calibration=scores.json,by=turn", "--out", "second", "--quiet"]
    assert tts("run", grid, *words).code == 0
    [track] = Run("second").tracks
    turns = [turn for row in track.rows for one in track.candidates(row) for turn in one.notes["turns"]]
    assert 0.2 < sum(turn["rejected"] for turn in turns) / len(turns) < 0.6
    assert tts("calibrate", "first", "scores.json").code == 2


def test_a_calibration_for_other_chunks_is_refused_with_the_reason(tts: Command, grid: str, pair: ModelDouble):
    assert tts("run", grid, "--strategy", ATTS, "--out", "first", "--quiet", "--limit", 2).code == 0
    assert tts("calibrate", "first", "scores.json").code == 0
    asked = pair.stats.received
    other = f"{ATTS.replace('draft_tokens=60', 'draft_tokens=80')},calibration=scores.json"
    ended = tts("run", grid, "--strategy", other, "--out", "second", "--quiet", "--limit", 2)
    assert ended.code == 2
    assert "draft_tokens was 60, is 80" in ended.err
    assert pair.stats.received == asked + 1  # whether the target can score at all


def test_a_run_without_scored_drafts_calibrates_nothing(tts: Command, grid: str):
    assert (
        tts("run", grid, "--strategy", f"{ATTS},target_tokens=0", "--out", "first", "--quiet", "--limit", 2).code == 0
    )
    ended = tts("calibrate", "first", "scores.json")
    assert ended.code == 2
    assert "no scored drafts" in ended.err
