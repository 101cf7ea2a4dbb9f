"""PassUntil: unbiased and covering down to rates of a thousandth, live, under a total budget, and over sizes."""

from __future__ import annotations

import asyncio
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runs.conftest import task as task
from tests.support.double import ModelDouble, solvable
from tests.support.solving import PROBLEM, RIGHT, check_exact, endpoint
from tts import Experiment, solve
from tts.allocation import Allocator
from tts.curves import CurveError, pass_until
from tts.studies.scale import ScaleLaw, fit_size_law, students_quantile

LAW = {"small": 1e6, "medium": 4e6, "large": 16e6, "huge": 64e6}


@pytest.mark.parametrize(("passes", "n"), [(2, 7), (3, 8), (5, 9), (2, 1)])
@pytest.mark.parametrize("rate", [0.03, 0.4, 0.9])
def test_the_estimate_is_unbiased_summed_over_all_outcomes(passes: int, n: int, rate: float):
    mean = total = 0.0
    for outcome in product([False, True], repeat=n):
        chance = math.prod(rate if one else 1 - rate for one in outcome)
        total += chance
        mean += chance * pass_until([outcome], passes).rate[0]  # what follows the last pass does not count
    assert total == pytest.approx(1)
    assert mean == pytest.approx(rate)


@pytest.mark.parametrize("rate", [0.001, 0.004, 0.05, 0.5, 0.97])
@pytest.mark.parametrize(("passes", "cap"), [(2, 10**9), (5, 10**9), (3, 400)])
def test_the_interval_covers_down_to_a_thousandth(rate: float, passes: int, cap: int):
    rng, covered, times = np.random.default_rng(1), 0, 1500
    estimates = []
    for _ in range(times):
        k = rng.geometric(rate, passes).cumsum()
        flags = np.zeros(min(int(k[-1]), cap), dtype=bool)
        flags[k[k <= len(flags)] - 1] = True
        found = pass_until([flags], passes)
        covered += found.low[0] <= rate <= found.high[0]
        estimates.append(found.rate[0])
    assert covered / times >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / times)
    assert np.mean(estimates) == pytest.approx(rate, abs=float(4 * np.std(estimates) / math.sqrt(times)))


@pytest.mark.parametrize(("outcomes", "passes"), [([[True]], 1), ([[]], 2)])
def test_what_tells_no_rate_is_refused(outcomes: list[list[bool]], passes: int):
    with pytest.raises(CurveError):
        pass_until(outcomes, passes)


async def test_it_draws_until_so_many_pass_and_not_beyond():
    async with ModelDouble(answer=solvable({"p": 0.3})) as double:
        spec = f"pass_until:passes=3,n=200,batch=2,verifier={RIGHT}"
        result = await solve(PROBLEM, spec, endpoint(double, params={"seed": 1}))
    passed = [one.passed for one in sorted(result.candidates, key=lambda one: one.spawned)]
    assert sum(passed[:-3]) < 3 <= sum(passed)
    assert result.selected is not None
    assert result.selected.spawned == (passed.index(True),)
    assert result.ended == "complete"
    check_exact(result, double.stats)


def test_a_total_budget_goes_to_the_rates_that_are_least_sure():
    rng = np.random.default_rng(0)
    rates = np.array([0.5] * 10 + [0.01] * 30)
    outcomes = rng.random((40, 400)) < rates[:, np.newaxis]
    ends = {}
    for policy in ("greedy", "uniform"):
        allocator = Allocator(policy, "rates", 40, rng)
        drawn = np.zeros(40, dtype=int)
        for _ in range(200):
            for i in allocator.round(drawn < 400, np.ones(40), 1600 - drawn.sum()):
                drawn[i] += 1
                allocator.observe(i, [float(one) for one in outcomes[i, : drawn[i]]], float(drawn[i]))
        ends[policy] = drawn
    variance = {policy: float((rates * (1 - rates) / drawn).sum()) for policy, drawn in ends.items()}
    assert variance["greedy"] < 0.8 * variance["uniform"]


async def test_success_over_sizes_is_fitted_and_predicted(task: str, tmp_path: Path):
    rates = {name: math.exp(-30 * size**-0.2) for name, size in LAW.items()}

    def answer(request: dict[str, Any], rng: np.random.Generator) -> str:
        return "42" if rng.random() < rates[request["model"]] else "41"

    async with asyncio.timeout(120), ModelDouble(models=tuple(LAW), answer=answer) as double:
        models = {
            name: {"base_url": double.base_url, "params": {"seed": 1}, "card": {"parameters": size}}
            for name, size in LAW.items()
        }
        spec = "pass_until:passes=8,n=400,batch=16,verifier=exact_answer(reference=42)"
        grid = {"task": task, "models": models, "strategies": [spec], "limit": 20}
        run = await Experiment.parse(grid).run(tmp_path / "run")
    (found,) = ScaleLaw(predict=256e6).findings({"": run}).data
    for row in found["models"]:
        assert row["success"] == pytest.approx(rates[row["model"]], rel=0.25)
        assert row["low"] <= row["success"] <= row["high"]
    expected = math.exp(-30 * 256e6**-0.2)
    assert found["law"]["alpha"] == pytest.approx(0.2, abs=0.06)
    assert found["law"]["low"] < expected < found["law"]["high"]


def test_the_prediction_interval_covers_new_models():
    rng, covered = np.random.default_rng(3), 0
    sizes = np.array([1e6, 3e6, 1e7, 3e7, 1e8])
    for _ in range(400):
        noise = rng.normal(0, 0.1, 6)
        levels = np.log(30) - 0.2 * np.log([*sizes, 3e8]) + noise
        rates = np.exp(-np.exp(levels))
        _, low, high = fit_size_law(sizes.tolist(), rates[:5].tolist()).predicted(3e8)
        covered += low <= rates[5] <= high
    assert 0.92 <= covered / 400 <= 0.98
    assert students_quantile(0.95, 3) == pytest.approx(3.182, abs=1e-3)
    assert students_quantile(0.95, 10) == pytest.approx(2.228, abs=1e-3)
