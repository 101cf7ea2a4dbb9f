"""How long the event loop stands still while something runs."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PERIOD = 0.005


@dataclass
class Lag:
    """What a probe found."""

    worst: float = 0.0
    """Seconds that the loop came back late at worst, beyond those that this process waited for a processor: work and
    blocking calls count, a busy machine does not."""


def waited() -> float:
    """Seconds for which the threads of this process have been ready to run, but others had the processors."""
    delays = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # the thread has just ended
            delays += int(file.read_text().split()[1])
    return delays / 1e9


@asynccontextmanager
async def loop_lag() -> AsyncIterator[Lag]:
    """How late the loop wakes a sleeper inside: `async with loop_lag() as lag: ...; assert lag.worst < 0.1`.

    What the tests before it have left in memory is kept out of the garbage collector's way.
    """
    gc.freeze()
    lag = Lag()
    due, before = time.monotonic() + PERIOD, waited()

    def look() -> None:
        nonlocal due, before
        late, delays = time.monotonic() - due, waited()
        lag.worst = max(lag.worst, late - (delays - before))
        due, before = time.monotonic() + PERIOD, delays

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
