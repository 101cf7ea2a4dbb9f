"""Things that are made once, also when many ask for them at the same time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Makes each thing once, also when many ask at the same time, and keeps the last ones."""

    def __init__(self, kept: int) -> None:
        self._made: OrderedDict[Hashable, T] = OrderedDict()
        self._making: dict[Hashable, asyncio.Lock] = {}
        self._kept = kept

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The thing called `key`, and whether it was there. Who is cancelled leaves the making to the next."""
        if key not in self._made:
            lock = self._making.setdefault(key, asyncio.Lock())
            try:
                async with lock:
                    if key not in self._made:
                        self._made[key] = made = await make()
                        if len(self._made) > self._kept:
                            self._made.popitem(last=False)
                        return made, False
            finally:
                if not lock.locked():
                    self._making.pop(key, None)
        self._made.move_to_end(key)
        return self._made[key], True
