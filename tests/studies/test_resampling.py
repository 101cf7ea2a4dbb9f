"""Whether more samples pay, from stored runs: against the run's own candidates, and where the verifier is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.double import ModelDouble, solvable
from tts import Endpoint, Experiment
from tts.curves import CurveError
from tts.errors import ConfigError
from tts.studies.imperfect_verifier import ceiling_over_models, counts_of, resampling_report, rivalries

NOISY = "noisy(fpr=0.3,fnr=0.1)"


async def test_counts_are_those_of_the_stored_candidates(task: str, endpoint: Endpoint, tmp_path: Path):
    table = {"task": task, "models": endpoint, "strategies": [f"best_of_n:n=8,verifier={NOISY}"], "seeds": [0, 1]}
    run = await Experiment.parse(table).run(tmp_path / "run")
    (report,) = resampling_report(run, [0.0, 5.0])
    rows = list(run.export())
    for i, problem in enumerate(sorted({row["problem"] for row in rows})):
        mine = [row for row in rows if row["problem"] == problem]
        assert report.counts.n[i] == len(mine) == 16
        assert report.counts.accepted[i] == sum(row["passed"] for row in mine)
        assert report.counts.accepted_correct[i] == sum(row["passed"] and row["correct"] for row in mine)
        assert report.counts.correct[i] == sum(row["correct"] for row in mine)
    assert report.oracle
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["decisions"]["decided"] == 320


async def test_a_verifier_that_lets_much_through_makes_more_samples_harmful_and_says_when_to_stop(
    task: str, endpoint: Endpoint, tmp_path: Path
):
    table = {"task": task, "models": endpoint, "strategies": [f"best_of_n:n=32,verifier={NOISY}"]}
    run = await Experiment.parse(table).run(tmp_path / "run")
    free, dear, hopeless = resampling_report(run, [0.0, 1.0, 100.0])[0].rewards
    assert free.best.reward == pytest.approx(free.value.mean[-1])
    assert 0 < dear.best.k < 32
    assert dear.value.mean[-1] < dear.best.reward
    assert hopeless.best.k == 0
    assert any("stop after" in words for words in resampling_report(run, [1.0])[0].findings)
    assert any("HARM" in words for words in resampling_report(run)[0].findings)


async def test_a_perfect_verifier_never_harms(task: str, endpoint: Endpoint, tmp_path: Path):
    table = {"task": task, "models": endpoint, "strategies": ["best_of_n:n=8,verifier=oracle"]}
    run = await Experiment.parse(table).run(tmp_path / "run")
    (report,) = resampling_report(run)
    assert (report.critical, report.abstention, report.counts.conditional_accuracy) == (np.inf, np.inf, 1.0)
    assert all(reward.best.k == 8 and reward.best.at_most for reward in report.rewards)


async def test_models_are_compared_and_the_hopeless_is_told(task: str, tmp_path: Path):
    rates = {"weak": 0.2, "middle": 0.5, "strong": 0.97}
    answers = {name: solvable({f"p{i}": rate for i in range(20)}) for name, rate in rates.items()}
    async with ModelDouble(models=tuple(rates), answer=lambda body, rng: answers[body["model"]](body, rng)) as double:
        models = {name: {"model": name, "base_url": double.base_url} for name in rates}
        table = {"task": task, "models": models, "strategies": ["best_of_n:n=16,verifier=noisy(fpr=0.3)"]}
        run = await Experiment.parse(table).run(tmp_path / "run")
    found = {(c.weak.split(" · ")[1], c.strong.split(" · ")[1]): c for c in rivalries(run)}
    found = {(weak.split()[0], strong.split()[0]): contest for (weak, strong), contest in found.items()}
    assert set(found) == {("weak", "middle"), ("weak", "strong"), ("middle", "strong")}
    assert found["weak", "strong"].result.hopeless
    assert found["weak", "strong"].result.k is None
    assert found["weak", "strong"].problems == 20
    line = ceiling_over_models([run])
    assert line.points == 3
    assert line.slope > 0


async def test_what_cannot_be_analysed_says_what_it_takes(task: str, endpoint: Endpoint, tmp_path: Path):
    strategies = [f"first_pass:k=4,verifier={NOISY}", "self_consistency:n=4,answer=exact_answer"]
    run = await Experiment.parse({"task": task, "models": endpoint, "strategies": strategies}).run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"independent samples.*accepts no graded sample"):
        resampling_report(run)
    with pytest.raises(ConfigError, match="first_pass"):
        counts_of(run.tracks[0])
    assert rivalries(run) == []
    with pytest.raises(CurveError, match="three points"):
        ceiling_over_models([run])
