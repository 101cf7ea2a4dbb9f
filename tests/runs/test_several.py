"""Runs of several models: killed, with one of them down, and mended, they end as a run of one that was left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.calibration import calibration
from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.killing import killed, paid, stored
from tests.test_policies import closed_port
from tts import Experiment, Run
from tts.runs.analysis import curves, summary

NAMES = ("small", "large")
SPECS = (
    "cascade:verifier=numeric_answer(reference=42)",
    "cascade:strategy=self_consistency(n=4),by=agreement,accuracy=0.9,"
    f"calibration={calibration('self_consistency:n=4', NAMES)}",
    f"route:strategy=self_consistency(n=4),k=3,calibration={calibration('self_consistency:n=4', NAMES)}",
    "fuse:n=5,rounds=3",
    "aggregate:n=4,k=2",
    "debate:n=3",
    "gen_select:n=4,window=3,runs=2",
    "universal_self_consistency:n=4",
    "ab_mcts:n=6,verifier=numeric_answer(reference=42)",
)


def line(body: dict[str, Any], rng: np.random.Generator) -> str:
    return "Choice: 1" if "Choice:" in str(body["messages"]) else f"I think. Answer: {rng.integers(40, 44)}"


def found(run: Run) -> list[Any]:
    """By strategy and problem: which answer was chosen, all of them by whom, and what each prefix cost."""
    return sorted(
        (
            track.strategy,
            row.problem,
            row.selected,
            [(one.content, one.samples[-1].role if one.samples else "") for one in track.candidates(row)],
            list(costs),
            row.failures,
        )
        for track in run.tracks
        for row, costs in zip(track.rows, track.cost("flops"), strict=True)
    )


def table(task: str, small: str, large: str, *specs: str, **settings: Any) -> dict[str, Any]:
    def one(name: str, url: str, size: float) -> dict[str, Any]:
        return {"model": name, "base_url": url, "identity": name, "card": {"parameters": size}}

    policies = {"small": one("small", small, 1e6), "large": one("large", large, 1e7)}
    params = {"seed": 3, "max_tokens": 300}
    models = {"mixed": {"params": params, "retry_wait": 0.005, "max_n": 3, "policies": policies}}
    return {"task": task, "limit": 4, "models": models, "strategies": specs or SPECS, "stop_early": False, **settings}


async def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(task: str, tmp_path: Path):
    out = tmp_path / "run"
    async with ModelDouble(models=NAMES, answer=line, latency=(0.005, 0.03)) as double:
        grid = table(task, double.base_url, double.base_url)
        survived = await killed(grid, out, double, times=3, requests=(5, 40))
        assert survived
        before, known = double.stats.choices, len(paid(out))
        run = await Experiment.parse(grid).run(out, resume=True)
        assert double.stats.choices - before == len(paid(out)) - known, "nothing is asked again"
        whole = await Experiment.parse(grid).run(tmp_path / "whole")
        assert stored(out) == stored(tmp_path / "whole")
        assert found(run) == found(whole)
        compared = (
            "strategy",
            "accuracy",
            "low",
            "candidates",
            "requests",
            "prompt_tokens",
            "completion_tokens",
            "money",
        )
        one, other = ([[row.get(key) for key in compared] for row in summary(each)] for each in (run, whole))
        assert one == other
        assert [curve.y.tolist() for curve in curves(run)] == [curve.y.tolist() for curve in curves(whole)]


@pytest.mark.parametrize("gone", NAMES)
@pytest.mark.parametrize("how", ["closed", "failing"])
async def test_without_one_of_them_it_goes_on_and_once_that_is_back_it_ends_as_if_it_had_been_there(
    gone: str, how: str, task: str, tmp_path: Path
):
    out = tmp_path / "run"
    async with (
        ModelDouble(models=NAMES, answer=line) as double,
        ModelDouble(models=NAMES, answer=line, faults={Fault(FaultKind.SERVER_ERROR): 1.0}) as failing,
    ):
        away = f"http://127.0.0.1:{closed_port()}/v1" if how == "closed" else failing.base_url
        urls = [away if name == gone else double.base_url for name in NAMES]
        grid = table(task, *urls)
        grid["models"]["mixed"] |= {"outage_timeout": 0.5}
        run = await Experiment.parse(grid).run(out)
        whole = await Experiment.parse(table(task, double.base_url, double.base_url)).run(tmp_path / "whole")
        for track, other in zip(run.tracks, whole.tracks, strict=True):
            assert f"policy.{gone}" not in track.by_role()
            for row, sound in zip(track.rows, other.rows, strict=True):
                needed = any(
                    sample.role == f"policy.{gone}" for one in other.candidates(sound) for sample in one.samples
                )
                assert row.selected is not None
                assert any(f"policy.{gone} is left out" in words for words in row.failures) or not needed
        mended = await Experiment.parse(table(task, double.base_url, double.base_url)).run(out, resume=True)
        assert found(mended) == found(whole)
