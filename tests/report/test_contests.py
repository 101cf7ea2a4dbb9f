"""Which strategy is best, and whether that can be said at all: compared problem by problem, on those that all have."""

import json
import random
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.report.test_page import page_of
from tts import Endpoint, MockModel
from tts.report import RunComparison, markdown
from tts.report.overview import overview
from tts.runs import Experiment, Run
from tts.runs.analysis import curves, summary, track_summary
from tts.studies.repeats import parallel_report
from tts.studies.verifiers import Verifiers, verifier_report
from tts.tables import Table

MANY = 40


def knowing(problems: Iterable[int], model: str) -> Endpoint:
    """A model that solves these problems."""
    known = set(problems)

    def answer(request: dict[str, Any]) -> str:
        number = int(re.findall(r"\[(\d+)\]", str(request["messages"]))[0])
        return f"Answer: {42 if number in known else 7}"

    return MockModel(answer, model=model)


async def run_of(folder: Path, name: str = "run", *, limit: int = MANY, words: str = "", **known: Iterable[int]) -> Run:
    """A run in which each model solves the problems that it knows."""
    questions = folder / f"{name}.jsonl"
    lines = [{"id": f"p{i}", "prompt": f"{words}[{i}] six times seven?", "answer": 42} for i in range(limit)]
    questions.write_text("\n".join(map(json.dumps, lines)))
    task = {"name": "jsonl", "path": str(questions), "answer_verifier": "numeric_answer"}
    models = {model: knowing(problems, model) for model, problems in known.items()}
    return await Experiment.parse({"task": task, "strategies": ["single"], "models": models}).run(folder / name)


async def test_among_equals_nobody_is_called_best(tmp_path: Path) -> None:
    run = await run_of(tmp_path, a=range(20), b=range(20, 40), c=range(10, 31))
    comparison = RunComparison([run])
    (contest,) = comparison.contests
    assert contest.best.track.model == "c"
    assert [one.track.model for one in contest.equals] == ["a", "b"]
    assert contest.words.startswith("no strategy is shown to be better than another")
    assert "paired over 40 problems" in contest.words
    _, packed = page_of(comparison, tmp_path / "page.html")
    assert packed["overview"]["contests"] == [contest.as_dict()]
    assert contest.words in markdown(comparison, "completion_tokens")


async def test_what_two_have_in_common_does_not_hide_their_difference(tmp_path: Path) -> None:
    """Their own intervals overlap; a solves all that b solves, and six more."""
    comparison = RunComparison([await run_of(tmp_path, a=range(28), b=range(22))])
    (contest,) = comparison.contests
    own = {shown.track.model: track_summary(shown.track) for shown in comparison.tracks}
    assert own["a"]["low"] < own["b"]["high"]
    assert contest.words.startswith("single · a is better than every other")
    ((other, difference),) = contest.differences
    assert other.track.model == "b"
    assert difference.mean[0] == pytest.approx(6 / 40)
    assert difference.low[0] > 0


async def test_the_most_accurate_is_named_with_those_that_may_be_its_equals(tmp_path: Path) -> None:
    (contest,) = RunComparison([await run_of(tmp_path, a=range(30), b=range(29), c=range(5))]).contests
    assert contest.words.startswith("single · a is the most accurate, but not shown to be better than single · b ")
    assert [one.track.model for one in contest.equals] == ["b"]


async def test_runs_are_compared_over_the_problems_that_all_have(tmp_path: Path) -> None:
    """The short run looks better on its own eight problems, which the other solves as well."""
    whole = await run_of(tmp_path, "whole", a=range(20))
    part = await run_of(tmp_path, "part", limit=8, b=range(6))
    (contest,) = RunComparison([whole, part]).contests
    assert contest.best.track.model == "a"
    assert contest.problems == 8
    assert contest.differences[0][1].mean[0] == pytest.approx(2 / 8)


async def test_runs_without_problems_in_common_are_not_compared(tmp_path: Path) -> None:
    one = await run_of(tmp_path, "one", a=range(20), b=range(3))
    other = await run_of(tmp_path, "other", words="Other: ", c=range(20))
    contests = RunComparison([one, other]).contests
    assert [contest.best.label for contest in contests] == ["one/single · a", "other/single · c"]
    assert [len(contest.differences) for contest in contests] == [1, 0]
    assert contests[1].words == ""


