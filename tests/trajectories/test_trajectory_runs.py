"""Runs over trajectories: curves and costs are exact, and a run that is killed continues without paying twice."""

from __future__ import annotations

import json
from math import comb
from pathlib import Path
from typing import Any

import pytest

from tests.support.acting import acting, policy
from tests.support.killing import answers, killed_midway
from tests.support.scripted import ScriptedServer, choice
from tts import Experiment, Run
from tts.runs.analysis import curves, summary
from tts.tasks.repair_tasks import RepairTasks, solution

PROBLEMS, N = 3, 8
EXAMPLES = list(RepairTasks().examples())[:PROBLEMS]
SOLUTIONS = {str(one.problem.turns[-1]["content"]): solution(one.problem) for one in EXAMPLES}
TURNS = 3


def one_in_four(turns: list[dict[str, Any]], number: int) -> Any:
    """Looks around, then repairs the fault in every fourth trajectory and adds a note in others; then it is done."""
    asked = next(turn["content"] for turn in turns if turn["role"] == "user")
    patch = next(patch for question, patch in SOLUTIONS.items() if asked.startswith(question))
    note = f"--- /dev/null\n+++ b/note_{number % 4}.txt\n@@ -0,0 +1,1 @@\n+seen\n"
    said = sum(turn["role"] == "assistant" for turn in turns)
    look = ("bash", {"command": "date +%N"})  # never says the same twice
    return [look, ("apply_patch", {"patch": note if number % 4 else patch}), "Done."][said]


def table(server: ScriptedServer, *strategies: str) -> dict[str, Any]:
    endpoint = {"model": "test-model", "base_url": server.base_url, "api_key_env": "NO_KEY"}
    return {"task": "repair_tasks", "limit": PROBLEMS, "strategies": list(strategies), "models": {"m": endpoint}}


async def test_coverage_selection_and_cost_of_trajectories_are_exact(tmp_path: Path):
    async with acting(one_in_four) as server:
        strategies = (f"best_of_n:n={N}", f"self_consistency:n={N}", f"first_pass:k={N}", "single")
        run = await Experiment.parse(table(server, *strategies)).run(tmp_path / "run")
        asked = len(server.seen)
    best, votes, first, single = run.tracks
    assert [flags.astype(bool).sum() for flags in best.correct] == [2] * PROBLEMS
    drawn = {curve.estimator: curve for curve in curves(run, ks=[1, 2, 3, 8]) if "best_of_n" in curve.label}
    for i, k in enumerate((1, 2, 3, 8)):  # 2 of 8 are right, and the tests that are shown tell which
        chance = 1 - comb(6, k) / comb(8, k)
        for estimator in ("pass@k", "best-of-k"):
            assert abs(float(drawn[estimator].y[i]) - chance) < 1e-9
    assert best.usage().completion_tokens == PROBLEMS * N * TURNS * 5
    assert votes.usage().completion_tokens == best.usage().completion_tokens, "the same trajectories"
    assert asked == PROBLEMS * (1 + N * (TURNS - 1)), "which are drawn once"
    assert [row["accuracy"] for row in summary(run)][:1] == [1.0]
    assert first.usage().completion_tokens < best.usage().completion_tokens
    assert single.usage().requests == PROBLEMS * TURNS
    assert all(one.notes["trajectory"]["ended"] == "stop" for row in best.rows for one in best.candidates(row))


async def test_killed_in_the_middle_of_trajectories_a_run_continues_without_paying_twice(tmp_path: Path):
    out = tmp_path / "run"
    async with acting(one_in_four) as server:
        grid = table(server, f"best_of_n:n={N}")
        await killed_midway(grid, out, server, kept=1, answered=5)
        await killed_midway(grid, out, server, kept=3, answered=9)
        kept, before = answers(out), sum(body.get("n") or 1 for body in server.seen)
        assert 0 < kept < PROBLEMS * N * TURNS
        run = await Experiment.parse(grid).run(out, resume=True)
        drawn = sum(body.get("n") or 1 for body in server.seen) - before
    assert drawn == PROBLEMS * N * TURNS - kept, "nothing that is stored is asked for again"
    (track,) = run.tracks
    assert track.usage().completion_tokens == PROBLEMS * N * TURNS * 5
    assert all(len(list(track.candidates(row))) == N for row in track.rows)
    assert isinstance(run, Run)


async def test_a_tournament_compares_what_trajectories_leave_behind(tmp_path: Path):
    def judge(body: dict[str, Any]) -> Any:
        asked = body["messages"][-1]["content"]
        first, _, second = asked.partition("<first>")[2].partition("<second>")
        better = "second" if "note_" in first and "note_" not in second.partition("</second>")[0] else "first"
        return choice(json.dumps({"reasons": "", "better": better}))

    async with acting(one_in_four) as server, ScriptedServer(judge) as judging:
        grid = table(server, "tournament:n=4")
        grid["models"] = {"m": {"policy": policy(server), "judge": policy(judging)}}
        run = await Experiment.parse(grid).run(tmp_path / "run")
    (track,) = run.tracks
    chosen = [list(track.candidates(row))[row.selected] for row in track.rows if row.selected is not None]
    assert len(chosen) == PROBLEMS
    assert all("note_" not in one.content and one.content for one in chosen)


@pytest.mark.parametrize("budget", [{"completion_tokens": 60}, {"requests": 6}])
async def test_a_budget_cuts_trajectories_and_loses_nothing_paid_for(budget: dict[str, int], tmp_path: Path):
    async with acting(one_in_four) as server:
        grid = {**table(server, f"best_of_n:n={N}"), "budget": budget, "sampling": {"max_tokens": 40}}
        run = await Experiment.parse(grid).run(tmp_path / "run")
    (track,) = run.tracks
    assert {row.ended for row in track.rows} == {"budget"}
    for row in track.rows:
        spent = row.spent["policy"]
        assert spent.requests <= budget.get("requests", 99)
        assert spent.completion_tokens <= budget.get("completion_tokens", 9999)
        whole = [one for one in track.candidates(row) if not one.cut_off]
        assert all(one.notes["trajectory"]["ended"] == "stop" for one in whole)
        assert any(one.cut_off for one in track.candidates(row))
