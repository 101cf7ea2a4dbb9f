"""The probe for the event loop's lag: what it must see, and what it must not."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest

from tests.support.lag import MOST, standstill

SPIN = "import time\nend = time.time() + 20\nwhile time.time() < end: pass"


def work() -> None:
    ends = time.thread_time() + 0.15
    while time.thread_time() < ends:
        pass


@contextmanager
def busy() -> Iterator[None]:
    """A machine whose processors others keep busy."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(8)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.parametrize("machine", [nullcontext, busy])
@pytest.mark.parametrize("block", [work, lambda: time.sleep(0.15)])
async def test_work_and_blocking_calls_are_seen(
    block: Callable[[], None], machine: Callable[[], AbstractContextManager[None]]
):
    async def blocked() -> None:
        await asyncio.sleep(0.02)
        block()
        await asyncio.sleep(0.02)

    with machine():
        assert await standstill(blocked) > MOST


async def test_a_busy_machine_is_not():
    async def little() -> None:
        for _ in range(100):
            await asyncio.sleep(0.01)
            sum(range(10_000))

    with busy():
        assert await standstill(little, 0.05) < 0.05