async def test_each_task_has_a_panel_a_frontier_and_a_contest_of_its_own(tmp_path: Path) -> None:
    whole, part = await run_of(tmp_path, "whole", a=range(20)), await run_of(tmp_path, "part", limit=8, b=range(6))
    idle = MockModel(lambda _: "Answer: 1", model="c")
    lab = {"task": "lab_math", "limit": 5, "strategies": ["single"], "models": {"c": idle}}
    other = await Experiment.parse(lab).run(tmp_path / "other")
    comparison = RunComparison([whole, other, part])
    found = overview(comparison)
    panels = [(panel["task"], panel["tracks"], panel["frontier"] is None) for panel in found["panels"]]
    assert panels == [("jsonl", [0, 2], False), ("lab_math", [1], True)]
    assert list(comparison.panels("samples")[0]) == ["jsonl", "lab_math"]
    assert found["panels"][0]["frontier"]["problems"] == 8
    assert {curve["track"] for curve in found["panels"][0]["frontier"]["curves"]["samples"]} == {0, 2}
    assert [(contest.best.run, contest.problems) for contest in comparison.contests] == [(0, 8), (1, 5)]


async def test_table_curve_comparison_and_study_have_one_rule_for_ties(tmp_path: Path) -> None:
    """The verifier accepts two answers alike, and votes tie: each figure is the mean over all orders, and says so."""
    questions, chance = tmp_path / "ties.jsonl", random.Random(0)
    lines = [{"id": f"p{i}", "prompt": f"[{i}] six times seven?", "answer": 42} for i in range(12)]
    questions.write_text("\n".join(map(json.dumps, lines)))
    table = {
        "task": {"name": "jsonl", "path": str(questions), "answer_verifier": "numeric_answer"},
        "strategies": ["best_of_n:n=6,verifier=regex(pattern=4)", "self_consistency:n=6,answer=numeric_answer"],
        "models": {"mock": MockModel(lambda _: f"Answer: {chance.choice((42, 40, 7))}")},
    }
    run = await Experiment.parse(table).run(tmp_path / "run")
    comparison = RunComparison([run])
    rows = {f"{row['strategy']} · mock": row for row in summary(run)}
    live = {
        track.label: np.mean([right[row.selected] for row, right in zip(track.rows, track.correct, strict=True)])
        for track in run.tracks
    }
    assert any(rows[label]["accuracy"] != pytest.approx(live[label]) for label in rows)
    drawn = {curve.label: curve for curve in curves(run)}
    for label, row in rows.items():
        assert drawn[label].y[-1] == pytest.approx(row["accuracy"])
        assert drawn[f"{label} coverage"].y[-1] == pytest.approx(row["coverage"])
        ends = drawn[f"{label} coverage"]
        assert (row["coverage_low"], row["coverage_high"]) == pytest.approx((ends.low[-1], ends.high[-1]))
    (contest,) = comparison.contests
    ((other, difference),) = contest.differences
    apart = rows[contest.best.label]["accuracy"] - rows[other.label]["accuracy"]
    assert difference.mean[0] == pytest.approx(apart)
    (report,) = verifier_report(run)
    assert report.selection
    assert report.selection.majority
    best, vote = drawn[run.tracks[0].label], drawn[run.tracks[1].label]
    np.testing.assert_allclose(report.selection.verifier.mean, best.y)
    np.testing.assert_allclose(report.selection.majority.mean, vote.y)
    repeated = {one.track: one.repeats for one in parallel_report(run)}[run.tracks[1].label]
    assert repeated.majority == pytest.approx(vote.y[-1])
    assert repeated.intervals["majority"] == pytest.approx((vote.low[-1], vote.high[-1]))
    assert repeated.intervals["best"] == pytest.approx(
        (rows[vote.label]["coverage_low"], rows[vote.label]["coverage_high"])
    )
    assert "ties averaged" in markdown(comparison, "completion_tokens")
    tables = [shown for shown in Verifiers().findings({"": run}).shown if isinstance(shown, Table)]
    assert any("ties averaged" in str(table.notes) for table in tables)


