"""Several worker processes behind one port: `tts serve --workers N`.

The parent answers no request. It owns what has to hold for all workers together: what keys may spend and run, the
windows of the model servers (`tts.sampler.shares`), and the metrics. Each worker reaches it over a socket that only
the two have (`link.py`). When that closes, however the worker ended, what it held comes back and another takes its
place.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from tts.accounts import Grant, Quota
from tts.errors import ConfigError, TTSError, log
from tts.gateway.admission import Caller, Keyring
from tts.gateway.app import gateway_app, serving_options
from tts.gateway.exchange import APIError
from tts.gateway.link import Line, WorkerLink
from tts.gateway.machines import MachineLimits
from tts.gateway.reloading import Reread, reloading
from tts.gateway.settings import GatewaySettings
from tts.gateway.telemetry import Metrics, Trace
from tts.sampler import Endpoint
from tts.sampler.pool import Pool
from tts.sampler.shares import Governor, Report
from tts.serving import run_on

PULSE = 1.0
"""Seconds between two grants, at most: workers learn from them whether a model server works."""
CLOSING = 1.0
"""Seconds in which servers notice that a worker which has died has closed its connections."""
EARLY, FAILURES = 5.0, 3
"""A worker that ends so many seconds after its start has not begun; so many of these in a row end the gateway."""


class LimitOwner:
    """What all workers share. An async context manager."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Raises `ConfigError` where the files of quotas or trace cannot be used."""
        self._keys = (
            Keyring(settings) if settings.redis is None else MachineLimits(settings, self.show_soon, self._close)
        )
        self.callers: Mapping[str, Caller] = self._keys.known
        self.trace: Trace | None = Trace(settings.trace, settings) if settings.trace is not None else None
        self.metrics: Metrics = Metrics(self)
        self.running: int = 0
        self.queued: int = 0
        """Requests, as workers last said."""
        self.seats: set[WorkerSeat] = set[WorkerSeat]()
        self.closed: APIError | None = None
        self.endpoints: list[Endpoint] = list[Endpoint]()
        """All that there ever were: the parent and its workers name them by their place."""
        self.governors: list[Governor] = list[Governor]()
        self._take(settings)
        self._changed = set[str]()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for file in (self._keys, self.trace):
            if file is not None:
                await self._stack.enter_async_context(file)
        return self

    def _take(self, settings: GatewaySettings) -> None:
        """Have a governor for every endpoint."""
        self.settings = settings
        for endpoint in settings.endpoints:
            if endpoint not in self.endpoints:
                pool = Pool(endpoint.urls, endpoint.max_concurrency, endpoint.target_latency)
                governor = Governor(pool, partial(self._grant, len(self.governors)))
                self.endpoints.append(endpoint)
                self.governors.append(governor)
                if isinstance(self._keys, MachineLimits):
                    self._keys.serve(len(self.governors) - 1, endpoint, governor)
                for seat in self.seats:
                    governor.join(seat)

    async def reload(self, settings: GatewaySettings) -> None:
        """Go by `settings` from now on, and have all workers do so. Raises `ConfigError` as `Gateway.reload` does."""
        self.settings.check_successor(settings)
        await self._keys.reload(settings)
        self._take(settings)
        if self.trace is not None:
            self.trace.know(settings)
        await asyncio.gather(
            *(seat.line.ask("renew", settings, self.endpoints) for seat in self.seats), return_exceptions=True
        )

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _grant(self, place: int, seats: set[Hashable]) -> None:
        for seat in seats:
            if isinstance(seat, WorkerSeat):
                seat.line.tell("grant", place, self.governors[place].grant(seat))

    def _close(self, error: APIError | None) -> None:
        self.closed = error
        for seat in self.seats:
            seat.line.tell("close", error)

    async def pulse(self) -> None:
        """Have workers know, for ever, which model servers work."""
        while True:
            await asyncio.sleep(PULSE)
            for place in range(len(self.governors)):
                self._grant(place, {*self.seats})

    def show_soon(self, name: str) -> None:
        """Have all workers see what the key called `name` has left: some may wait for it."""
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._show)
        self._changed.add(name)

    def _show(self) -> None:
        for name in self._changed:
            for seat in self.seats:
                seat.show(name, freed=True)
        self._changed.clear()

    async def scrape(self) -> bytes:
        """The metrics of all workers."""
        loads = await asyncio.gather(*(seat.line.ask("load") for seat in self.seats), return_exceptions=True)
        known = [load for load in loads if not isinstance(load, BaseException)]
        self.running, self.queued = sum(load[0] for load in known), sum(load[1] for load in known)
        return await self.metrics.text()


