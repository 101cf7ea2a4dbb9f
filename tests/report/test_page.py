"""The page as a file: all of the run is inside, packed, and nothing of what a model wrote can act."""

import gzip
import json
import re
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.report.conftest import HOSTILE, made
from tts import MockModel, registry
from tts.report import RunComparison, write_page
from tts.report.page import size
from tts.runs import Experiment, Run
from tts.runs.analysis import summary, track_curves

SCRIPT = re.compile(r'<script(?: type="text/plain" id="([^"]*)")?>(.*?)</script>', re.DOTALL)


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(b64decode(text)))


def page_of(comparison: RunComparison, path: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    """The file's text, and what is packed in it by name."""
    write_page(comparison, path, **options)
    text = path.read_text()
    return text, {name: unpacked(body) for name, body in SCRIPT.findall(text) if name}


def test_the_summary_and_the_curves_are_those_of_the_run(run: Run, tmp_path: Path):
    _, packed = page_of(RunComparison([run]), tmp_path / "page.html")
    report = packed["overview"]
    for shown, row in zip(report["tracks"], summary(run), strict=True):
        assert {name: shown[name] for name in ("strategy", "accuracy", "low", "candidates", "completion_tokens")} == {
            name: row[name] for name in ("strategy", "accuracy", "low", "candidates", "completion_tokens")
        }
    names = [one["name"] for one in report["measures"]]
    assert names == ["samples", "completion_tokens", "prompt_tokens", "total_tokens", "seconds", "flops", "money"]
    for measure in names:
        expected = [curve for track in run.tracks for curve in track_curves(track, measure)]
        assert [one["k"] for one in report["curves"][measure]] == [curve.k.tolist() for curve in expected]
        for one, curve in zip(report["curves"][measure], expected, strict=True):
            assert all(abs(a - b) <= 1e-5 * abs(b) for a, b in zip(one["x"], curve.x, strict=True))
    assert report["grid"][0]["outcomes"][0] == "RRRR"
    assert report["grid"][0]["outcomes"][5] == "WWWW"  # 45 has a 4: the weak verifier accepts it
    assert report["verifiers"]
    assert report["resampling"]
    commands = {one["name"]: one["command"] for one in report["studies"]}
    assert commands["repeats"] == f"tts report {run.path} --study repeats"
    assert set(commands) == set(registry.names("studies"))


def test_ten_strategies_have_colours_of_their_own_on_light_and_dark_ground(run: Run, tmp_path: Path):
    text, _ = page_of(RunComparison([run]), tmp_path / "page.html")
    palettes = re.findall(r"^  \[(\"#[^\]]+)\],$", text, re.M)
    assert [len(set(re.findall("#[0-9a-f]{6}", palette))) for palette in palettes] == [10, 10]


def test_every_candidate_is_there_with_verdict_origin_calls_and_cost(run: Run, tmp_path: Path):
    _, packed = page_of(RunComparison([run]), tmp_path / "page.html")
    problem = packed["chunk-0"]["5"]
    assert HOSTILE in problem["prompt"][0]["text"]
    best, vote, refined = problem["cells"]
    assert [one["right"] for one in best["candidates"]] == [0] * 4
    assert all(one["passed"] for one in best["candidates"])
    assert best["tree"] is None
    assert vote["candidates"][0]["notes"]["answer"] == "45"
    assert "42" in refined["candidates"][0]["feedback"]
    assert [(node["answers"], node.get("above")) for node in refined["tree"]] == [([0], None), ([1], 0)]
    for cell in problem["cells"]:
        paid = [account["policy"]["completion_tokens"] for account in (cell["spent"], cell["reused"]) if account]
        assert sum(call[5] for call in cell["calls"]) == sum(paid)


def test_nothing_that_a_model_wrote_can_act(run: Run, tmp_path: Path):
    text, _ = page_of(RunComparison([run]), tmp_path / "page.html")
    assert "evil.example" not in text
    assert "<b>" not in text
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    allowed = set(re.findall(r"sha256-[^&]*=", policy.partition("style-src")[0]))
    code = [body for name, body in SCRIPT.findall(text) if not name]
    assert {f"sha256-{b64encode(sha256(body.encode()).digest()).decode()}" for body in code} == allowed
    assert "default-src &#39;none&#39;" in policy
    assert "connect-src &#39;none&#39;" in policy
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", text)


def test_a_large_run_is_sampled_at_equal_distances_and_keeps_every_outcome(run: Run, tmp_path: Path):
    comparison = RunComparison([run])
    _, packed = page_of(comparison, tmp_path / "page.html", most=-(-size(comparison) // 2))
    chunks = packed["overview"]["chunks"]
    assert [place for place, chunk in enumerate(chunks) if chunk is not None] == [0, 2, 4]
    assert set(packed["chunk-0"]) == {"0", "2", "4"}
    assert all(packed["overview"]["grid"][0]["outcomes"])


async def test_tasks_that_use_the_same_names_for_other_problems_are_kept_apart(run: Run, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    await made(other, problems=2, strategies=("single",)).run(tmp_path / "runs" / "same")
    record = json.loads((tmp_path / "runs/same/run.json").read_text())
    record["problems"]["<b>1"] = "reads otherwise"
    (tmp_path / "runs/same/run.json").write_text(json.dumps(record))
    comparison = RunComparison([run, Run(tmp_path / "runs" / "same")])
    assert [name for name, _ in comparison.problems] == [*(f"<b>{i}" for i in range(6)), "<b>1"]
    assert comparison.place == tmp_path / "runs"


def test_a_wrong_candidate_stands_beside_what_was_expected_and_why_it_ended_on_the_page_and_in_the_table(
    run: Run, tmp_path: Path
):
    _, packed = page_of(RunComparison([run]), tmp_path / "page.html")
    wrong = packed["chunk-0"]["5"]["cells"][0]["candidates"][0]
    assert wrong["graded"] == {"answer": "45", "expected": "42", "feedback": "wrong answer"}
    assert wrong["finish"] == "stop"
    assert "graded" not in packed["chunk-0"]["0"]["cells"][0]["candidates"][0]
    rows = list(run.export())
    told = {(row["answer"], row["expected"], row["graded"], row["finish_reason"]) for row in rows if not row["correct"]}
    assert ("45", "42", "wrong answer", "stop") in told
    assert {row["expected"] for row in rows if row["correct"]} == {None}
    assert not any(one.graded for track in run.tracks for row in track.rows for one in track.candidates(row))


def test_a_wrong_program_is_told_with_the_hidden_test_that_it_fails(tmp_path: Path):
    model = MockModel(lambda body: "```python\ndef f(*args):\n    return 'nonsense'\n```")
    run = Experiment(task="lab_code", strategies="single", models=model, limit=1).run_sync(tmp_path / "run")
    (row,) = run.export()
    assert row["correct"] == 0
    assert row["graded"]


def test_candidates_and_charges_are_read_once_for_all_that_a_report_says(run: Run, tmp_path: Path):
    """Once for each thing of them: their numbers, their answers, what they lack, ..."""
    comparison, asked = RunComparison([run]), list[str]()
    run.db.set_trace_callback(asked.append)
    summary(run)
    comparison.curves("flops")
    write_page(comparison, tmp_path / "report.html")
    once = len(asked)
    whole = [one for one in asked if "cell IN (SELECT" in one]
    assert len(whole) <= 12 * len(run.tracks)
    assert len(set(whole)) == len(whole)
    for measure in ("flops", "money", "seconds", "prompt_tokens"):
        comparison.curves(measure)
    summary(run)
    assert len(asked) == once
