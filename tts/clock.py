"""What time it is, by the clock of the event loop: a simulation has a clock of its own."""

from __future__ import annotations

import asyncio
import time

_EPOCH = time.time() - time.monotonic()


def now() -> float:
    """Unix time in seconds, as the running loop counts them; never goes back."""
    try:
        return _EPOCH + asyncio.get_running_loop().time()
    except RuntimeError:
        return _EPOCH + time.monotonic()