class WorkerSeat:
    """What one worker may call, and what it holds."""

    def __init__(
        self,
        owner: LimitOwner,
        settings: GatewaySettings,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """`settings` are those with which the worker begins."""
        self._owner, self._settings = owner, settings
        self._entered, self._held = Counter[str](), defaultdict[str, Grant](Grant)
        self.line: Line = Line(reader, writer, self)

    async def serve(self) -> None:
        """Answer the worker until it has gone, and take back what it held."""
        owner = self._owner
        try:
            await self.line.serve()
        finally:
            if self in owner.seats:
                owner.seats.remove(self)
                for governor in owner.governors:
                    governor.leave(self, CLOSING)
            for name in self._entered.elements():
                owner.callers[name].leave()
            for name, grant in self._held.items():
                self._quota(name).release(grant)
                owner.show_soon(name)

    def _quota(self, name: str) -> Quota:
        quota = self._owner.callers[name].quota
        assert quota is not None
        return quota

    # -- what the worker calls --------------------------------------------------------------------------------------

    def join(self) -> None:
        self._owner.seats.add(self)
        for governor in self._owner.governors:
            governor.join(self)
        if self._owner.closed is not None:
            self.line.tell("close", self._owner.closed)
        if self._settings is not self._owner.settings:  # they have changed since it was started
            self.line.tell("renew", self._owner.settings, self._owner.endpoints)

    def report(self, place: int, report: Report) -> None:
        if self in self._owner.seats:
            self._owner.governors[place].take_report(self, report)

    async def enter(self, name: str) -> None:
        await self._owner.callers[name].enter()
        self._entered[name] += 1

    def leave(self, name: str) -> None:
        self._owner.callers[name].leave()
        self._entered[name] -= 1

    async def look(self, name: str) -> None:
        await self._quota(name).look()
        self.show(name)

    def show(self, name: str, freed: bool = False) -> None:
        """Have the worker see what a key has spent and reserved; room that is `freed` may be waited for."""
        quota = self._quota(name)
        _ = quota.room  # a new day begins where it is looked at
        self.line.tell("show", name, quota.spent, quota.reserved, freed)

    async def hold(self, name: str, grant: Grant) -> bool:
        quota = self._quota(name)
        needs = (grant.prompt_tokens + grant.completion_tokens, grant.money)
        if any(need > room * (1 + 1e-9) for need, room in zip(needs, quota.room, strict=True)):
            return False
        held = await quota.hold(grant)
        self._held[name] += grant if held else Grant()
        return held

    def release(self, name: str, grant: Grant) -> None:
        self._quota(name).release(grant)
        self._held[name] -= grant
        self._owner.show_soon(name)

    def spend(self, name: str, tokens: float, money: float) -> None:
        self._quota(name).spend(tokens, money)

    def count(self, what: Any, *args: Any) -> None:
        self._owner.metrics.count(what, *args)

    async def scrape(self) -> bytes:
        return await self._owner.scrape()


def serve_with(
    workers: int,
    settings: GatewaySettings,
    listening: socket.socket,
    ready: Callable[[], None],
    reread: Reread | None = None,
) -> None:
    """Serve with so many workers on a socket until Ctrl-C or SIGTERM, and go by what `reread` gives at SIGHUP.

    `ready` is called once it goes by its signals; requests wait until a worker is there. Raises `ConfigError`, or
    `TTSError` where workers cannot begin.
    """
    if workers > settings.limits.running:
        raise ConfigError(f"{workers} workers share limits.running = {settings.limits.running}: start fewer")
    with TemporaryDirectory() as folder:  # for responses that no file of the settings keeps

        def kept(settings: GatewaySettings) -> GatewaySettings:
            return settings.model_copy(update={"responses": settings.responses or Path(folder) / "responses"})

        again = None if reread is None else lambda: kept(reread())
        asyncio.run(Nursery(workers, kept(settings), listening).run(ready, again))


class Nursery:
    """Starts worker processes, and starts them again."""

    def __init__(self, workers: int, settings: GatewaySettings, listening: socket.socket) -> None:
        self._workers, self._listening = workers, listening
        self._owner = LimitOwner(settings)
        self._processes = set[BaseProcess]()
        self._stopping = False
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tts.gateway.preloaded"])
        decided = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
        forkserver.ensure_running()  # and ignores what a terminal tells everybody: the parent decides for all
        for number, handler in decided.items():
            signal.signal(number, handler)

    async def run(self, ready: Callable[[], None], reread: Reread | None) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._stop)
        async with self._owner, reloading(reread, self._owner.reload):
            ready()
            pulse = asyncio.create_task(self._owner.pulse())
            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(self._workers):
                        group.create_task(self._keep_one(number))
            except* TTSError as errors:
                raise errors.exceptions[0] from None
            finally:
                pulse.cancel()
                for process in self._processes:
                    process.kill()

    def _stop(self) -> None:
        """Let workers finish what they have; asked a second time, do not."""
        for process in self._processes:
            (process.kill if self._stopping else process.terminate)()
        self._stopping = True

    async def _keep_one(self, number: int) -> None:
        """Have a worker, and another one whenever it ends, until the gateway stops."""
        loop, failures = asyncio.get_running_loop(), 0
        while not self._stopping:
            ours, theirs = socket.socketpair()
            settings = self._owner.settings
            args = (settings, self._owner.endpoints, self._listening, theirs, self._workers)
            process = self._context.Process(target=_work, args=args, name=f"tts-worker-{number}")
            began = loop.time()
            try:
                with theirs:
                    await asyncio.to_thread(process.start)
            except (EOFError, ConnectionError):  # what it was to be forked from has ended; the next has another
                ours.close()
            else:
                self._processes.add(process)
                if self._stopping:
                    process.terminate()
                await WorkerSeat(self._owner, settings, *await asyncio.open_unix_connection(sock=ours)).serve()
                await asyncio.to_thread(process.join)
                self._processes.discard(process)
            if self._stopping:
                return
            failures = failures + 1 if loop.time() - began < EARLY else 0
            if failures == FAILURES:
                raise TTSError(f"{FAILURES} workers in a row ended as soon as they began; the log above says why")
            log.warning("worker %s has ended (exit code %s); another follows", process.pid or number, process.exitcode)


def _work(
    settings: GatewaySettings, endpoints: list[Endpoint], listening: socket.socket, channel: socket.socket, workers: int
) -> None:
    """The process of a worker."""
    app = gateway_app(settings, WorkerLink(channel, settings, endpoints, workers))
    run_on(listening, app, **serving_options(app))
