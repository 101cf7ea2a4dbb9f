from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tts.errors import ConfigError
from tts.tasks.humaneval import HumanEval
from tts.tasks.samples import read_samples, verify_samples, write_samples

PROBLEM = {
    "prompt": 'def after(x):\n    """The next number."""\n',
    "entry_point": "after",
    "test": "def check(candidate):\n    assert candidate(10) == 11\n    assert candidate(0) == 1\n",
}
RIGHT, WRONG = "    return x + 1\n", "    return 11\n"


@pytest.fixture
def task(tmp_path: Path) -> HumanEval:
    path = tmp_path / "problems.jsonl"
    records = [{"task_id": f"HumanEval/{number}", **PROBLEM} for number in range(3)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return HumanEval(path=path)


def samples(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


async def test_samples_get_their_verdicts_in_the_order_of_the_file(task: HumanEval, tmp_path: Path):
    path = samples(
        tmp_path / "samples.jsonl",
        {"task_id": "HumanEval/0", "completion": RIGHT, "seed": 7},
        {"task_id": "HumanEval/0", "completion": WRONG},
        {"task_id": "HumanEval/1", "solution": PROBLEM["prompt"] + RIGHT},
        {"task_id": "HumanEval/1", "solution": "def after(x):\n    return 1 / 0\n"},
    )
    scores = await verify_samples(path, task)
    assert scores.results == tmp_path / "samples.jsonl_results.jsonl"
    rows = [json.loads(line) for line in scores.results.read_text().splitlines()]
    assert [row["passed"] for row in rows] == [True, False, True, False]
    assert rows[0] == {"task_id": "HumanEval/0", "completion": RIGHT, "seed": 7} | {
        "passed": True,
        "result": "passed",
        "kind": "passed",
    }
    assert rows[1]["result"] == "failed: after(0): expected 1, got 11"
    assert "ZeroDivisionError" in rows[3]["result"]
    assert (scores.samples, scores.passed) == (
        {"HumanEval/0": 2, "HumanEval/1": 2},
        {"HumanEval/0": 1, "HumanEval/1": 1},
    )
    assert scores.kinds == {"error": 1, "passed": 2, "wrong": 1}
    assert scores.missing == ("HumanEval/2",)
    assert scores.pass_at == pytest.approx({1: 0.5})


async def test_pass_at_k_is_given_where_every_problem_has_k_samples(task: HumanEval, tmp_path: Path):
    texts = [RIGHT] + [WRONG] * 9
    records = [{"task_id": f"HumanEval/{n}", "completion": text} for n in range(3) for text in texts]
    scores = await verify_samples(samples(tmp_path / "s.jsonl", *records), task, out=tmp_path / "out.jsonl")
    assert scores.pass_at == pytest.approx({1: 0.1, 10: 1.0})
    assert (tmp_path / "out.jsonl").exists()


async def test_a_limit_may_be_given(task: HumanEval, tmp_path: Path):
    path = samples(tmp_path / "s.jsonl", {"task_id": "HumanEval/0", "completion": "    while True: pass\n"})
    scores = await verify_samples(path, task, timeout=0.3)
    assert scores.kinds == {"cpu": 1}
    assert "timed out" in scores.results.read_text()


def test_what_is_written_can_be_read(tmp_path: Path):
    pairs = [("HumanEval/0", RIGHT), ("HumanEval/1", "é\n")]
    for key in ("solution", "completion"):
        write_samples(tmp_path / "s.jsonl", pairs, key=key)
        assert [(id, text) for _, id, text in read_samples(tmp_path / "s.jsonl")] == pairs
        assert key in json.loads((tmp_path / "s.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"task_id": "HumanEval/0"}, "neither 'solution' nor 'completion'"),
        ({"completion": RIGHT}, "no 'task_id'"),
        ({"task_id": "HumanEval/99", "completion": RIGHT}, "no problem 'HumanEval/99'"),
        ({"task_id": "HumanEval/0", "solution": 3}, "'solution' must be text"),
    ],
)
async def test_a_sample_that_cannot_be_used_is_named(record: Any, words: str, task: HumanEval, tmp_path: Path):
    path = samples(tmp_path / "s.jsonl", {"task_id": "HumanEval/0", "completion": RIGHT}, record)
    with pytest.raises(ConfigError, match=rf"s\.jsonl:2: .*{words}"):
        await verify_samples(path, task)
