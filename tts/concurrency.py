"""Concurrency that cannot leak: streams fed by workers, inside scopes that outlive none of their tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
)
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from tts.errors import BudgetSpent, cause_of

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
Work = Coroutine[Any, Any, object]

_scope: ContextVar[set[asyncio.Task[Any]] | None] = ContextVar("scope", default=None)
_stopped: WeakSet[asyncio.Task[Any]] = WeakSet()
_EPOCH = time.time() - time.monotonic()


_WORKER = ThreadPoolExecutor(1, "aside")

LARGE = 1 << 18
"""Bytes that take too long to work through on the event loop."""


ROUND = 8 * LARGE
"""Bytes that are worked through before the loop looks after everything else again."""

LEAST = LARGE // 8
"""Bytes that a piece of work counts at least: what the smallest takes, a tenth of a millisecond or two, is not its
bytes."""


class _Turns:
    """Who waits for a turn on one event loop, and for how many bytes."""

    def __init__(self) -> None:
        self.taken = 0
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.called: int = 0
        """Those whose turn has come, and who have not gone on yet."""

    def next(self, loop: asyncio.AbstractEventLoop) -> None:
        self.taken = 0
        while self.waiting and self.taken < ROUND:
            size, one = self.waiting.popleft()
            if not one.done():
                one.set_result(None)
                self.taken += size
                self.called += 1
        if self.taken or self.called:
            loop.call_soon(self.next, loop)


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()


async def in_turn(size: int) -> None:
    """Wait for a turn to work on `size` bytes, first come, first served: for a `ROUND` in each round of the event loop.

    A loop finishes all that is ready before it looks after anything else. What is started by the thousand at once
    therefore takes turns.
    """
    size = max(size, LEAST)
    loop = asyncio.get_running_loop()
    turns = _turns.setdefault(loop, _Turns())
    if turns.waiting or turns.called or turns.taken >= ROUND:
        turn: asyncio.Future[None] = loop.create_future()
        turns.waiting.append((size, turn))
        try:
            await turn
        finally:
            turn.cancel()  # unless it has come
            turns.called -= not turn.cancelled()
        return
    if not turns.taken:
        loop.call_soon(turns.next, loop)
    turns.taken += size


async def aside(size: int, work: Callable[..., T], *args: Any) -> T:
    """What `work` makes of `args`: in a thread if their `size` in bytes is `LARGE`.

    It is one thread for all: each would hold the interpreter, and several of them would keep the loop from its turn.
    """
    if size <= LARGE:
        return work(*args)
    return await asyncio.get_running_loop().run_in_executor(_WORKER, partial(copy_context().run, work, *args))


def timed(work: Callable[..., T], *args: Any) -> tuple[T, float]:
    """What `work` makes of `args`, and the CPU seconds that it took."""
    begin = time.thread_time()
    return work(*args), time.thread_time() - begin


def now() -> float:
    """Unix time in seconds by the clock of the running loop, which a simulation may replace; it never goes back."""
    try:
        return _EPOCH + asyncio.get_running_loop().time()
    except RuntimeError:
        return _EPOCH + time.monotonic()


@asynccontextmanager
async def scope() -> AsyncIterator[None]:
    """Cancels and awaits, on leaving, every worker that a flow started inside.

    Closing a generator does not close the generators it was reading from; the scope stops their workers all the same.
    """
    tasks: set[asyncio.Task[Any]] = set()
    token = _scope.set(tasks)
    try:
        yield
    finally:
        _scope.reset(token)
        await _stop(tasks)


class Flow(Generic[T]):
    """A worker's end of a flow: it emits items and starts further workers."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Any]] = set()
        self.running: int = 0
        self._events: deque[tuple[bool, Any]] = deque()  # bounded by what the workers may ask for
        self._reader: asyncio.Future[None] | None = None

    def emit(self, item: T) -> None:
        """Hand `item` to whoever reads the flow."""
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

    def start(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        """Run `work` beside the others; the flow ends when the last worker does."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self.running += 1
        for owner in (self.tasks, _scope.get()):
            if owner is not None:
                owner.add(task)
                task.add_done_callback(owner.discard)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        # A worker cancelled from outside must end the stream too, or its reader would wait for ever.
        self._put((False, asyncio.CancelledError() if task.cancelled() else task.exception()))


async def flow(work: Callable[[Flow[T]], Work]) -> AsyncGenerator[T, None]:
    """Items as `work(flow)`, and the workers that it starts, emit them.

    The first error of a worker ends the stream and cancels the others, except `BudgetSpent`, which is raised only
    after the others have delivered what is already being paid for. Closing the stream cancels and awaits them.
    """
    state: Flow[T] = Flow()
    spent: BaseException | None = None
    value: Any = None
    try:
        state.start(work(state))
        while state.running:
            is_item, value = await state.next()
            if is_item:
                yield value
                continue
            state.running -= 1
            if value is not None and isinstance(cause_of(value), BudgetSpent):
                spent = cause_of(value)
            elif value is not None:
                raise value
        if spent is not None:
            raise spent
    finally:
        spent = value = None  # as in `own_failure`
        await _stop(state.tasks)


async def together(works: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    """Run `works` side by side and return their results in order.

    An error cancels the others; a spent budget is raised once the others have finished.
    """
    tasks: list[asyncio.Task[R]] = []

    async def start_all(out: Flow[None]) -> None:
        tasks.extend(out.start(work) for work in works)

    try:
        async for _ in flow(start_all):
            pass
        return [task.result() for task in tasks]
    finally:
        tasks.clear()  # as in `own_failure`


def merge(sources: Iterable[AsyncIterable[T]]) -> AsyncGenerator[T, None]:
    """The items of all `sources` as they come."""

    async def drain(source: AsyncIterable[T], out: Flow[T]) -> None:
        async with closing(source):
            async for item in source:
                out.emit(item)

    async def drain_all(out: Flow[T]) -> None:
        for source in sources:
            out.start(drain(source, out))

    return flow(drain_all)


def concurrent_map(
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
        async with closing(source):
            async for item in source:
                await room.acquire()
                out.start(one(item, out))

    return flow(each)


async def in_order(source: AsyncIterable[T], place: Callable[[T], int]) -> AsyncGenerator[T, None]:
    """The items of `source` by their places 0, 1, 2, ..., each as soon as all before it are there.

    Those behind a place that never comes are given at the end.
    """
    early: dict[int, T] = {}
    due = 0
    async with closing(source):
        async for item in source:
            early[place(item)] = item
            while due in early:
                yield early.pop(due)
                due += 1
    for number in sorted(early):
        yield early[number]


@asynccontextmanager
async def closing(source: AsyncIterable[Any]) -> AsyncIterator[None]:
    """Close `source` on leaving, if it is a generator."""
    try:
        yield
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()


async def _stop(tasks: set[asyncio.Task[Any]]) -> None:
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        if task not in _stopped:  # a second cancellation would interrupt its clean-up
            _stopped.add(task)
            task.cancel()
    if pending:
        await asyncio.gather(*pending, return_exceptions=True)


class Once(Generic[T]):
    """Makes each thing once, even when many ask at the same time, and keeps the last ones."""

    def __init__(self, kept: int) -> None:
        self._made: OrderedDict[Hashable, T] = OrderedDict()
        self._making: dict[Hashable, asyncio.Lock] = {}
        self._kept = kept

    async def get(
        self, key: Hashable, make: Callable[[], Awaitable[T]], *, keep: Callable[[T], bool] = lambda made: True
    ) -> tuple[T, bool]:
        """The thing called `key`, and whether it existed.

        If its maker is cancelled, or what was made is not to `keep`, the next to ask makes it anew.
        """
        if key not in self._made:
            lock = self._making.setdefault(key, asyncio.Lock())
            try:
                async with lock:
                    if key not in self._made:
                        made = await make()
                        if keep(made):
                            self._made[key] = made
                        if len(self._made) > self._kept:
                            self._made.popitem(last=False)
                        return made, False
            finally:
                if not lock.locked():
                    self._making.pop(key, None)
        self._made.move_to_end(key)
        return self._made[key], True


# -- without await ---------------------------------------------------------------------------------------------------


def blocking(work: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """`work` for callers that cannot await, also where a loop is running (as in notebooks), which then stands still.

    What it is given must not belong to that loop, as an open `Sampler` does. Ctrl-C cancels it.
    """

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
        left, done, context = threading.Event(), Future[T](), copy_context()

        async def main() -> T:
            task = asyncio.current_task()
            assert task is not None
            running.append((asyncio.get_running_loop(), task))
            if left.is_set():
                task.cancel()
            return await work(*args, **kwargs)

        def elsewhere() -> None:
            try:
                done.set_result(context.run(asyncio.run, main()))
            except BaseException as error:
                done.set_exception(error)

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(main())
        thread = threading.Thread(target=elsewhere, name="blocking")
        try:
            thread.start()  # from here on, before it returns too, Ctrl-C finds something to cancel
            while not done.done():
                wait([done], 1)  # a Ctrl-C just before it waits does not wake it
            return done.result()
        except BaseException:
            left.set()
            for loop, task in () if done.done() else running:
                loop.call_soon_threadsafe(task.cancel)
            raise
        finally:
            if thread.ident is not None:
                thread.join()

    return run
