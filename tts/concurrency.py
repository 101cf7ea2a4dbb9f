"""Concurrency that cannot leak: streams fed by workers, inside scopes that outlive none of their tasks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from tts.errors import BudgetSpent, cause_of

T = TypeVar("T")
R = TypeVar("R")
Work = Coroutine[Any, Any, object]

_scope: ContextVar[set[asyncio.Task[object]] | None] = ContextVar("scope", default=None)
_stopped: WeakSet[asyncio.Task[object]] = WeakSet()


@asynccontextmanager
async def scope() -> AsyncIterator[None]:
    """Workers that flows start inside are cancelled and awaited on leaving.

    A generator that is closed cannot await what its own abandoned inner generators were doing; the scope can.
    """
    tasks: set[asyncio.Task[object]] = set()
    token = _scope.set(tasks)
    try:
        yield
    finally:
        _scope.reset(token)
        await _stop(tasks)


class Flow(Generic[T]):
    """What a worker of a flow holds: it emits items and starts further workers."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[object]] = set()
        self.running = 0
        self._events: deque[tuple[bool, Any]] = deque()  # bounded by what the workers may ask for
        self._reader: asyncio.Future[None] | None = None

    def emit(self, item: T) -> None:
        """Hand `item` to whoever iterates the flow."""
        self._put((True, item))

    async def next(self) -> tuple[bool, Any]:
        """The next event: (True, item), or (False, error or None) when a worker ends."""
        if not self._events:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._events.popleft()

    def _put(self, event: tuple[bool, Any]) -> None:
        self._events.append(event)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def start(self, work: Work) -> asyncio.Task[object]:
        """Run `work` beside the others; the flow ends when the last one ends."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self.running += 1
        for owner in (self.tasks, _scope.get()):
            if owner is not None:
                owner.add(task)
                task.add_done_callback(owner.discard)
        return task

    def _ended(self, task: asyncio.Task[object]) -> None:
        # A worker that somebody else cancelled must end the stream too, or its reader would wait for ever.
        self._put((False, asyncio.CancelledError() if task.cancelled() else task.exception()))


async def flow(begin: Callable[[Flow[T]], None]) -> AsyncGenerator[T, None]:
    """Items that the workers emit which `begin(flow)` starts, and those that they start, as they come.

    The first error of a worker ends the stream and cancels the others, except `BudgetSpent`, which is raised only
    after the others have delivered what is already being paid for. Closing the stream cancels and awaits them.
    """
    state: Flow[T] = Flow()
    spent: BudgetSpent | None = None
    try:
        begin(state)
        while state.running:
            is_item, value = await state.next()
            if is_item:
                yield value
                continue
            state.running -= 1
            if value is not None and isinstance(cause := cause_of(value), BudgetSpent):
                spent = cause
            elif value is not None:
                raise value
        if spent is not None:
            raise spent
    finally:
        await _stop(state.tasks)


async def merge(sources: Iterable[AsyncIterable[T]]) -> AsyncGenerator[T, None]:
    """Items of all `sources` as they come."""

    async def drain(source: AsyncIterable[T], out: Flow[T]) -> None:
        async with _closing(source):
            async for item in source:
                out.emit(item)

    def begin(out: Flow[T]) -> None:
        for source in sources:
            out.start(drain(source, out))

    async with aclosing(flow(begin)) as items:
        async for item in items:
            yield item


async def concurrent_map(
    function: Callable[[T], Awaitable[R]], source: AsyncIterable[T], *, limit: int = 1024
) -> AsyncGenerator[R, None]:
    """`function` of every item, each started as its item arrives, results as they are ready.

    At most `limit` run at once; the source is not read further until one ends.
    """
    room = asyncio.Semaphore(limit)

    async def one(item: T, out: Flow[R]) -> None:
        try:
            out.emit(await function(item))
        finally:
            room.release()

    async def each(out: Flow[R]) -> None:
        async with _closing(source):
            async for item in source:
                await room.acquire()
                out.start(one(item, out))

    def begin(out: Flow[R]) -> None:
        out.start(each(out))

    async with aclosing(flow(begin)) as results:
        async for result in results:
            yield result


async def in_order(source: AsyncIterable[T], place: Callable[[T], int]) -> AsyncGenerator[T, None]:
    """Items of `source` by their places 0, 1, 2, ..., each as soon as all before it are there.

    Those behind a place that never came are given at the end.
    """
    early: dict[int, T] = {}
    due = 0
    async with _closing(source):
        async for item in source:
            early[place(item)] = item
            while due in early:
                yield early.pop(due)
                due += 1
    for number in sorted(early):
        yield early[number]


@asynccontextmanager
async def _closing(source: AsyncIterable[Any]) -> AsyncIterator[None]:
    """Close `source` at the end, if it is a generator."""
    try:
        yield
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()


async def _stop(tasks: set[asyncio.Task[object]]) -> None:
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        if task not in _stopped:  # a second cancellation would interrupt its cleaning up
            _stopped.add(task)
            task.cancel()
    if pending:
        await asyncio.gather(*pending, return_exceptions=True)
