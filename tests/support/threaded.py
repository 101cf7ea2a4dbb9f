"""The model double in a thread of its own, for tests that are no coroutines: command lines and child processes."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.double import ModelDouble


@contextmanager
def serving(**settings: Any) -> Iterator[ModelDouble]:
    """A `ModelDouble(**settings)` that answers until the end of the block. Its counters may be read at any time."""
    ready, ends = threading.Event(), []
    double = ModelDouble(**settings)

    async def serve() -> None:
        end = asyncio.Event()
        ends.extend([asyncio.get_running_loop(), end])
        async with double:
            ready.set()
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="model-double", daemon=True)
    thread.start()
    assert ready.wait(10), "the double did not start"
    try:
        yield double
    finally:
        loop, end = ends
        loop.call_soon_threadsafe(end.set)
        thread.join(10)


def settle(double: ModelDouble) -> None:
    """Wait until the double has counted every request: a client has its answer a moment before."""
    ends = time.monotonic() + 20
    while not double.is_idle:
        assert time.monotonic() < ends, "requests are still open"
        time.sleep(0.002)
