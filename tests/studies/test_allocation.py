"""The replay of a total budget: against brute force, its bounds, and what a verifier that errs costs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tts import Endpoint, Experiment
from tts.errors import ConfigError
from tts.studies.allocation import Allocation, Replay, allocation_report


def made(rates: np.ndarray, n: int, rng: np.random.Generator, *, false_accept: float = 0.0) -> Replay:
    outcomes = [(rng.random(n) < rate).astype(float) for rate in rates]
    seen: list[list[float | str | None]] = [
        [float(right or rng.random() < false_accept) for right in one] for one in outcomes
    ]
    return Replay("passes", [*seen], [*seen], outcomes, [np.full(n, cost) for cost in rng.uniform(1, 3, len(rates))])


@pytest.mark.parametrize("false_accept", [0.0, 0.15])
def test_an_allocation_lies_between_uniform_and_the_oracle_with_verifiers_that_err_too(false_accept: float):
    rng = np.random.default_rng(4)
    replay = made(rng.beta(0.6, 1.0, 200), 16, rng, false_accept=false_accept)
    orders = [np.arange(16)] * 200
    whole = sum(cost.sum() for cost in replay.costs)
    budgets = np.array([whole / 8, whole / 4, whole / 2, whole])
    ways = {
        way: replay.spend(way, orders, budgets, 0).mean(axis=0)
        for way in ("uniform", "greedy", "thompson", "rates", "oracle")
    }
    assert (ways["greedy"][1:3] > ways["uniform"][1:3] + 0.01).all()
    assert (ways["oracle"] >= ways["greedy"] - 1e-9).all()
    assert (ways["oracle"] >= ways["thompson"] - 1e-9).all()
    assert (ways["oracle"] >= ways["rates"] - 1e-9).all()
    assert ways["rates"][0] > ways["greedy"][0] + 0.01
    assert ways["greedy"][-1] == pytest.approx(ways["uniform"][-1])  # with all samples the first accepted is the same


def test_uniform_is_the_selection_among_equally_many_samples():
    rng = np.random.default_rng(1)
    replay = made(rng.beta(0.6, 1.0, 30), 8, rng, false_accept=0.3)
    replay = Replay(replay.kind, replay.seen, replay.ranks, replay.outcomes, [np.ones(8)] * 30)
    orders = [rng.permutation(8) for _ in range(30)]
    found = replay.spend("uniform", orders, np.arange(30.0, 241, 30), 0)
    for k in range(1, 9):
        for i in range(30):
            first = orders[i][:k]
            best = max(first, key=lambda j: replay.ranks[i][j])
            assert found[i, k - 1] == replay.outcomes[i][best]


def test_the_oracle_is_the_best_there_is_by_brute_force():
    rng = np.random.default_rng(3)
    for _ in range(20):
        replay = made(rng.beta(0.6, 1.0, 4), 3, rng)
        orders, budget = [np.arange(3)] * 4, float(rng.uniform(1, 15))
        best = 0
        for ks in np.ndindex(4, 4, 4, 4):
            if sum(replay.costs[i][:k].sum() for i, k in enumerate(ks)) <= budget:
                best = max(best, sum(replay.outcomes[i][:k].any() for i, k in enumerate(ks)))
        assert replay.spend("oracle", orders, np.array([budget]), 0).sum() == best


@pytest.mark.parametrize("strategy", ["best_of_n:n=8,verifier=oracle", "self_consistency:n=8,answer=exact_answer"])
async def test_a_stored_run_tells_what_was_gained_at_every_total(
    strategy: str, task: str, endpoint: Endpoint, tmp_path: Path
):
    run = await Experiment.parse({"task": task, "models": endpoint, "strategies": strategy}).run(tmp_path / "run")
    (report,) = allocation_report(run, orders=3)
    assert report.kind == ("passes" if "best" in strategy else "votes")
    assert report.precision == (1.0 if "best" in strategy else None)
    known = ["rates"] if report.kind == "passes" else []
    assert [one.policy for one in report.points[::4]] == ["greedy", "thompson", "uniform", *known, "oracle"]
    for one in report.points:
        assert one.low <= one.accuracy <= one.high
        assert one.gain_low <= one.gain <= one.gain_high
        assert one.gain == 0 or one.policy != "uniform"
    whole = sum(part[-1] for part in run.tracks[0].cost("completion_tokens"))
    assert report.points[3].budget == pytest.approx(whole)
    found = Allocation(orders=2).findings({"": run})
    assert found.data[0]["problems"] == 20


async def test_a_run_that_cannot_answer_says_what_it_takes(task: str, endpoint: Endpoint, tmp_path: Path):
    table = {"task": task, "models": endpoint, "strategies": "single"}
    run = await Experiment.parse(table).run(tmp_path / "run")
    with pytest.raises(ConfigError, match="without a total budget"):
        allocation_report(run)
