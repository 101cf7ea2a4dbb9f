"""What a strategy sees: numbered samples, candidates with their cost, verdicts, stored answers, random numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tests.support.solving import PROBLEM, account, check_exact, endpoint
from tts.aio import merge
from tts.base import Verifier
from tts.errors import ConfigError, EndpointRefused, SamplingFailed
from tts.experiment.store import Store
from tts.sampler import Sampler
from tts.sampler.mock import MockModel
from tts.session import Session, Shared
from tts.types import Candidate, Problem, Sample, Usage, Verdict, by_role, total

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


class Memory:
    """A store that answers from a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[tuple[bytes, int], Sample] = {}

    async def get(self, key: bytes, occurrences: Sequence[int]) -> dict[int, Sample]:
        await asyncio.sleep(0)
        return {number: self.kept[key, number] for number in occurrences if (key, number) in self.kept}

    def put(self, key: bytes, sample: Sample) -> asyncio.Future[None]:
        self.kept[key, sample.index] = sample
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


async def everything(source: AsyncGenerator[T, None]) -> list[T]:
    async with asyncio.timeout(30):
        return [item async for item in source]


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

    async with Shared() as shared:
        assert shared.get(Workers) is shared.get(Workers)
    assert Workers.closed == 1


# -- stored answers ----------------------------------------------------------------------------------------------------


async def run(store: Any, n: int, *, seed: int = 0, params: dict[str, Any] | None = None, **settings: Any) -> Any:
    """Sample in a session of its own: (samples by spawn number, session, what the double counted)."""
    async with ModelDouble(**settings) as double, Sampler(endpoint(double, identity="the model")) as sampler:
        session = Session(PROBLEM, {"policy": sampler}, seed=seed, store=store)
        samples = await everything(session.sample(n=n, **(params or {})))
        return {sample.index: sample.text for sample in samples}, session, double.stats


async def test_a_larger_n_asks_only_for_what_is_new(tmp_path: Path):
    async with Store(tmp_path / "run.sqlite") as store:
        first, _, _ = await run(store, 5)
        second, session, stats = await run(store, 12)
        third, again, nothing = await run(store, 12)
    assert second.items() >= first.items()
    assert stats.choices == 7
    check_exact(session.ledger, stats)
    assert total(session.ledger.reused).completion_tokens == sum(len(text) for text in first.values())
    assert session.spent == total(session.ledger.paid) + total(session.ledger.reused)
    assert third == second
    assert nothing.received == 0
    assert account(again.ledger) == (Usage(), Usage())


async def test_other_prompts_parameters_and_seeds_have_answers_of_their_own():
    store = Memory()
    kinds: list[dict[str, Any]] = [{}, {"seed": 1}, {"params": {"temperature": 0.5}}]
    for n, settings in enumerate(kinds, start=1):
        _, _, stats = await run(store, 3, **settings)
        assert stats.choices == 3
        assert len(store.kept) == 3 * n
    assert (await run(store, 3, seed=1))[2].received == 0


async def test_the_same_prompt_twice_in_a_session_gets_different_answers():
    store = Memory()
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        for _ in range(2):
            session = Session(PROBLEM, {"policy": sampler}, store=store)
            one, other = await everything(session.sample(n=4)), await everything(session.sample(n=4))
            assert not {sample.text for sample in one} & {sample.text for sample in other}
    assert double.stats.choices == 8


async def test_errors_are_never_stored_and_only_what_is_missing_is_asked_again():
    store = Memory()
    faults = lambda number, body: Fault(FaultKind.BAD_REQUEST) if number < 2 else None  # noqa: E731
    with pytest.raises(SamplingFailed):
        await run(store, 1, faults=faults)
    assert not store.kept
    await run(store, 4)
    texts, session, stats = await run(store, 6, faults=faults)
    assert set(texts) == {0, 1, 2, 3}  # the stored ones are there although none of the new ones could be had
    assert len(session.ledger.failures) == 2
    texts, _, stats = await run(store, 6)
    assert set(texts) == set(range(6))
    assert stats.choices == 2


async def test_answers_are_stored_even_if_nobody_waits_for_them_any_more():
    store = Memory()
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        samples = Session(PROBLEM, {"policy": sampler}, store=store).sample(n=8)
        await anext(samples)
        await samples.aclose()
    assert len(store.kept) == double.stats.choices == 8


async def test_many_sessions_share_a_store(tmp_path: Path):
    async with (
        Store(tmp_path / "run.sqlite") as store,
        ModelDouble(latency=(0, 0.01), answer=solvable({}, otherwise=0.5)) as double,
        Sampler(endpoint(double, max_n=2)) as sampler,
    ):

        async def texts(number: int) -> list[str]:
            problem = Problem.from_prompt(f"What is {number}?", id=str(number))
            session = Session(problem, {"policy": sampler}, store=store)
            samples = await everything(session.sample(n=6))
            assert session.spent.requests == 3
            return [sample.text for sample in sorted(samples, key=lambda sample: sample.index)]

        first = await asyncio.gather(*(texts(number) for number in range(20)))
        assert double.stats.received == 60
        assert await asyncio.gather(*(texts(number) for number in range(20))) == first
        assert double.stats.received == 60
    assert double.stats.choices == 120
