"""What others read of a run: right answers, pairs, and samples, each with where it comes from."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tts
from tts.cli import main
from tts.errors import ConfigError
from tts.report import RunComparison, write_candidates, write_lines, write_report
from tts.report.exports import exported, file_name
from tts.runs import Run
from tts.tasks.jsonl import Jsonl

PROMPTS: dict[str, Any] = {
    "p0": "p0: 6 * 7?",
    "p1": [{"role": "system", "content": "Brief."}, {"role": "user", "content": "?"}],
}
SAID = {"p0": ["Answer: 42", "Answer: 1", "Answer: 42", ""], "p1": ["It is 42.", "42", "Answer: 42", "Answer: 4"]}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two problems with four samples each, chosen by a vote and by the truth."""
    lines = [json.dumps({"id": id, "prompt": prompt, "answer": "42"}) + "\n" for id, prompt in PROMPTS.items()]
    (tmp_path / "problems.jsonl").write_text("".join(lines))
    left = {id: iter(texts) for id, texts in SAID.items()}
    model = tts.MockModel(lambda body: next(left["p0" if len(body["messages"]) == 1 else "p1"]), max_n=1)
    task = Jsonl(path=tmp_path / "problems.jsonl", answer_verifier="numeric_answer")
    strategies = ["best_of_n:n=4,verifier=regex(pattern=It)", "best_of_n:n=4,verifier=oracle", "self_consistency:n=2"]
    return tts.Experiment(task=task, strategies=strategies, models=model).run_sync(tmp_path / "run")


def turns(prompt: Any) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def test_right_answers_are_there_once_with_where_they_come_from(run: Run):
    lines = list(exported(run, "sft"))
    found = {(tuple(map(str, line["messages"][:-1])), line["messages"][-1]["content"]) for line in lines}
    expected = {"p0": ["Answer: 42"], "p1": ["It is 42.", "42", "Answer: 42"]}
    assert len(lines) == 4
    assert found == {(tuple(map(str, turns(PROMPTS[id]))), text) for id, texts in expected.items() for text in texts}
    (answer,) = lines[0]["provenance"]["answers"]
    assert (lines[0]["provenance"]["run"], lines[0]["provenance"]["label"]) == ("run", "truth")
    assert (answer["problem"], answer["model"], answer["seed"], answer["position"]) == ("p0", "mock", 0, 0)


def test_the_verifier_may_say_what_is_right_but_not_where_it_is_the_truth(run: Run):
    assert [line["messages"][-1]["content"] for line in exported(run, "sft", "verifier")] == ["It is 42."]


def test_a_pair_has_a_right_answer_and_a_wrong_one(run: Run):
    pairs = [(line["prompt"], line["chosen"], line["rejected"]) for line in exported(run, "preference")]
    said = [[{"role": "assistant", "content": text}] for text in ("Answer: 42", "Answer: 1", "It is 42.", "Answer: 4")]
    assert pairs == [(turns(PROMPTS["p0"]), *said[:2]), (turns(PROMPTS["p1"]), *said[2:])]


def test_samples_are_those_of_one_strategy_with_every_repetition(run: Run):
    found = [(line["task_id"], line["solution"]) for line in exported(run, "samples")]
    assert sorted(found) == sorted((id, text) for id, texts in SAID.items() for text in texts)


def test_programs_go_out_without_the_words_around_them(tmp_path: Path):
    prompt = 'def double(x):\n    """Twice x."""\n'
    problem = {"task_id": "H/0", "prompt": prompt, "entry_point": "double", "canonical_solution": "    return 2 * x\n"}
    problem["test"] = "def check(candidate):\n    assert candidate(2) == 4\n"
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem))
    said = iter([f"Here:\n```python\n{prompt}    return x + x\n```\nDone.", "    return 2 * x\n", ""])
    model = tts.MockModel(lambda body: next(said), max_n=1)
    task = f"humaneval:path={tmp_path / 'problems.jsonl'}"
    run = tts.Experiment(task=task, strategies="repeated_sampling:n=3", models=model).run_sync(tmp_path / "run")
    samples = [line for line in exported(run, "samples") if "completion" in line]
    assert len(samples) == 2
    for program in (text for line in samples for text in (line["solution"], prompt + line["completion"])):
        found: dict[str, Any] = {}
        exec(program, found)
        assert found["double"](4) == 8


