"""A second attempt beside a slow one: which answer counts, and what both cost."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.solving import account, draw, endpoint
from tts.accounts import Ledger
from tts.errors import SamplingFailed
from tts.sampler import Sampler


@pytest.mark.parametrize("hedge_after", [0.02, 0.1])
async def test_hedging_books_both_requests_and_keeps_one_answer(hedge_after):
    ledger = Ledger()
    async with (
        ModelDouble(latency=0.1) as one,
        ModelDouble(latency=0.1) as other,
        Sampler(endpoint(one, other, hedge_after=hedge_after, max_n=1)) as sampler,
    ):
        one.holding = other.holding = hedge_after < 0.05  # until every sample has its second attempt
        drawing = asyncio.create_task(draw(sampler, 16, ledger))
        while one.holding and one.stats.received + other.stats.received < 32:
            await asyncio.sleep(0.005)
        one.holding = other.holding = False
        samples = await drawing
        await one.idle()
        await other.idle()
    assert sorted(sample.index for sample in samples) == list(range(16))
    spent, wasted = account(ledger)
    assert spent.requests == 16
    received = one.stats.received + other.stats.received
    assert received <= spent.requests + wasted.requests <= 32  # some were perhaps left on the way there
    assert hedge_after > 0.05 or wasted.requests == 16


async def test_hedging_saves_a_sample_from_a_replica_that_hangs():
    async with (
        ModelDouble(faults=Fault(FaultKind.HANG)) as stuck,
        ModelDouble() as sound,
        Sampler(endpoint(stuck, sound, hedge_after=0.05)) as sampler,
    ):
        assert [len(await draw(sampler)) for _ in range(4)] == [1] * 4
        await stuck.idle()
    assert sound.stats.served == 4


async def test_requests_that_wait_for_room_are_not_hedged():
    async with (
        ModelDouble(latency=0.1) as double,
        Sampler(endpoint(double, hedge_after=0.3, max_n=1, max_concurrency=1)) as sampler,
    ):
        assert len(await draw(sampler, 8)) == 8
    assert double.stats.received == 8


@pytest.mark.parametrize("status", [500, 400])
async def test_a_first_attempt_that_fails_early_is_not_followed_by_a_hedge(status):
    kind = {500: FaultKind.SERVER_ERROR, 400: FaultKind.BAD_REQUEST}[status]
    async with ModelDouble(faults=[Fault(kind)]) as double, Sampler(endpoint(double, hedge_after=60)) as sampler:
        if status == 500:
            assert len(await draw(sampler)) == 1
        else:
            with pytest.raises(SamplingFailed):
                await draw(sampler)
    assert double.stats.received == {500: 2, 400: 1}[status]
