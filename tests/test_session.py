"""What a strategy sees: numbered samples, candidates with their cost, verdicts, stored answers, random numbers."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import pytest

from tests.support.double import ModelDouble
from tests.support.solving import PROBLEM, endpoint, everything
from tts.base import Verifier
from tts.concurrency import merge
from tts.errors import ConfigError, EndpointRefused
from tts.sampler import Sampler
from tts.sampler.mock import MockModel
from tts.session import Resources, Session
from tts.types import Candidate, Problem, Verdict, by_role, total

T = TypeVar("T")


class Judge(Verifier):
    """Asks a model for a mark."""

    roles = frozenset({"judge"})

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        marks = [s async for s in session.sample(f"Mark this: {candidate.content}", n=2, role="judge", max_tokens=20)]
        return Verdict(float(sum(len(mark.text) for mark in marks)), details={"draw": float(session.rng.random())})


class Moody(Verifier):
    """Fails at every other candidate."""

    def check(self, problem: Problem, candidate: Candidate) -> bool:
        if candidate.spawned[0] % 2:
            raise RuntimeError("not today")
        return True


async def candidates_of(session: Session, n: int, verifier: Verifier | None = None) -> list[Candidate]:
    found = await everything(session.verified(session.propose(n=n), verifier))
    return sorted(found, key=lambda candidate: candidate.spawned)


# -- samples and candidates --------------------------------------------------------------------------------------------


async def test_spawn_numbers_follow_the_order_of_the_calls_and_not_of_the_answers():
    latency = lambda body, index: 0.1 if "first" in body["prompt"] else 0.0  # noqa: E731
    async with ModelDouble(latency=latency) as double, Sampler(endpoint(double)) as sampler:
        session = Session(PROBLEM, {"policy": sampler})
        first, second = session.sample("first", n=2), session.sample("second", n=2)
        third = session.propose("first", n=1)
        samples = await everything(merge([second, first]))
        (candidate,) = await everything(third)
    assert [sample.index for sample in samples[:2]] == [2, 3]
    assert sorted(sample.index for sample in samples) == [0, 1, 2, 3]
    assert candidate.spawned == (4,)


async def test_a_candidate_carries_the_union_of_what_it_descends_from():
    async with ModelDouble(tokens=(5, 50)) as double, Sampler(endpoint(double)) as sampler:
        session = Session(PROBLEM, {"policy": sampler})
        plan, one, other = await everything(session.sample(n=3))
        parent = session.candidate(plan, step="plan")
        child = session.candidate("both", one, other, parents=[parent])
    assert parent.notes == {"step": "plan"}
    assert (parent.id, child.parents) == (0, (0,))
    assert child.usage == total(session.ledger.paid)
    assert child.usage.requests == parent.usage.requests == 1
    assert child.usage.completion_tokens == double.stats.completion_tokens
    assert parent.usage.completion_tokens == len(plan.text.encode())


async def test_a_role_without_a_model_is_named_with_those_that_exist():
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        session = Session(PROBLEM, {"policy": sampler})
        with pytest.raises(ConfigError, match="role 'judge'; there are: policy"):
            await everything(session.sample(role="judge"))
    assert double.stats.received == 0


def test_random_numbers_depend_on_seed_problem_and_strategy_alone():
    def drawn(seed: int, problem: str, stream: str) -> float:
        return Session(Problem.from_prompt("?", id=problem), {}, seed=seed, stream=stream).rng.random()

    assert drawn(0, "a", "s") == drawn(0, "a", "s")
    assert len({drawn(0, "a", "s"), drawn(1, "a", "s"), drawn(0, "b", "s"), drawn(0, "a", "t")}) == 4


# -- verdicts ----------------------------------------------------------------------------------------------------------


async def test_a_verifier_that_fails_costs_a_score_and_not_the_candidate():
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        session = Session(PROBLEM, {"policy": sampler}, verifier=Moody())
        candidates = await candidates_of(session, 6)
    verdicts = [candidate.verdict for candidate in candidates]
    assert [verdict.score if verdict else "lost" for verdict in verdicts] == [1.0, None, 1.0, None, 1.0, None]
    assert session.ledger.failures == ["moody: RuntimeError: not today"] * 3
    assert verdicts[1]
    assert verdicts[1].details == {"error": "RuntimeError: not today"}


async def test_what_a_judge_samples_is_booked_to_its_role_and_charged_to_its_verdict():
    async with (
        ModelDouble(models=("test-model", "judge")) as double,
        Sampler(endpoint(double)) as policy,
        Sampler(endpoint(double, model="judge")) as judge,
    ):
        session = Session(PROBLEM, {"policy": policy, "judge": judge}, verifier=Judge())
        candidates = await candidates_of(session, 4)
    spent = by_role(session.ledger.paid)
    assert set(spent) == {"policy", "judge"}
    assert spent["judge"].requests == double.by_model["judge"].received == 4
    assert spent["judge"].completion_tokens == double.by_model["judge"].completion_tokens
    assert spent["policy"].completion_tokens == double.by_model["test-model"].completion_tokens
    for candidate in candidates:
        assert candidate.verdict
        assert {charge.role for charge in candidate.verdict.charges} == {"judge"}
        assert total(candidate.verdict.charges).requests == 1
        assert candidate.verdict.charges < candidate.charges
    assert total(charge for candidate in candidates for charge in candidate.charges) == session.spent


async def test_a_judges_random_numbers_do_not_depend_on_who_comes_first():
    async def draws(latency: tuple[float, float], touch: bool) -> tuple[list[float], float]:
        async with ModelDouble(latency=latency) as double, Sampler(endpoint(double, max_n=1)) as sampler:
            session = Session(PROBLEM, {"policy": sampler, "judge": sampler}, verifier=Judge())
            if touch:
                session.rng.random()
            found = [c.verdict.details["draw"] for c in await candidates_of(session, 4) if c.verdict]
            return found, session.rng.random()

    one, own = await draws((0.0, 0.0), touch=False)
    other, _ = await draws((0.0, 0.05), touch=True)
    assert one == other
    assert len({*one, own}) == 5


async def test_verification_begins_before_the_last_sample_is_there():
    verified = asyncio.Event()

    async def text(request: dict[str, Any]) -> str:
        if request["seed"] == 1:  # the second sample is not there before the first is verified
            await verified.wait()
        return "Answer: 42"

    class Witness(Verifier):
        def check(self, problem: Problem, candidate: Candidate) -> bool:
            verified.set()
            return True

    async with Sampler(MockModel(text, max_n=1, params={"seed": 0})) as sampler:
        session = Session(PROBLEM, {"policy": sampler}, verifier=Witness())
        assert [candidate.spawned for candidate in await candidates_of(session, 2)] == [(0,), (1,)]


async def test_errors_that_concern_the_whole_run_are_not_taken_for_a_missing_score():
    class Broken(Verifier):
        async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
            raise EndpointRefused("bad key")

    session = Session(PROBLEM, {})
    with pytest.raises(EndpointRefused, match="bad key"):
        await session.verify(session.candidate("x"), Broken())
    with pytest.raises(ConfigError, match="no verifier"):
        await session.verify(session.candidate("x"))
    with pytest.raises(ConfigError, match="needs a task that has a truth"):
        await session.consult_truth(session.candidate("x"))
    assert not session.ledger.oracle_used


async def test_shared_things_are_made_once_and_closed_with_the_run():
    class Workers:
        closed = 0

        async def aclose(self) -> None:
            Workers.closed += 1

    async with Resources() as resources:
        assert resources.get(Workers) is resources.get(Workers)
    assert Workers.closed == 1
