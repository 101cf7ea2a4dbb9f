"""How long the event loop stands still while something runs."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

PERIOD = 0.005
MOST = 0.1
"""Seconds for which nothing may hold up the loop."""


@dataclass
class Lag:
    """What a probe found."""

    worst: float = 0.0
    """Seconds for which the loop stood still at worst: work, blocking calls and threads that hold the interpreter
    count, a busy machine does not."""


def _waits(tasks: str = "/proc/self/task") -> dict[str, float]:
    """Seconds for which each thread of this process has been ready to run, but others had the processors."""
    waits = {}
    for task in os.listdir(tasks):
        with suppress(OSError), open(f"{tasks}/{task}/schedstat", "rb", buffering=0) as file:  # it may just have ended
            waits[task] = int(file.read().split()[1]) / 1e9
    return waits


class _Probe:
    """Looks at the clocks of the loop's thread whenever the loop comes round."""

    def __init__(self, lag: Lag) -> None:
        self.lag = lag
        self.selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        self.idle = 0.0
        self.begin()

    def select(self, timeout: float | None = None) -> list[object]:
        began = time.monotonic()
        try:
            return type(self.selector).select(self.selector, timeout)
        finally:
            self.idle += time.monotonic() - began

    def begin(self) -> None:
        """From here on the loop has `PERIOD` until it is late."""
        self.waits, self.idle_before = _waits(), self.idle
        self.cpu, self.own, self.began = time.process_time(), time.thread_time(), time.monotonic()

    def look(self) -> None:
        """What has kept the loop: its own work, and no more than it is late by nor this process did in the meantime."""
        wall, own = time.monotonic() - self.began, time.thread_time() - self.own
        cpu, waits = time.process_time() - self.cpu, _waits()
        waited = {task: seconds - self.waits.get(task, 0.0) for task, seconds in waits.items()}
        mine = waited.get(str(threading.get_native_id()), 0.0)
        blocked = max(0.0, wall - (self.idle - self.idle_before) - own - mine)
        late = wall - PERIOD - sum(waited.values())
        self.lag.worst = max(self.lag.worst, own - PERIOD, min(late, cpu + blocked))
        self.begin()


@asynccontextmanager
async def loop_lag() -> AsyncIterator[Lag]:
    """For how long the loop stands still inside: `async with loop_lag() as lag: ...; assert lag.worst < MOST`.

    What the tests before it have left in memory is kept out of the garbage collector's way, for good.
    """
    gc.collect()
    gc.freeze()
    lag = Lag()
    probe = _Probe(lag)
    probe.selector.select = probe.select

    async def look() -> None:
        while True:
            await asyncio.sleep(PERIOD)
            probe.look()

    task = asyncio.create_task(look())
    await asyncio.sleep(0)
    probe.begin()
    try:
        yield lag
    finally:
        probe.look()  # what blocked until the very end has kept the probe from looking
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        del probe.selector.select


async def standstill(work: Callable[[], Awaitable[object]], most: float = MOST) -> float:
    """Seconds for which `work` holds up the loop at worst: the least of three tries, or the first below `most`.

    A busy machine cannot be told from a slow program in every case, but it is not busy in the same way three times.
    """
    least = float("inf")
    for _ in range(3):
        async with loop_lag() as lag:
            await work()
        if (least := min(least, lag.worst)) < most:
            break
    return least
