"""A total budget is kept, goes where it gains most, and a run that was interrupted decides as it would have."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tts import Endpoint, Experiment, Run
from tts.allocation import Allocator, TotalBudget, fitted_prior
from tts.errors import ConfigError
from tts.runs.analysis import curves, summary

TOKENS = {"max_tokens": 200, "seed": 3}
RATES = {f"p{i}": (i + 1) / 25 for i in range(20)}


async def run(
    task: str,
    out: Path,
    budget: Any,
    strategy: str,
    *,
    resume: bool = False,
    faults: Any = None,
    problems: int | None = None,
) -> Run:
    async with asyncio.timeout(120), ModelDouble(answer=solvable(RATES), latency=(0, 0.01), faults=faults) as double:
        endpoint = Endpoint(
            model="test-model", base_url=double.base_url, params=TOKENS, identity="it", retry_wait=0.005
        )
        grid = {"task": task, "models": endpoint, "strategies": strategy, "total_budget": budget, "limit": problems}
        return await Experiment.parse(grid).run(out, resume=resume)


BEST = "best_of_n:n=12,verifier=exact_answer(reference=42)"
VOTE = "self_consistency:n=12,answer=exact_answer"


def drawn(found: Run) -> dict[str, int]:
    (track,) = found.tracks
    return {row.problem: len(part) for row, part in zip(track.rows, track.correct, strict=True)}


@pytest.mark.parametrize("strategy", [BEST, VOTE])
@pytest.mark.parametrize("policy", ["greedy", "thompson", "uniform"])
@pytest.mark.parametrize("cap", ["completion_tokens", "total_tokens", "requests"])
async def test_a_total_budget_is_kept_and_an_interrupted_run_goes_on_as_it_would_have(
    cap: str, policy: str, strategy: str, task: str, tmp_path: Path
):
    limit = 36 if cap == "requests" else 5000
    budget = f"{cap}={limit},policy={policy}"
    whole = await run(task, tmp_path / "whole", budget, strategy, problems=12)
    (row,) = summary(whole)
    used = row["prompt_tokens"] + row["completion_tokens"] if cap == "total_tokens" else row[cap]
    assert used <= limit
    counts = drawn(whole)
    assert len(counts) == 12
    assert min(counts.values()) >= (cap == "requests")
    if policy == "uniform":
        assert max(counts.values()) - min(counts.values()) <= 1
    faults = {Fault(FaultKind.SERVER_ERROR): 0.1}
    again = await run(task, tmp_path / "again", budget, strategy, problems=12, faults=faults)
    assert drawn(again) == counts
    with closing(sqlite3.connect(tmp_path / "again" / "run.sqlite", isolation_level=None)) as database:
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("DELETE FROM cells WHERE id % 2 = 0")
        database.execute("DELETE FROM samples WHERE rowid % 3 = 0")
    resumed = await run(task, tmp_path / "again", budget, strategy, problems=12, resume=True)
    assert drawn(resumed) == counts
    assert {key: value for key, value in summary(resumed)[0].items() if key in ("accuracy", cap)} == {
        key: value for key, value in row.items() if key in ("accuracy", cap)
    }


async def test_samples_go_to_problems_that_are_not_solved_and_the_curve_is_a_replay(task: str, tmp_path: Path):
    found = await run(task, tmp_path / "run", "requests=70", BEST)
    (track,) = found.tracks
    assert not track.independent
    for part in track.passed:
        assert not part[:-1].any()  # what was accepted ends it
    even = await run(task, tmp_path / "even", "requests=70,policy=uniform", BEST)
    assert summary(found)[0]["accuracy"] > summary(even)[0]["accuracy"]
    (curve,) = curves(found)
    assert curve.y[-1] == pytest.approx(summary(found)[0]["accuracy"])
    assert summary(found)[0]["budget_ended"]


@pytest.mark.parametrize(
    ("budget", "strategy", "words"),
    [
        ("completion_tokens=100,requests=3", BEST, "one cap"),
        ("policy=greedy", BEST, "one cap"),
        ("requests=0", BEST, "greater than 0"),
        ("completion_tokens=100,policy=luck", BEST, "greedy"),
        ("requests=9", "first_pass:k=3", "use best_of_n"),
    ],
)
def test_a_total_budget_that_cannot_be_shared_out_is_refused(budget: str, strategy: str, words: str, task: str):
    grid = {
        "task": task,
        "models": {"m": {"base_url": "http://none", "params": TOKENS}},
        "strategies": strategy,
        "total_budget": budget,
    }
    with pytest.raises(ConfigError, match=words):
        Experiment.parse(grid)


def test_tokens_cannot_be_shared_out_without_the_length_of_a_sample(task: str):
    grid = {
        "task": task,
        "models": {"m": {"base_url": "http://none"}},
        "strategies": BEST,
        "total_budget": "total_tokens=1e6",
    }
    with pytest.raises(ConfigError, match="set max_tokens"):
        Experiment.parse(grid)


def test_the_prior_is_that_of_the_problems():
    rng = np.random.default_rng(0)
    for a, b in ((0.3, 0.7), (2.0, 2.0), (0.5, 4.0)):
        rates = rng.beta(a, b, 4000)
        first = rng.geometric(np.maximum(rates, 1e-9))
        fitted = fitted_prior(np.minimum(first, 12), first <= 12)
        assert fitted[0] / sum(fitted) == pytest.approx(a / (a + b), abs=0.05)
        assert sum(fitted) == pytest.approx(a + b, rel=0.6)


def simulated(policy: Any, outcomes: Any, costs: Any, budget: float) -> float:
    """The share solved."""
    allocator = Allocator(policy, "passes", len(outcomes), np.random.default_rng(1))
    k = np.zeros(len(outcomes), dtype=int)
    spent = np.zeros(len(outcomes))
    while chosen := allocator.round(k < outcomes.shape[1], costs, budget - spent.sum()):
        for i in chosen:
            k[i] += 1
            spent[i] += costs[i]
            allocator.observe(i, [float(one) for one in outcomes[i, : k[i]]], spent[i])
    assert spent.sum() <= budget
    return float(np.mean([outcomes[i, : k[i]].any() for i in range(len(k))]))


def test_regret_against_uniform_and_the_oracle_that_knows_every_success_rate():
    rng = np.random.default_rng(2)
    rates, costs = rng.beta(0.5, 1.0, 300), rng.uniform(0.5, 2.0, 300)
    outcomes = rng.random((300, 32)) < rates[:, np.newaxis]
    share = {policy: simulated(policy, outcomes, costs, 1200.0) for policy in ("uniform", "greedy", "thompson")}
    known = simulated_oracle(rates, costs, outcomes, 1200.0)
    assert share["greedy"] >= share["uniform"] + 0.05
    assert share["thompson"] >= share["uniform"] + 0.04
    assert share["greedy"] <= known  # which leaves the hopeless alone
    assert known - share["greedy"] < 0.7 * (known - share["uniform"])


def simulated_oracle(rates: Any, costs: Any, outcomes: Any, budget: float) -> float:
    solved, k = np.zeros(len(rates), dtype=bool), np.zeros(len(rates), dtype=int)
    while True:
        able = np.flatnonzero(~solved & (k < outcomes.shape[1]) & (costs <= budget))
        if not len(able):
            return float(solved.mean())
        i = able[np.argmax((rates / costs)[able])]
        budget -= costs[i]
        solved[i] = outcomes[i, k[i]]
        k[i] += 1


def cases() -> Iterator[Any]:
    yield from ("passes", "votes", "scores")


@given(
    st.sampled_from(["greedy", "thompson", "uniform"]),
    st.sampled_from([*cases()]),
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.5]), max_size=6), min_size=1, max_size=9),
    st.floats(0, 20),
)
def test_a_round_is_within_what_is_left_and_first_samples_come_first(
    policy: Any, kind: Any, seen: list[list[float]], left: float
):
    allocator = Allocator(policy, kind, len(seen), np.random.default_rng(0))
    for i, part in enumerate(seen):
        evidence = [str(one) for one in part] if kind == "votes" else [float(int(one)) for one in part]
        allocator.observe(i, evidence, 2.0 * len(part))
    bounds = np.full(len(seen), 3.0)
    granted = allocator.round(np.ones(len(seen), dtype=bool), bounds, left)
    assert 3 * len(granted) <= left
    assert len(set(granted)) == len(granted)
    assert not allocator.settled[granted].any()
    if any(not part for part in seen):
        assert all(not seen[i] for i in granted)


def test_a_budget_reads_as_it_is_written():
    assert TotalBudget.model_validate({"completion_tokens": 1e6}).cap == ("completion_tokens", 1_000_000)
