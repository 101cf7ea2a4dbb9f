"""Slow requests, sent a second time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def hedged(
    fetch: Callable[[Sequence[str], asyncio.Future[str] | None], Coroutine[Any, Any, T]],
    avoid: Sequence[str],
    after: float,
    lose: Callable[[T], None],
) -> T:
    """The first success of two attempts; the second starts elsewhere, `after` seconds after the first was sent.

    `fetch(servers to avoid, future to set to the server when it is sent)` is one attempt. Time in the queue does not
    count: sending twice what waits for room would only make the queue longer. The slower attempt is cancelled; if it
    was answered all the same, `lose` gets its answer. (Dean and Barroso 2013, "The Tail at Scale".)
    """
    sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    first = asyncio.create_task(fetch(avoid, sent))
    attempts, winner = [first], None
    try:
        await asyncio.wait([first, sent], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([first], timeout=after)
        if not first.done():
            attempts.append(asyncio.create_task(fetch([*avoid, sent.result()], None)))
        running = set(attempts)
        while running and winner is None:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            winner = next((task for task in done if task.exception() is None), None)
        return (winner or first).result()
    finally:
        for task in attempts:
            task.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
        for task in attempts:
            if task is not winner and not task.cancelled() and task.exception() is None:
                lose(task.result())
