"""Answers that are stored: re-used first, never lost, never mixed up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tests.support.solving import PROBLEM, account, check_exact, endpoint, everything
from tts.runs.store import Store
from tts.sampler import Sampler
from tts.session import Session
from tts.types import Problem, Sample, Usage, total


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
    texts, session, _ = await run(store, 1, faults=faults)
    assert not texts
    assert not store.kept
    assert len(session.ledger.failures) == 1
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