def test_inspect_lists_opens_and_scores_what_it_is_given(run: Run, monkeypatch: pytest.MonkeyPatch):
    log, scorer = pytest.importorskip("inspect_ai.log"), pytest.importorskip("inspect_ai.scorer")
    score = pytest.importorskip("inspect_ai").score
    monkeypatch.setattr("sys.argv", ["tts", "report", str(run.path), "--export", "inspect", "--json"])
    with pytest.raises(SystemExit):
        main()
    (info,) = log.list_eval_logs(str(run.path))
    header, whole = log.read_eval_log(info, header_only=True), log.read_eval_log(info)
    right = next(curve for curve in run.curves() if curve.estimator == "pass@k").y[0]
    assert header.results.scores[0].metrics["accuracy"].value == pytest.approx(right)
    anew = score(whole, scorer.includes(), model="none/none", action="overwrite", display="none")
    included = [sample.target in sample.output.completion for sample in whole.samples]
    assert anew.results.scores[0].metrics["accuracy"].value == pytest.approx(sum(included) / len(included))
    assert {(sample.id, sample.epoch) for sample in whole.samples} == {(id, i) for id in SAID for i in range(1, 5)}


def test_other_problems_than_the_runs_are_refused(run: Run):
    path = Path(run.record["config"]["task"]["path"])
    path.write_text(path.read_text().replace("p0: 6 * 7", "p0: 6 * 8"))
    with pytest.raises(ConfigError, match="'p0' is no longer what it was"):
        list(exported(run, "sft"))


def test_the_command_writes_them_beside_the_run_and_says_how_many(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = ["--export", "sft", "--export", "samples", "--label", "verifier", "--json"]
    monkeypatch.setattr("sys.argv", ["tts", "report", str(run.path), *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert len((run.path / "sft.jsonl").read_text().splitlines()) == 1
    assert "sft.jsonl: 1 line\n" in capsys.readouterr().err
    assert len((run.path / "samples.jsonl").read_text().splitlines()) == 8


@pytest.mark.parametrize("kind", ["sft", "preference", "samples", "lm_eval", "inspect"])
@pytest.mark.parametrize("why", ["other problems", "no permission"])
def test_the_command_refuses_an_export_before_any_work(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: Any, why: str
):
    if why == "no permission":
        (run.path / file_name(run, kind)).mkdir()
    else:
        path = Path(run.record["config"]["task"]["path"])
        path.write_text(path.read_text().replace("p0: 6 * 7", "p0: 6 * 8"))
    monkeypatch.setattr("sys.argv", ["tts", "report", str(run.path), "--export", kind])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().out == ""
    assert not (run.path / "report.html").exists()


@pytest.mark.parametrize("kind", ["lm_eval", "inspect"])
def test_a_form_that_needs_right_answers_in_words_is_refused_at_once_where_programs_are_tested(
    tmp_path: Path, kind: Any
):
    tests = {"entry_point": "double", "calls": [{"args": [2], "expected": 4}]}
    (tmp_path / "problems.jsonl").write_text(json.dumps({"id": "d", "prompt": "Write double(x).", "tests": tests}))
    model = tts.MockModel(lambda body: "def double(x): return 2 * x")
    task = Jsonl(path=tmp_path / "problems.jsonl")
    run = tts.Experiment(task=task, strategies="single", models=model).run_sync(tmp_path / "run")
    with pytest.raises(ConfigError, match="'d' has no right answer in words"):
        exported(run, kind)


def test_an_export_that_is_refused_leaves_what_was_there(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("before\n")

    def rows() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise ConfigError("has no right answer in words")

    for name in ("rows.jsonl", "new.jsonl"):
        with pytest.raises(ConfigError, match="no right answer"):
            write_lines(rows(), tmp_path / name)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("rows.jsonl", "before\n")]


@pytest.mark.parametrize("name", ["a.html", "a.md", "a.csv", "a.png", "a.svg", "a.pdf", "candidates.csv"])
def test_what_a_disk_is_too_small_for_is_told_and_leaves_what_was_there(run: Run, tmp_path: Path, name: str):
    path, comparison = tmp_path / name, RunComparison([run])
    before, limits = b"before", resource.getrlimit(resource.RLIMIT_FSIZE)

    def write() -> None:
        if name.startswith("candidates"):
            write_candidates(comparison, path)
        else:
            write_report(comparison, path, "completion_tokens")

    write()  # whatever is kept from the first time on, such as fonts
    path.write_bytes(before)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(ConfigError, match=f"cannot write .*{name}: File too large"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (["--out", "curves.pdf"], "matplotlib", "plot"),
        (["--format", "png"], "matplotlib", "plot"),
        (["--out", "curves.parquet"], "pyarrow", "data"),
        (["--study", "timeline:plot=times.svg"], "matplotlib", "plot"),
        (["--track", "tensorboard"], "tensorboard", "trackers"),
    ],
)
def test_a_missing_extra_is_told_before_any_work(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    module: str,
    extra: str,
):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("sys.argv", ["tts", "report", str(run.path), *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert f"ttscale[{extra}]" in said.err
