"""A worker: runs rows in a process of its own, as a run in one process would, and stores through the driver."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version
from itertools import islice
from typing import Any

from tts import registry
from tts.allocation import essentials
from tts.cluster.messages import LEASE, PULSE, Facts, Hello, Inbox, Outbox, pack, portable, unpack
from tts.errors import cause_of
from tts.resources import Resources
from tts.runs.executors import ends
from tts.runs.progress import Progress
from tts.runs.runner import GridRow, RowRunner
from tts.runs.store import Cell
from tts.sampler import Sampler
from tts.sampler.connection import Connection
from tts.sampler.shares import SharedPool
from tts.types import Candidate, Result, Sample, Usage

ROWS = 4
"""Rows at once, at least: some of them verify, and some need no server."""

GATHER = 0.01
"""Seconds in which what is not urgent is gathered for one message."""


class ClusterWorker:
    """Takes rows and shares from the driver and gives it answers, results and reports. The class of a Ray actor."""

    def __init__(self) -> None:
        self._out = Outbox()
        self._news = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._calls = 0
        self._rows: asyncio.Queue[tuple[int, GridRow]] = asyncio.Queue()
        self._running: dict[asyncio.Task[None], str] = {}
        """Rows at work, and their problems."""
        self._turns = RemoteTurns(self.call)
        self._samplers: list[Sampler] = []
        self._heard = 0.0
        self._work: asyncio.Task[None] | None = None

    # -- what the driver calls ------------------------------------------------------------------------------------

    async def start(self, hello: bytes) -> bytes:
        """Begin to work; gives `Facts`."""
        told: Hello = unpack(hello)
        for (group, _), plugin in told.plugins.items():
            registry.register(group, plugin)  # pyright: ignore[reportArgumentType]
        self.listen()
        self._heard = asyncio.get_running_loop().time()
        self._work = asyncio.create_task(self._live(told))
        shared = (told.folder / "lock").exists()
        return pack(Facts(platform.node(), self.node_id(), os.getpid(), version("ttscale"), shared))

    async def exchange(self, inbox: bytes) -> bytes:
        """Hear `inbox` and say, in an `Outbox`, what there is to say, as soon as there is anything."""
        await self.tell(inbox)
        try:
            async with asyncio.timeout(PULSE):
                await self._news.wait()
        except TimeoutError:
            pass
        await asyncio.sleep(0)  # what is ready in the same turn of the loop goes along
        self._news.clear()
        out, self._out = self._out, Outbox(stopped=self._out.stopped)
        if self._samplers:
            pools = [sampler.connection.pool for sampler in self._samplers]
            reports = {i: pool.report() for i, pool in enumerate(pools) if isinstance(pool, SharedPool)}
            out.reports = {i: report for i, report in reports.items() if report is not None}
            capacity = sum(int(pool.capacity) for pool in pools)
            out.room = max(ROWS, capacity) - len(self._running) + len(self._turns.waiting) - self._rows.qsize()
        return pack(out)

    async def tell(self, inbox: bytes) -> None:
        """Hear `inbox`."""
        self._heard = asyncio.get_running_loop().time()
        told: Inbox = unpack(inbox)
        for number, result in told.acks:
            future = self._pending.pop(number)
            if future.cancelled():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
                future.exception()  # whoever was cancelled meanwhile does not ask for it
            else:
                future.set_result(result)
        for row in told.rows:
            self._rows.put_nowait(row)
        for sampler, grant in zip(self._samplers, told.grants, strict=False):
            if isinstance(pool := sampler.connection.pool, SharedPool):
                pool.take_grant(grant)
        if told.due:
            self._news.set()
        leaving = sum(task.cancelling() > 0 for task in self._running)
        idle = (task for task, problem in self._running.items() if problem in self._turns.waiting)
        for task in list(islice(idle, max(0, told.give - leaving))):
            task.cancel()
        if told.stop:
            self.stop()

    def stop(self) -> None:
        """End the work; what it holds is closed, which being told again must not interrupt."""
        if self._work is not None and not self._work.cancelling():
            self._work.cancel()

    # -- what the work says ---------------------------------------------------------------------------------------

    def call(self, method: str, *args: Any) -> asyncio.Future[Any]:
        """Have the driver call a method of the run's store or turns; the future has the result once it is committed."""
        self._calls += 1
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[self._calls] = done
        self._out.calls.append((self._calls, method, args))
        self._news.set()
        return done

    def _out_notice(self, level: int, text: str) -> None:
        self._out.notices.append((level, text))
        self._soon()

    def _soon(self) -> None:
        """Say before long what has changed."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER, self._say)

    def _say(self) -> None:
        self._timer = None
        self._news.set()

    # -- the work -------------------------------------------------------------------------------------------------

    async def _live(self, told: Hello) -> None:
        error: Exception | None = None
        try:
            async with AsyncExitStack() as stack:
                for endpoint in told.endpoints:
                    sampler = await stack.enter_async_context(Sampler(endpoint))
                    sampler.connection = Connection(endpoint, SharedPool(endpoint, self._soon))
                    sampler.scoring = asyncio.Semaphore(max(1, endpoint.max_scoring // told.scoring))
                    self._samplers.append(sampler)
                resources = await stack.enter_async_context(Resources())
                resources.put(_sandbox(told.cores))
                models = {
                    name: {role: self._samplers[place] for role, place in roles.items()}
                    for name, roles in told.models.items()
                }
                store = RemoteStore(self.call)
                turns = self._turns if told.grid.total_budget else None
                runner = RowRunner(told.grid, models, store, resources, Progress(), told.folder, turns)
                self._news.set()
                async with asyncio.TaskGroup() as group:
                    for work in (self._watch(), *ends(models)):
                        group.create_task(work)
                    while True:
                        number, row = await self._rows.get()
                        task = group.create_task(self._run(runner, number, row))
                        self._running[task] = row.example.problem.id
                        task.add_done_callback(self._running.pop)
        except asyncio.CancelledError:
            pass
        except Exception as raised:
            error = portable(cause_of(raised))
        self._out.error, self._out.stopped = error, True
        self._news.set()

    async def _run(self, runner: RowRunner, number: int, row: GridRow) -> None:
        try:
            await runner.run(row)
        except asyncio.CancelledError:
            self._out.given.append(number)
            raise
        else:
            self._out.done.append(number)
        finally:
            self._news.set()

    async def _watch(self) -> None:
        """End this process when the driver is gone or cannot be reached: its rows are taken up elsewhere."""
        loop, late = asyncio.get_running_loop(), 0
        while late < 2:  # a busy loop may only just have come to listen
            await asyncio.sleep(PULSE)
            late = late + 1 if loop.time() - self._heard > LEASE else 0
        self.end()

    def listen(self) -> None:
        """Have what is logged in this process told to the driver."""
        logging.getLogger("tts").addHandler(_Forward(self._out_notice))

    def node_id(self) -> str:
        """Of the node that this is on."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def end(self) -> None:
        """End this process at once."""
        os._exit(1)


