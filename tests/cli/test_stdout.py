"""Stdout is for results: what a library prints meanwhile, as Ray does of its nodes, goes to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import pytest

from tts import Experiment, MockModel
from tts.cli.doctor import _survey
from tts.cli.run import _execute
from tts.runs.executors import LocalExecutor
from tts.runs.progress import Progress


class Talkative(LocalExecutor):
    """Prints when it is entered, while it is asked, and when it is left."""

    async def __aenter__(self) -> Self:
        print("a node has joined")
        return self

    async def __aexit__(self, *_: object) -> None:
        print("a node has gone")

    async def survey(self) -> list[dict[str, Any]]:
        print("a node is old")
        return []


async def test_a_survey_prints_nothing_of_its_own(capsys: pytest.CaptureFixture[str]):
    assert await _survey(Talkative()) == []
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 3)


def test_a_run_prints_nothing_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def answer(request: dict[str, Any]) -> str:
        print("asked")
        return "Answer: 4"

    (tmp_path / "task.jsonl").write_text('{"id": "a", "prompt": "2 + 2?", "answer": 4}\n')
    experiment = Experiment.parse(
        {
            "task": {"name": "jsonl", "path": str(tmp_path / "task.jsonl"), "answer_verifier": "numeric_answer"},
            "strategies": "single",
            "models": {"mock": MockModel(answer)},
        }
    )
    run = _execute(experiment, tmp_path / "run", False, Progress(), LocalExecutor(), [])
    assert len(run.tracks) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "asked" in said.err
