"""Tournaments: who wins, how many comparisons that takes, and that every smaller tournament is in the larger one."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.judges import policy, prefer, quality, roles, speaking
from tests.support.solving import PROBLEM, check_exact
from tts import Experiment, solve
from tts.curves import CurveError
from tts.runs.analysis import curves
from tts.strategies.tournament import bradley_terry, knockout, replay
from tts.types import Budget, Candidate, total


def best(candidates: Any) -> int:
    return max(quality(candidate.content)[0] for candidate in candidates)


@given(some.lists(some.integers(0, 5), min_size=1, max_size=40))
def test_the_champion_of_every_prefix_is_the_best_and_the_earliest_of_equals(qualities: list[int]):
    played: set[tuple[int, int]] = set()

    def later_wins(one: int, other: int) -> bool:
        assert one < other
        played.add((one, other))
        return qualities[other] > qualities[one]

    for k in range(1, len(qualities) + 1):
        champion = replay(knockout(k), later_wins)
        assert champion == qualities.index(max(qualities[:k]))
    assert len(played) < 2 * len(qualities)


@given(some.integers(1, 70))
def test_a_match_belongs_to_the_first_prefix_that_needs_it(contestants: int):
    def needed(k: int) -> set[tuple[int, int, int]]:
        bracket, matches, won = knockout(k), set(), None
        try:
            while True:
                match = bracket.send(won)  # type: ignore[arg-type]
                matches.add(match)
                won = False
        except StopIteration:
            return matches

    known: set[tuple[int, int]] = set()
    for k in range(1, contestants + 1):
        new = {(one, other) for one, other, belongs in needed(k) if belongs == k}
        known |= new
        assert {(one, other) for one, other, _ in needed(k)} <= known


@given(some.lists(some.floats(-2, 2), min_size=2, max_size=6))
def test_strengths_are_found_again_from_many_games(strengths: list[float]):
    games = 1e6 / (1 + np.exp(np.subtract.outer(strengths, strengths)).T)
    np.fill_diagonal(games, 0)
    found = bradley_terry(games)
    assert found - found.mean() == pytest.approx(np.array(strengths) - np.mean(strengths), abs=0.01)


def test_strengths_stay_finite_where_one_wins_everything_and_nobody_played_another():
    found = bradley_terry(np.array([[0.0, 1, 0], [0, 0, 0], [0, 0, 0]]))
    assert np.isfinite(found).all()
    assert found[0] > found[2] > found[1]
    assert bradley_terry(np.zeros((3, 3))) == pytest.approx(0)


@pytest.mark.parametrize("format", ["round_robin", "knockout"])
async def test_the_best_wins_and_each_pair_is_asked_twice_and_charged_to_the_later(format: str):
    async with ModelDouble(**speaking(policy=policy, judge=prefer), latency=(0.0, 0.05)) as double:
        result = await solve(PROBLEM, f"tournament:n=11,format={format}", roles(double, max_n=1))
        check_exact(result, double.stats)
    assert result.selected is not None
    assert quality(result.selected.content)[0] == best(result.candidates)
    assert len(result.candidates) == 11
    assert sorted(candidate.arrived for candidate in result.candidates) == list(range(11))
    ordered = sorted(result.candidates, key=lambda candidate: candidate.spawned)
    for k in range(1, 12):
        prefix = {charge for candidate in ordered[:k] for charge in candidate.charges}
        judged = {charge.id.split(".")[0] for charge in prefix if charge.role == "judge"}
        if format == "round_robin":
            assert len(judged) == k * (k - 1)
        else:
            assert len(judged) <= 2 * 2 * k


async def test_with_few_rivals_a_round_robin_costs_in_proportion_to_n():
    async with ModelDouble(**speaking(policy=policy, judge=prefer)) as double:
        result = await solve(PROBLEM, "tournament:n=20,rivals=3", roles(double))
        assert double.by_model["judge"].received == 2 * (1 + 2 + 3 * 17)
    assert result.ended == "complete"


async def test_comparisons_that_cannot_be_read_leave_the_others_to_decide():
    def moody(asked: str, rng: np.random.Generator) -> str:
        return "?" if rng.random() < 0.2 else prefer(asked, rng)

    async with ModelDouble(**speaking(policy=policy, judge=moody)) as double:
        result = await solve(PROBLEM, "tournament:n=14", roles(double))
    assert len(result.candidates) == 14
    assert result.failures
    assert result.selected is not None
    assert quality(result.selected.content)[0] >= best(result.candidates) - 1


async def test_samples_are_kept_when_the_budget_ends_before_they_are_compared():
    async with ModelDouble(**speaking(policy=policy, judge=prefer)) as double:
        result = await solve(PROBLEM, "tournament:n=8", roles(double), budget=Budget(requests=7))
    assert result.ended == "budget"
    assert len(result.candidates) == 8
    assert result.selected is not None


async def test_samples_are_kept_when_the_time_is_up_before_they_are_compared():
    slow: dict[str, Any] = {"latency": lambda request, index: 60 if request["model"] == "judge" else 0}
    async with ModelDouble(**speaking(policy=policy, judge=prefer), **slow) as double:
        result = await solve(PROBLEM, "tournament:n=8", roles(double), budget=Budget(seconds=1))
    assert result.ended == "deadline"
    assert len(result.candidates) == 8


async def test_lost_samples_do_not_hold_up_the_others():
    faults = {Fault(FaultKind.BAD_REQUEST): 0.4}
    async with (
        ModelDouble(**speaking(policy=policy), faults=faults, seed=3) as double,
        ModelDouble(**speaking(judge=prefer)) as judge,
    ):
        result = await solve(PROBLEM, "tournament:n=12", {**roles(double, max_n=1), **roles(judge)})
    assert 2 < len(result.candidates) < 12
    assert result.selected is not None
    assert quality(result.selected.content)[0] == best(result.candidates)
    assert judge.stats.received == len(list(combinations(result.candidates, 2))) * 2


@pytest.mark.parametrize("strategy", ["tournament:n=9", "tournament:n=9,format=knockout"])
async def test_a_run_replays_every_smaller_tournament_and_resumes_without_asking(strategy: str, tmp_path: Any):
    problems = tmp_path / "p.jsonl"
    problems.write_text("\n".join(json.dumps({"prompt": f"problem {i}", "answer": "10"}) for i in range(3)))
    async with ModelDouble(**speaking(policy=policy, judge=prefer)) as double:
        models = {"m": {name: one.model_dump(mode="json") for name, one in roles(double).items()}}
        grid = Experiment.parse({"task": f'jsonl:path="{problems}"', "strategies": [strategy], "models": models})
        run = await grid.run(tmp_path / "run")
        asked = double.stats.received
        await grid.run(tmp_path / "run", resume=True)
        assert double.stats.received == asked
    (track,) = run.tracks
    for row in track.rows:
        stored = track.candidates(row)
        for k in range(1, 10):
            chosen = track.method.select(stored[:k])
            assert chosen is not None
            assert quality(chosen.content)[0] == best(stored[:k])
    try:
        drawn = curves(run)
    except CurveError as error:
        pytest.fail(str(error))
    assert {curve.estimator for curve in drawn} == {"replay"}


def test_without_candidates_there_is_no_champion():
    from tts.strategies.tournament import Tournament

    assert Tournament().select([]) is None
    alone = Candidate(id=0, content="x", spawned=(0,))
    assert Tournament().select([alone]) is alone
    assert total(alone.charges).requests == 0