def _sandbox(cores: int) -> Any:
    from tts.verifiers.sandbox import Sandbox

    return Sandbox(cores)


class RemoteStore:
    """The run's store, which the driver has."""

    def __init__(self, call: Callable[..., asyncio.Future[Any]]) -> None:
        self._call = call

    async def get(self, key: bytes, occurrences: Sequence[int]) -> dict[int, Sample]:
        """See `tts.runs.store.Store`, as for the other methods."""
        return await self._call("get", key, occurrences)

    def put(self, key: bytes, sample: Sample) -> Awaitable[None]:
        return self._call("put", key, sample)

    async def finish(self, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
        await self._call("finish", cell, result, correct)


class RemoteTurns:
    """The run's turns, which are decided where the driver is."""

    def __init__(self, call: Callable[..., asyncio.Future[Any]]) -> None:
        self._call = call
        self.waiting: set[str] = set()
        """Problems whose searches wait."""

    def wait(self, problem: str, asked: int, candidates: Sequence[Candidate], spent: Usage) -> Awaitable[int]:
        """See `tts.allocation.Turns`, as for the other method."""
        told = self._call("wait", problem, asked, [*map(essentials, candidates)], spent)
        self.waiting.add(problem)
        told.add_done_callback(lambda _: self.waiting.discard(problem))
        return told

    def leave(self, problem: str, spent: Usage) -> None:
        self._call("leave", problem, spent)


class _Forward(logging.Handler):
    """Gives what is logged here to the driver."""

    def __init__(self, say: Callable[[int, str], None]) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self._say = partial(loop.call_soon_threadsafe, say)

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.levelno, record.getMessage())
