"""Ratings in company: in a run, at every prefix, a candidate counts as it does among those that are there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.double import ModelDouble
from tests.support.solving import PROBLEM, RIGHT, endpoint
from tts import Experiment, Strategy
from tts.errors import ConfigError
from tts.runs.analysis import curves
from tts.session import Session
from tts.solving import open_models, solve
from tts.strategies.self_consistency import SelfConsistency
from tts.types import Candidate, Problem, Sample, by_role


def grid(double: ModelDouble, folder: Path, **fields: Any) -> Experiment:
    problems = folder / "p.jsonl"
    problems.write_text("\n".join(json.dumps({"prompt": f"[[p{i}]] ?", "answer": "42"}) for i in range(4)))
    task = f'jsonl:path="{problems}",answer_verifier=numeric_answer'
    model = endpoint(double).model_dump(mode="json")
    return Experiment.parse({"task": task, "models": {"m": model}, **fields})


@pytest.mark.parametrize("where", ["strategy", "run"])
async def test_best_of_n_by_agreement_is_the_majority_at_every_prefix(where: str, tmp_path: Path):
    spec = (
        {"strategies": ["best_of_n:n=9,verifier=agreement"]}
        if where == "strategy"
        else {
            "strategies": ["best_of_n:n=9"],
            "verifier": "agreement",
        }
    )
    async with ModelDouble(seed=2) as double:
        run = await grid(double, tmp_path, **spec).run(tmp_path / "run")
    (track,) = run.tracks
    assert track.verifier is not None
    assert [curve.estimator for curve in curves(run)] == ["replay", "pass@k"]
    for row in track.rows:
        stored = track.candidates(row)
        noted = [replace(c, notes=dict(c.verdict.details if c.verdict else {})) for c in stored]
        for k in range(1, 10):
            chosen = track.method.select(track.verifier.among(stored[:k]))
            majority = SelfConsistency().select(noted[:k])
            assert chosen is not None
            assert majority is not None
            assert chosen.id == majority.id


async def test_a_problem_cannot_name_a_verifier_that_its_curves_could_not_replay(tmp_path: Path):
    async with ModelDouble() as double:
        wanted = grid(double, tmp_path, strategies=["best_of_n:n=2"])
        examples = [
            example._replace(problem=example.problem.model_copy(update={"verifier": "agreement"}))
            for example in wanted.task.examples()
        ]
        object.__setattr__(wanted.task, "examples", lambda: iter(examples))
        with pytest.raises(ConfigError, match="name it for the run"):
            await wanted.run(tmp_path / "run")
        assert double.stats.received == 0


async def test_the_vote_of_a_weighted_strategy_is_replayed_with_its_weights(tmp_path: Path):
    async with ModelDouble(seed=2) as double:
        run = await grid(double, tmp_path, strategies=[f"self_consistency:n=8,weighted=true,verifier={RIGHT}"]).run(
            tmp_path / "r"
        )
    assert [curve.estimator for curve in curves(run)] == ["replay", "pass@k"]


async def test_what_is_made_once_is_charged_to_all_who_ask_and_counted_once():
    async with ModelDouble() as double, open_models(endpoint(double)) as models:
        session = Session(PROBLEM, models)
        one, other = session._inner("one"), session._inner("other")

        async def sampled(inner: Session) -> Sample:
            (sample,) = [sample async for sample in inner.sample()]
            return sample

        first, second = await asyncio.gather(one.once("key", sampled), other.once("key", sampled))
        assert first is second
        assert double.stats.received == 1
        assert one._recorded == other._recorded == set(first.charges)
        assert by_role(session.ledger.paid)["policy"].requests == 1
        await session.once("another key", sampled)
        assert double.stats.received == 2


async def test_what_cannot_be_made_fails_for_all_after_one_try():
    tries = 0

    async def fails(inner: Session) -> None:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0)
        raise ValueError("no")

    session = Session(PROBLEM, {})
    results = await asyncio.gather(*(session.once("key", fails) for _ in range(5)), return_exceptions=True)
    assert [str(error) for error in results] == ["no"] * 5
    assert tries == 1


async def test_a_candidate_that_comes_again_takes_its_own_place():

    class Twice(Strategy):
        async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
            made = [candidate async for candidate in session.propose(n=3)]
            for candidate in made:
                yield candidate
            yield made[1].__class__(id=made[1].id, content="later", spawned=made[1].spawned)

    seen: list[int] = []
    async with ModelDouble() as double:
        result = await solve(PROBLEM, Twice(), endpoint(double), on_candidate=lambda c: seen.append(c.id))
    assert [candidate.arrived for candidate in result.candidates] == [0, 1, 2]
    assert result.candidates[1].content == "later"
    assert len(seen) == 3
