"""The command line as tests use it: in this process, or as a process of its own, against the double."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.double import ModelDouble, solvable
from tests.support.threaded import serving, settle
from tts.cli import main

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Outcome]


@pytest.fixture
def double() -> Iterator[ModelDouble]:
    with serving(answer=solvable({}, otherwise=0.6)) as double:
        yield double


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without settings of ours."""
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL"):
        monkeypatch.setenv(name, "")  # so that what a .env file adds is undone as well
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tts(
    clean: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run `tts WORDS...` in this process, until the double, where the test has one, has counted all of it."""

    def run(*words: object, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["tts", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        if "double" in request.fixturenames:
            settle(request.getfixturevalue("double"))
        said = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), said.out, said.err)

    return run


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    """Start `tts WORDS...` as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, **options}
    return subprocess.Popen([sys.executable, "-m", "tts", *map(str, words)], text=True, **given)


def finished(process: subprocess.Popen[str]) -> Outcome:
    """How a process that `start` started ended."""
    with process:
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return Outcome(process.returncode, out or "", err or "")


@pytest.fixture
def task(clean: Path) -> str:
    """The spec of a task of ten problems, p0 to p9, whose answer is 42."""
    lines = [{"id": f"p{i}", "prompt": f"[[p{i}]] What is six times seven?", "answer": 42} for i in range(10)]
    (clean / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return "jsonl:path=questions.jsonl,answer_verifier=numeric_answer"
