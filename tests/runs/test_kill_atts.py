"""A run of two models that is killed pays for no chunk, no score and no decision twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.double import ModelDouble
from tests.support.killing import killed, paid, stored
from tests.support.solutions import continued
from tts import Experiment
from tts.session import Session
from tts.solving import open_models
from tts.strategies.speculation.conformal import Scored, save
from tts.strategies.speculation.steps import Speculation
from tts.types import Problem


def grid(task: str, double: ModelDouble, strategy: str) -> dict[str, Any]:
    def model(name: str) -> dict[str, Any]:
        return {"model": name, "base_url": double.base_url, "params": {"seed": 3}}

    return {
        "task": task,
        "strategies": [strategy],
        "limit": 6,
        "models": {"pair": {"draft": model("small"), "target": model("large")}},
    }


async def calibrated(path: Path, table: dict[str, Any]) -> Path:
    """A calibration for the models and chunk sizes of the tests."""
    roles = Experiment.parse(table).endpoints("pair")
    async with open_models(roles) as samplers:
        speculation = await Speculation.open(Session(Problem.from_prompt("?"), samplers))
    made_with = speculation.made_with(draft_tokens=60, target_tokens=40)
    scores = np.random.default_rng(0).normal(-9.5, 0.5, size=300)
    save(path, [Scored(score, "q", 0, 60) for score in scores], better="higher", made_with=made_with)
    return path


@pytest.mark.parametrize("kind", ["fixed", "growing"])
async def test_killed_at_random_moments_it_ends_with_nothing_paid_twice(task: str, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "run"
    async with ModelDouble(models=["small", "large"], answer=continued, latency=(0.005, 0.03)) as double:
        strategy = "atts:n=6,draft_tokens=60,target_tokens=40"
        table = grid(task, double, strategy)
        if kind == "fixed":
            path = await calibrated(tmp_path / "calibration.json", table)
            table = grid(task, double, f'{strategy},calibration="{path}"')
        double.reset()
        survived = await killed(table, out, double, times=3, requests=(10, 60))
        paid_before = paid(out)
        before = double.stats.served
        run = await Experiment.parse(table).run(out, resume=True)
        assert survived
        assert double.stats.served - before == len(paid(out)) - len(paid_before), "nothing stored is asked for again"
        [track] = run.tracks
        assert [len(flags) for flags in track.correct] == [6] * 6
        if kind == "fixed":  # chance and order have no part in it
            await Experiment.parse(table).run(tmp_path / "uninterrupted")
            assert stored(out) == stored(tmp_path / "uninterrupted")
