"""Stragglers: a second attempt beside one that takes too long, the first answer wins (Dean and Barroso 2013)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def hedged(
    fetch: Callable[[str | None, asyncio.Future[str] | None], Coroutine[Any, Any, T]],
    avoid: str | None,
    after: float,
    lose: Callable[[T], None],
) -> T:
    """The first success of one attempt and another that begins `after` seconds after that was sent, elsewhere.

    Time in the queue does not count: sending twice what waits for room would make the queue longer. The slower one
    is cancelled; if it was answered all the same, `lose` is told.
    """
    sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def patience() -> None:
        await asyncio.shield(sent)
        await asyncio.sleep(after)

    timer = asyncio.create_task(patience())
    attempts = [asyncio.create_task(fetch(avoid, sent))]
    winner: asyncio.Task[T] | None = None
    try:
        await asyncio.wait([timer, *attempts], return_when=asyncio.FIRST_COMPLETED)
        if not attempts[0].done():
            attempts.append(asyncio.create_task(fetch(sent.result(), None)))
        running = set(attempts)
        while running and winner is None:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            winner = next((task for task in done if task.exception() is None), None)
        return (winner or attempts[0]).result()
    finally:
        for task in (timer, *attempts):
            task.cancel()
        await asyncio.gather(timer, *attempts, return_exceptions=True)
        for task in attempts:
            if task is not winner and not task.cancelled() and task.exception() is None:
                lose(task.result())
