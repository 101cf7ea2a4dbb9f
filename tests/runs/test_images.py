"""Runs whose candidates are images: files beside the store, a resume that pays nothing, the contact sheet."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.painter import Painter
from tests.support.vision import Vision
from tests.support.world import drawing_world, scenes
from tts.cli import app
from tts.errors import ConfigError
from tts.prompting import problem_text
from tts.runs import Experiment, Run

STRATEGIES = ("prompt_redesign:n=6,images=true", "prompt_redesign:n=6,images=true,rounds=0")


def experiment(models: Any, folder: Path, *strategies: str) -> Experiment:
    prompts = [{"id": problem.id, "prompt": problem_text(problem)} for problem in scenes(2)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    task = {"name": "jsonl", "path": folder / "prompts.jsonl", "grader": "judge(low=0,high=1,accept=1)"}
    return Experiment.parse({"task": task, "strategies": strategies, "models": {"painter": models}})


async def test_pictures_are_kept_in_the_run_and_never_drawn_twice(tmp_path: Path):
    painter = Painter(fade=0.6)
    async with drawing_world(painter, Vision()) as models:
        plan = experiment(models, tmp_path, *STRATEGIES)
        await plan.run(tmp_path / "run")
        assert len(painter.requests) == 2 * (6 + 3), "the first round is the same for both"
        with closing(sqlite3.connect(tmp_path / "run" / "run.sqlite", isolation_level=None)) as database:
            database.executescript("DELETE FROM cells; DELETE FROM candidates; DELETE FROM charges")
        await plan.run(tmp_path / "run", resume=True)
        assert len(painter.requests) == 2 * (6 + 3)
    files = {path.name for path in (tmp_path / "run" / "images").iterdir()}
    run = Run(tmp_path / "run")
    named = {c.content for track in run.tracks for row in track.rows for c in track.candidates(row)}
    assert {Path(name).name for name in named} == files
    study = f"contact_sheet:out={tmp_path}/sheet.html"
    sheet = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--study", study])
    assert sheet.exit_code == 0, sheet.output
    page = (tmp_path / "sheet.html").read_text()
    assert page.count('<img alt="candidate') == page.count("data:image/png;base64,") == 2 * 2 * 6
    assert page.count('class="selected"') == 4
    assert 'class="met core"' in page
    assert 'class="missed core"' in page
    assert "Make sure of this" in page


async def test_the_sheet_shows_all_pictures_of_a_film(tmp_path: Path):
    film = "dvts:n=2,width=1,images=true,depth=3,verifier=judge(low=0,high=1)"
    painter = Painter(keeps=0.6)
    async with drawing_world(painter, Vision()) as models:
        await experiment(models, tmp_path, film).run(tmp_path / "run")
    study = f"contact_sheet:out={tmp_path}/sheet.html"
    sheet = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--study", study])
    assert sheet.exit_code == 0, sheet.output
    assert (tmp_path / "sheet.html").read_text().count("data:image/png;base64,") == painter.drawn == 2 * 2 * 3


def test_prompts_without_a_truth_are_refused_unless_a_grader_is_named(tmp_path: Path):
    from tts.tasks.jsonl import Jsonl

    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Draw <a cat>."}\n')
    with pytest.raises(ConfigError, match="grader="):
        list(Jsonl(path=tmp_path / "prompts.jsonl").examples())
    (example,) = Jsonl(path=tmp_path / "prompts.jsonl", grader="judge").examples()  # type: ignore[arg-type]
    assert example.truth.name == "judge"
