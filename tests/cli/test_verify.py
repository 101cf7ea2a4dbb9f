"""`tts verify`: verdicts on a file of samples, for people and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from tts.cli.verify import EPILOG, verify
from tts.errors import ConfigError

PROBLEM = {
    "task_id": "HumanEval/0",
    "prompt": 'def after(x):\n    """The next number."""\n',
    "entry_point": "after",
    "test": "def check(candidate):\n    assert candidate(10) == 11\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "problems.jsonl").write_text(json.dumps(PROBLEM))
    lines = [{"task_id": "HumanEval/0", "completion": f"    return x + {step}\n"} for step in (1, 2, 1, 3)]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def tts(*words: str) -> Result:
    app = typer.Typer(rich_markup_mode=None)
    app.command("verify", epilog=EPILOG)(verify)
    return CliRunner().invoke(app, list(words))


def test_verdicts_are_counted_and_written(folder: Path):
    said = tts("samples.jsonl", "--task", "humaneval:path=problems.jsonl")
    assert said.exit_code == 0, said
    assert "pass@1" in said.output
    assert "50.0%" in said.output
    assert "4 samples of 1 problem in" in said.output
    rows = [json.loads(line) for line in (folder / "samples.jsonl_results.jsonl").read_text().splitlines()]
    assert [row["passed"] for row in rows] == [True, False, True, False]


def test_json_has_the_same(folder: Path):
    said = tts("samples.jsonl", "--task", "humaneval:path=problems.jsonl", "--out", "out.jsonl", "--json")
    found = json.loads(said.stdout)
    assert found["kinds"] == {"passed": 2, "wrong": 2}
    assert found["pass@k"] == {"1": pytest.approx(0.5)}
    assert (found["results"], found["missing"], found["problems"]) == ("out.jsonl", [], 1)


def test_pass_at_k_has_an_interval_and_says_where_a_problem_has_too_few_samples(folder: Path):
    problems = [{**PROBLEM, "task_id": f"HumanEval/{i}"} for i in range(3)]
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)))
    lines = [
        {"task_id": f"HumanEval/{i}", "completion": f"    return x + {1 + (i + j) % 2}\n"}
        for i, count in enumerate((10, 10, 2))
        for j in range(count)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("samples.jsonl", "--task", "humaneval:path=problems.jsonl")
    said = tts(*words)
    assert "no pass@10: 1 problem has fewer samples" in said.output
    found = json.loads(tts(*words, "--json").stdout)
    assert found["pass@k"] == {"1": pytest.approx(0.5)}
    assert found["too few samples"] == {"10": 1}
    low, high = found["intervals"]["1"]
    assert 0 < low < 0.5 < high < 1
    assert f"{100 * low:.1f} to {high:.1%}" in said.output


def test_a_file_that_is_not_there_is_named(folder: Path):
    said = tts("absent.jsonl", "--task", "humaneval:path=problems.jsonl")
    assert isinstance(said.exception, ConfigError)
    assert "absent.jsonl" in str(said.exception)