async def test_a_winner_is_named_by_chance_about_as_seldom_as_the_level_says(tmp_path: Path) -> None:
    """Three models of one accuracy: among a hundred draws of problems, hardly any names a best one."""
    run = await run_of(tmp_path, a=range(20), b=range(20), c=range(20))
    comparison, rng = RunComparison([run]), np.random.default_rng(0)
    named = 0
    for _ in range(100):
        right = {shown.label: dict.fromkeys(comparison.problems, 0.0) for shown in comparison.tracks}
        for solved in right.values():
            solved.update({key: float(rng.random() < 0.5) for key in solved})
        contest = comparison._contest([(shown, right[shown.label]) for shown in comparison.tracks])
        assert contest
        named += not contest.equals
    assert named <= 5


async def test_the_frontier_is_over_the_problems_that_all_have(tmp_path: Path) -> None:
    """Alone a is better, because it has not met the hard problems yet; on those that both have, b is."""
    run = await run_of(tmp_path, a=range(18), b=range(20))
    whole = overview(RunComparison([run]))
    assert [panel["frontier"] for panel in whole["panels"]] == [None]
    with closing(sqlite3.connect(run.path / "run.sqlite", isolation_level=None)) as database:
        database.execute("DELETE FROM cells WHERE model = 'a' AND CAST(SUBSTR(problem, 2) AS INTEGER) >= 20")
    found = overview(RunComparison([Run(run.path)]))
    tracks = [track["model"] for track in found["tracks"]]
    frontier = found["panels"][0]["frontier"]
    own = {tracks[one["track"]]: one for one in found["curves"]["samples"] if one["kind"] == "selected"}
    paired = {tracks[one["track"]]: one for one in frontier["curves"]["samples"] if one["kind"] == "selected"}
    assert own["a"]["y"][-1] == pytest.approx(0.9)
    assert own["b"]["y"][-1] == pytest.approx(0.5)
    assert (paired["a"]["problems"], paired["b"]["problems"], frontier["problems"]) == (20, 20, 20)
    assert paired["a"]["y"][-1] == pytest.approx(0.9)
    assert paired["b"]["y"][-1] == pytest.approx(1.0)
    tokens = {tracks[one["track"]]: one["x"][-1] for one in frontier["curves"]["completion_tokens"]}
    assert tokens["a"] == pytest.approx(tokens["b"], rel=0.05)


async def test_equals_are_called_so_in_the_text_on_the_page_and_in_the_data(tmp_path: Path) -> None:
    comparison = RunComparison([await run_of(tmp_path, a=range(20), b=range(20))])
    (contest,) = comparison.contests
    assert contest.words.startswith("no strategy is shown to be better than another")
    assert (contest.differences[0][1].low[0], contest.differences[0][1].high[0]) == pytest.approx(
        (-0.08, 0.08), abs=0.03
    )
    page, packed = page_of(comparison, tmp_path / "page.html")
    assert packed["overview"]["contests"][0]["equals"] == ["single · b"]
    assert packed["overview"]["contests"][0]["words"] == contest.words
    assert "Most accurate" in page  # what the card is called where there are equals
    assert contest.words in contest.table().notes
    assert "may be equal" in markdown(comparison, "completion_tokens")


def test_curves_of_different_tasks_have_panels_of_their_own_and_short_names(tmp_path: Path):
    model = MockModel(lambda body: "Answer: 42")
    for task in ("lab_math", "lab_code"):
        Experiment(task=task, strategies="best_of_n:n=2,verifier=oracle", models=model, limit=2).run_sync(
            tmp_path / task
        )
    comparison = RunComparison([Run(tmp_path / "lab_math"), Run(tmp_path / "lab_code")])
    panels, missing = comparison.panels("samples")
    name = "best_of_n:n=2,verifier=oracle (oracle)"
    assert {task: [curve.label for curve in curves] for task, curves in panels.items()} == {
        task: [name, f"{name} coverage"] for task in ("lab_math", "lab_code")
    }
    assert missing == []
