"""`tts report`: tables of one run or several, files where asked for, read-outs that do not extrapolate."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.support.double import ModelDouble


@pytest.fixture
def run(tts: Command, double: ModelDouble, task: str) -> str:
    """The directory of a run of two strategies over ten problems."""
    strategies = ["--strategy", "self_consistency:n=8", "--strategy", "best_of_n:n=8,verifier=oracle"]
    assert tts("run", "--task", task, *strategies, "--out", "one", "--quiet", "--base-url", double.base_url).code == 0
    return "one"


def test_shows_accuracy_curves_and_the_coverage_law_and_writes_one_page(tts: Command, run: str, clean: Path):
    def files() -> set[Path]:
        return {path for path in clean.rglob("*") if "sqlite-" not in path.name}

    before = files()
    ended = tts("report", run)
    assert ended.code == 0
    for words in ("self_consistency:n=8", "(oracle)", "self_consistency:n=8 coverage", "10 problems, test-model"):
        assert words in ended.out
    assert "Coverage law" not in ended.out
    details = tts("report", run, "--details").out
    for words in ("self_consistency:n=8", "majority@k", "pass@k", "(oracle)", "Coverage law", "completion tokens"):
        assert words in details
    assert files() - before == {clean / run / "report.html"}
    assert tts("report", run, "--study", "verifiers").code == 0
    assert tts("report", run, "--json").code == 0
    assert files() - before == {clean / run / "report.html"}


def test_json_has_the_summary_the_points_and_the_read_outs(tts: Command, run: str, double: ModelDouble):
    report = tts("report", run, "--x", "samples", "--at", 2, "--at", 99, "--reach", 0.01, "--json").json
    assert [row["completion_tokens"] for row in report["summary"]] == [double.stats.completion_tokens] * 2
    assert {row["k"] for row in report["curves"]} == {1, 2, 4, 8}
    coverage = {row["k"]: row["accuracy"] for row in report["curves"] if row["label"].endswith("(oracle) coverage")}
    read = {row["asked"]: row for row in report["at"] if row["curve"].endswith("(oracle) coverage")}
    assert read[2]["value"] == pytest.approx(coverage[2])
    assert read[99] | {"value": None, "why_not": "measured from 1 to 8 only"} == read[99]
    assert all(row["value"] == 1 for row in report["reach"])
    assert len(report["coverage_law"]) == 2


def test_filtered_pass_at_k_and_comparisons_are_in_text_json_and_markdown(
    tts: Command, double: ModelDouble, task: str, clean: Path
):
    words = ["--task", task, "--strategy", "best_of_n:n=4,verifier=regex(pattern=42)", "--strategy", "single"]
    assert tts("run", *words, "--out", "one", "--quiet", "--base-url", double.base_url).code == 0
    shown = tts("report", "one", "--format", "md").out
    written = (clean / "one" / "report.md").read_text()
    for text in (shown, written):
        assert "Filtered pass@k" in text
        assert "k of the candidates that the verifier accepted are submitted" in text
        assert "less that of" in text
    report = tts("report", "one", "--json").json
    assert {row["label"].partition(":")[0] for row in report["filtered_pass_at_k"]} == {"best_of_n"}
    (contest,) = report["contests"]
    assert contest["problems"] == 10
    assert contest["words"] in written


def test_what_is_replayed_is_named_where_no_column_says_so(tts: Command, double: ModelDouble, task: str):
    words = ["--task", task, "--strategy", "first_pass:k=4,verifier=oracle", "--strategy", "single", "--quiet"]
    assert tts("run", *words, "--out", "one", "--base-url", double.base_url).code == 0
    note = "replay: candidates in the one order in which they were asked for, not averaged over orders"
    shown, details = (" ".join(tts("report", "one", *more).out.split()) for more in ((), ("--details",)))
    assert f"{note} (first_pass:k=4,verifier=oracle (oracle))" in shown
    assert note in details
    assert f"{note} (" not in details


def test_formats_go_beside_the_run_and_those_of_several_beside_them(tts: Command, run: str, clean: Path):
    assert tts("report", run, "--format", "md", "--format", "png").code == 0
    assert {path.name for path in (clean / run).glob("report.*")} == {"report.md", "report.png"}
    shutil.copytree(run, "two")
    assert tts("report", run, "two").code == 0
    assert (clean / "report.html").is_file()


def test_a_page_that_cannot_be_written_unasked_is_no_error(tts: Command, run: str, clean: Path):
    (clean / run / "report.html").mkdir()
    ended = tts("report", run)
    assert ended.code == 0
    assert "--out" in ended.err
    assert tts("report", run, "--format", "html").code == 2


def test_read_outs_are_shown(tts: Command, run: str):
    ended = tts("report", run, "--x", "samples", "--at", 2, "--at", 99, "--reach", 1.0)
    assert "At 2 samples" in ended.out
    assert "measured from 1 to 8 only" in ended.out
    assert "To reach 100.0%" in ended.out


def test_writes_curves_figure_and_candidates_where_asked(tts: Command, run: str, clean: Path):
    files = ["--out", "c.csv", "--out", "c.parquet", "--out", "c.svg", "--out", "c.md", "--candidates", "all.jsonl"]
    assert tts("report", run, *files).code == 0
    with (clean / "c.csv").open() as file:
        assert {row["estimator"] for row in csv.DictReader(file)} >= {"pass@k", "best-of-k"}
    assert (clean / "c.parquet").stat().st_size > 0
    assert "<svg" in (clean / "c.svg").read_text()
    assert "| `self_consistency:n=8` |" in (clean / "c.md").read_text()
    rows = [json.loads(line) for line in (clean / "all.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 10 * 8
    assert sum(row["chosen"] for row in rows if row["strategy"].startswith("best")) == 10


def test_several_runs_are_compared_under_their_directories_names(
    tts: Command, run: str, double: ModelDouble, task: str
):
    words = ["--task", task, "--strategy", "single", "--quiet", "--base-url", double.base_url]
    assert tts("run", *words, "--out", "two").code == 0
    ended = tts("report", run, "two", "--candidates", "all.csv", "--json")
    labels = {row["label"].partition("/")[0] for row in ended.json["curves"]}
    assert labels == {"one", "two"}
    assert [row["run"] for row in ended.json["summary"]] == ["one", "one", "two"]
    with Path("all.csv").open() as file:
        assert {row["run"] for row in csv.DictReader(file)} == {"one", "two"}


@pytest.mark.parametrize(
    "words", [("report", "."), ("run", "--resume", "--out", "."), ("calibrate", ".", "c.json")], ids=" ".join
)
def test_a_folder_that_only_holds_runs_is_refused_with_their_names(tts: Command, run: str, words: tuple[str, ...]):
    ended = tts(*words)
    assert ended.code == 2
    assert f". is not a run directory but holds such: {run}. Name one of them, or see all with: tts view ." in ended.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["absent"], "absent is not a run directory"),
        (["one", "--x", "smaples"], "samples"),
        (["one", "--x", "flops"], "parameters"),
        (["one", "--candidates", "all.txt"], ".jsonl"),
        (["one", "--out", "absent/c.csv"], "absent/c.csv"),
        (["one", "--out", "c.bmp"], ".svg"),
        (["one", "--out", "c.csv", "--out", "c.bmp"], ".svg"),
    ],
)
def test_what_the_user_must_put_right_is_told_in_one_line_before_the_work(
    tts: Command, run: str, words: list[str], named: str
):
    ended = tts("report", *words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[-1].startswith("error: ")
    assert named in ended.err


def test_specs_with_brackets_are_shown_as_they_are(tts: Command, double: ModelDouble, task: str):
    spec = "best_of_n:n=2,verifier=all_of(verifiers=[oracle,noisy])"
    words = ["--task", task, "--strategy", spec, "--quiet", "--base-url", double.base_url]
    assert tts("run", *words, "--out", "lists").code == 0
    assert spec in tts("report", "lists").out


def test_the_verifiers_are_reported_in_tables_words_and_json(tts: Command, run: str):
    ended = tts("report", run, "--study", "verifiers")
    assert ended.code == 0
    for words in (
        "completeness",
        "false discovery",
        "AUROC",
        "ECE",
        "selecting 1 of 8 by it",
        "it beats a random sample",
    ):
        assert words in ended.out
    (report,) = tts("report", run, "--study", "verifiers", "--json").json["verifiers"]
    assert (report["verifier"], report["candidates"], report["auroc"]) == ("oracle", 80, 1.0)
    assert report["selection"]["n"] == [1, 2, 4, 8]
    assert report["decisions"]["soundness"] == 1.0
    assert len(report["selection"]["majority"]["mean"]) == 4


def test_several_studies_are_shown_together_and_each_has_its_own_json(tts: Command, run: str, clean: Path):
    words = ["report", run, "--study", "repeats", "--study", "heterogeneity", "--format", "csv"]
    said = tts(*words).out
    assert "worst of N" in said
    assert "for a verifier" in said
    assert "Coverage law" not in said
    assert {path.name for path in (clean / run).glob("report.*")} == {"report.csv"}
    assert set(tts(*words, "--json").json) == {"repeats", "heterogeneity"}


@pytest.mark.parametrize(
    ("studies", "named"),
    [
        (["repeat"], "did you mean 'repeats'?"),
        (["timeline:plot=t.bmp"], ".svg"),
        (["tree:problem=absent"], "p0"),
        (["tree:strategy=absent"], "no strategy has 'absent' in it"),
        (["tree:out=tree.png"], ".svg, .mmd"),
        (["imperfect_verifier:plot=absent/rewards.svg"], "no folder absent"),
        (["imperfect_verifier:cost_ratio=[-1]"], "cost_ratio"),
        (["repeats", "heterogeneity", "repeats"], "several of repeats"),
        (["contact_sheet:out=sheet.html"], "no images"),
    ],
)
def test_a_study_that_cannot_be_made_or_answered_says_what_it_takes(
    tts: Command, run: str, studies: list[str], named: str
):
    ended = tts("report", run, *(word for study in studies for word in ("--study", study)))
    assert ended.code == 2
    assert named in ended.err


def test_the_timeline_has_every_call_and_draws_one_problem(tts: Command, run: str, double: ModelDouble, clean: Path):
    report = tts("report", run, "--study", "timeline:plot=t.svg", "--json").json
    [vote, best] = report["timeline"].values()
    assert {row["kind"] for row in vote} == {"policy"}
    assert sum(row["completion_tokens"] for row in vote) == double.stats.completion_tokens
    assert {row["kind"] for row in best} >= {"policy"}
    assert "<svg" in (clean / "t.svg").read_text()
    ended = tts("report", run, "--study", "timeline:plot=t.svg,problem=p3")
    assert "samples waited" in ended.out
    ended = tts("report", run, "--study", "timeline:plot=t.svg,problem=absent")
    assert ended.code == 2
    assert "no calls for the problem 'absent'" in ended.err


def test_a_budget_that_binds_gives_a_curve_over_a_cap(tts: Command, double: ModelDouble, task: str, clean: Path):
    words = ["--task", task, "--strategy", "self_consistency:n=12", "--max-tokens", 60]
    words += ["--budget.completion_tokens", 200]
    assert tts("run", *words, "--out", "one", "--quiet", "--base-url", double.base_url).code == 0
    shown = tts("report", "one", "--format", "md")
    written = (clean / "one" / "report.md").read_text()
    assert "Accuracy by cap on completion tokens" in shown.out
    assert "| at most |" in written
    for text in (" ".join(shown.out.split()), written):
        assert "have fewer candidates than the largest k" in text
        assert "a cap on their completion tokens affords" in text
    report = tts("report", "one", "--json").json
    assert all(row["cap"] >= row["x"] for row in report["curves"])
    assert report["curves"][-1]["x"] == pytest.approx(report["summary"][0]["completion_tokens"] / 10)
    by_k = tts("report", "one", "--by", "k", "--json").json["curves"]
    assert {row["cap"] for row in by_k} == {None}
    assert tts("report", "one", "--by", "budget", "--out", "one.csv").code == 0
    with (clean / "one.csv").open() as file:
        assert [row["cap"] for row in csv.DictReader(file)] == [str(row["cap"]) for row in report["curves"]]
