"""How long the event loop stands still while something runs."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

PERIOD = 0.005


@dataclass
class Lag:
    """What a probe found."""

    worst: float = 0.0
    """Seconds that the loop came back late by this process's own work, at worst: a busy machine is not counted."""


@asynccontextmanager
async def loop_lag() -> AsyncIterator[Lag]:
    """How late the loop wakes a sleeper inside: `async with loop_lag() as lag: ...; assert lag.worst < 0.1`.

    What the tests before it have left in memory is kept out of the garbage collector's way.
    """
    gc.freeze()
    lag = Lag()
    due, worked = time.monotonic() + PERIOD, time.process_time()

    def look() -> None:
        nonlocal due, worked
        lag.worst = max(lag.worst, min(time.monotonic() - due, time.process_time() - worked))
        due, worked = time.monotonic() + PERIOD, time.process_time()

    async def probe() -> None:
        while True:
            await asyncio.sleep(PERIOD)
            look()

    task = asyncio.create_task(probe())
    await asyncio.sleep(0)
    try:
        yield lag
    finally:
        look()  # what blocked until the very end has kept the probe from looking
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        gc.unfreeze()
