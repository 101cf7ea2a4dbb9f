"""How much is worked on at once, and how much may wait for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tts.gateway.errors import Refused


class Gate:
    """Lets `running` requests in, has `queue` more wait in order, and refuses the rest at once."""

    def __init__(self, running: int, queue: int) -> None:
        self.running = 0
        self._most, self._queue = running, queue
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._seconds = 1.0

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def check(self) -> None:
        """Raise `Refused` (429) when there is no room, not even to wait."""
        if self.running >= self._most and len(self._waiting) >= self._queue:
            wait = self._seconds * (1 + len(self._waiting) / self._most)
            raise Refused(429, "too many requests are waiting here already", "overloaded", None, wait)

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """A place to work in, in order of arrival. Raises as `check` does."""
        self.check()
        if self.running < self._most and not self._waiting:
            self.running += 1
        else:
            await self._turn()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield
        finally:
            self._seconds += (loop.time() - began - self._seconds) / 20  # what the next ones are told to wait
            self._leave()

    async def _turn(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn  # the place is handed over: `running` does not change
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1
