"""What the sessions of a run share: the store of answers, worker pools, loaded models."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol, TypeVar

from tts.types import Sample

T = TypeVar("T")


class SampleStore(Protocol):
    """Where answers are kept. `key` addresses a prompt together with everything that shaped its answers."""

    async def get(self, key: bytes, occurrences: Sequence[int]) -> dict[int, Sample]:
        """The stored samples among `occurrences`."""
        ...

    def put(self, key: bytes, sample: Sample) -> Awaitable[None]:
        """Start to keep `sample` under its index; awaiting the result waits until it is safe."""
        ...


class Resources:
    """Things that the sessions of a run share and that end with it, made when first asked for."""

    def __init__(self) -> None:
        self._made: dict[type, Any] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Resources:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def get(self, kind: type[T]) -> T:
        """The run's only `kind()`; if it has an `aclose`, it is called when the run ends."""
        if kind not in self._made:
            self.put(kind())
        return self._made[kind]

    def put(self, made: Any) -> None:
        """Have `get` give `made` for its class."""
        self._made[type(made)] = made
        if hasattr(made, "aclose"):
            self._stack.push_async_callback(made.aclose)
