"""Shares of a window: fair, whole, and together never more than the server allows, whatever is on its way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Hashable
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tts import Endpoint
from tts.sampler.pool import AttemptOutcome, Pool
from tts.sampler.shares import Governor, SharedPool, deal


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=1, max_size=20))
def test_a_window_is_dealt_out_fairly(limit: int, workers: list[tuple[int, int]]) -> None:
    demands, held = [demand for demand, _ in workers], [share for _, share in workers]
    shares = deal(limit, demands, held)
    assert sum(shares) == limit
    lacking = [share for share, demand in zip(shares, demands, strict=True) if share < demand]
    if lacking:  # then nobody has what he does not demand, nor more than those who lack
        assert all(share <= demand for share, demand in zip(shares, demands, strict=True))
        assert max(shares) <= min(lacking) + 1


class Scene:
    """A governor and the pools of some workers, between which messages take their time and overtake each other."""

    def __init__(self, seed: int, workers: int, maximum: int) -> None:
        self.rng, self.maximum = random.Random(seed), maximum
        endpoint = Endpoint(model="m", base_url="http://a", max_concurrency=maximum)
        self.governor = Governor(Pool(endpoint.urls, maximum), self.tell_all)
        self.pools = {name: SharedPool(endpoint, lambda: None) for name in range(workers)}
        for name in self.pools:
            self.governor.join(name)
        self.most = self.served = 0
        self.over = False
        self.tasks = set[asyncio.Task[None]]()

    async def __aenter__(self) -> Self:
        self.begin(self.report())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.over = True
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)

    def later(self, do: object) -> None:
        if self.over:  # a governor has its own timers
            return

        async def wait() -> None:
            await asyncio.sleep(self.rng.random() * 0.01)
            do()  # pyright: ignore[reportCallIssue]

        self.begin(wait())

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def tell_all(self, names: set[Hashable]) -> None:
        for name in names:
            self.tell(name)

    def tell(self, name: object) -> None:
        grant, pool = self.governor.grant(name), self.pools[name]  # pyright: ignore[reportArgumentType]
        self.later(lambda: pool.take_grant(grant))

    async def report(self) -> None:
        while True:  # in order, as exchanges are
            await asyncio.sleep(0.003)
            for name, pool in self.pools.items():
                if report := pool.report():
                    self.governor.take_report(name, report)

    @property
    def in_flight(self) -> int:
        return sum(pool.replicas[0].in_flight for pool in self.pools.values())

    async def work(self, name: int, requests: int, allowed: int) -> None:
        async def one() -> None:
            while True:
                replica = await self.pools[name].acquire(0)
                self.most = max(self.most, self.in_flight)
                refused = self.in_flight > allowed
                await asyncio.sleep(self.rng.random() * 0.01)
                outcome = AttemptOutcome.CONGESTED if refused else AttemptOutcome.SERVED
                self.pools[name].release(replica, outcome, 0.01, 0.05 if refused else None, "busy" * refused)
                if not refused:
                    self.served += 1
                    return

        await asyncio.gather(*(one() for _ in range(requests)))


@pytest.mark.parametrize("seed", range(8))
async def test_shares_never_exceed_the_limit_and_all_is_served(seed: int) -> None:
    async with asyncio.timeout(120), Scene(seed, workers=4, maximum=10) as scene:
        loads = [scene.rng.randint(0, 120) for _ in range(4)]
        await asyncio.gather(*(scene.work(name, load, allowed=99) for name, load in enumerate(loads)))
        await scene.work(0, 100, allowed=99)
    assert scene.most <= 10
    assert scene.served == sum(loads) + 100


@pytest.mark.parametrize("workers", [1, 4])
async def test_a_server_that_throttles_is_sent_what_it_takes(workers: int) -> None:
    async with asyncio.timeout(120), Scene(0, workers, maximum=64) as scene:
        await asyncio.gather(*(scene.work(name, 400 // workers, allowed=6) for name in range(workers)))
    assert scene.served == 400
    assert scene.most <= 64


async def test_what_a_lost_worker_held_is_dealt_out_later() -> None:
    async with asyncio.timeout(120), Scene(0, workers=2, maximum=8) as scene:
        await scene.work(0, 20, allowed=99)
        lost = scene.governor.grant(0).shares[0]
        assert lost >= 4
        loop = asyncio.get_running_loop()
        left = loop.time()
        scene.governor.leave(0, hold=0.3)
        del scene.pools[0]
        assert scene.governor.grant(1).shares[0] <= 8 - lost
        while scene.governor.grant(1).shares[0] < 8:
            await asyncio.sleep(0.01)
        assert loop.time() - left >= 0.3
