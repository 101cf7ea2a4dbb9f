"""What a worker of several has of the limits that its parent owns (`workers.py`): it asks over a socket of the two."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable
from typing import Any, Self

from tts.accounts import Grant, Quota
from tts.errors import log
from tts.gateway.admission import Caller, Gate
from tts.gateway.exchange import APIError
from tts.gateway.machines import unavailable
from tts.gateway.settings import GatewaySettings, Key
from tts.gateway.telemetry import Metrics
from tts.sampler import Endpoint, Sampler
from tts.sampler.connection import Connection
from tts.sampler.shares import SharedPool, ShareGrant

GATHER = 0.002
"""Seconds in which the ends of attempts are gathered for one report."""


class Line:
    """One end of a socket over which two processes call each other's methods."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: Any) -> None:
        """`service` has the methods that the other end may call."""
        self._reader, self._writer, self._service = reader, writer, service
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._number, self._closed = 0, False

    def tell(self, method: str, *args: Any) -> None:
        """Have the other end call `method`; nothing comes back."""
        self._send(0, method, args)

    def ask(self, method: str, *args: Any) -> asyncio.Future[Any]:
        """What `method` returns or raises at the other end, or `ConnectionError` if that has gone."""
        self._number += 1
        answer = self._asked[self._number] = asyncio.get_running_loop().create_future()
        self._send(self._number, method, args)
        return answer

    async def serve(self) -> None:
        """Answer the other end until it has gone."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    size = int.from_bytes(await self._reader.readexactly(8))
                    number, method, args = pickle.loads(await self._reader.readexactly(size))
                    if method is None:
                        self._take(number, *args)
                    else:
                        self._call(group, number, method, args)
        except* (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._closed = True
            self._writer.close()
            for number in list(self._asked):
                self._take(number, None, ConnectionError("the gateway's parent process has ended"))

    def _call(self, group: asyncio.TaskGroup, number: int, method: str, args: tuple[Any, ...]) -> None:
        try:
            result = getattr(self._service, method)(*args)
        except Exception as error:
            return self._answer(number, None, error)
        if isawaitable(result):
            group.create_task(self._wait(number, result))
        else:
            self._answer(number, result, None)

    async def _wait(self, number: int, result: Any) -> None:
        try:
            self._answer(number, await result, None)
        except Exception as error:
            self._answer(number, None, error)

    def _answer(self, number: int, result: Any, error: Exception | None) -> None:
        if number:
            self._send(number, None, (result, error))
        elif error is not None:
            raise error

    def _take(self, number: int, result: Any, error: Exception | None) -> None:
        answer = self._asked.pop(number)
        if answer.cancelled():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)
            answer.exception()  # whoever was cancelled meanwhile does not ask for it

    def _send(self, *message: Any) -> None:
        if not self._closed:
            data = pickle.dumps(message, 5)
            self._writer.write(len(data).to_bytes(8) + data)
        elif isinstance(message[1], str) and message[0]:
            self._take(message[0], None, ConnectionError("the gateway's parent process has ended"))


class WorkerLink:
    """The limits and metrics that all workers share. An async context manager."""

    def __init__(
        self, channel: socket.socket, settings: GatewaySettings, endpoints: list[Endpoint], workers: int
    ) -> None:
        """`channel` leads to the parent, which knows `endpoints` by their place; `workers` are how many there are."""
        self._channel, self._workers, self._machines = channel, workers, settings.redis is not None
        self._endpoints, self._pools = endpoints, dict[int, SharedPool]()
        self._timer: asyncio.TimerHandle | None = None
        self._known: dict[tuple[str, bool], Caller] = {}
        self._take(settings)
        self.gate: Gate = Gate(*self._room(settings))
        self.metrics: SharedMetrics = SharedMetrics(self)

    def _room(self, settings: GatewaySettings) -> tuple[int, int]:
        return max(1, settings.limits.running // self._workers), settings.limits.queue // self._workers

    def _take(self, settings: GatewaySettings) -> None:
        named = {(name, limited(key)): key for name, key in settings.keys.items()}
        for (name, shared), key in named.items():
            caller = self._known.setdefault((name, shared), SharedCaller(name, self) if shared else Caller(name))
            caller.take(key)
        self.callers: list[Caller] = [self._known[one] for one in named]

    async def __aenter__(self) -> Self:
        self._line = Line(*await asyncio.open_unix_connection(sock=self._channel), self)
        self._serving = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)

    async def _serve(self) -> None:
        try:
            await self._line.serve()
        except Exception:
            log.exception("a worker has lost its parent")
        if self._machines:  # others are soon given what its requests use
            self.gate.close(unavailable())
        os.kill(os.getpid(), signal.SIGTERM)  # without the parent no limit holds

    def share(self, sampler: Sampler) -> None:
        """Have `sampler` send no more than this worker's share."""
        endpoint = sampler.endpoint
        sampler.connection = Connection(endpoint, self._pool(self._endpoints.index(endpoint)))
        sampler.scoring = asyncio.Semaphore(max(1, endpoint.max_scoring // self._workers))

    def _pool(self, place: int) -> SharedPool:
        if place not in self._pools:
            self._pools[place] = SharedPool(self._endpoints[place], self._report_soon)
        return self._pools[place]

    def join(self, reload: Callable[[GatewaySettings], Awaitable[None]]) -> None:
        """Have the parent count this worker in, and call `reload` with new settings."""
        self._reload = reload
        self.tell("join")

    async def reload(self, settings: GatewaySettings) -> None:
        """Go by the keys and limits of `settings`."""
        self._take(settings)
        self.gate.resize(*self._room(settings))

    def tell(self, method: str, *args: Any) -> None:
        self._line.tell(method, *args)

    def ask(self, method: str, *args: Any) -> asyncio.Future[Any]:
        return self._line.ask(method, *args)

    async def take(self, give_back: Callable[[], None], method: str, *args: Any) -> Any:
        """What `method` returns; if the one who asks is cancelled, what the parent then gives is given back."""
        asked = self.ask(method, *args)
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(lambda done: done.exception() or done.result() is False or give_back())
            raise

    def _report_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER, self._report)

    def _report(self) -> None:
        self._timer = None
        for place, pool in self._pools.items():
            if report := pool.report():
                self.tell("report", place, report)

    # -- what the parent calls --------------------------------------------------------------------------------------

    def grant(self, place: int, grant: ShareGrant) -> None:
        """Go by `grant` at an endpoint."""
        self._pool(place).take_grant(grant)

    def renew(self, settings: GatewaySettings, endpoints: list[Endpoint]) -> Awaitable[None]:
        """Go by `settings`; `endpoints` are those so far, and new ones."""
        self._endpoints = endpoints
        return self._reload(settings)

    def show(self, name: str, spent: tuple[float, float], reserved: Grant, freed: bool) -> None:
        """See what the key called `name` has spent and reserved; room that is `freed` may be waited for.

        It is seen as it comes: the one who looked goes on a moment later, and must not take for news what was overtaken
        meanwhile.
        """
        if (caller := self._known.get((name, True))) is not None and caller.quota is not None:
            caller.quota.spent, caller.quota.reserved = spent, reserved
            if freed:
                caller.quota.changed.set()

    def close(self, error: APIError | None) -> None:
        """End all requests with `error`, and refuse them until it is None."""
        self.gate.close(error)

    def load(self) -> tuple[int, int]:
        """Requests in progress, and requests that wait."""
        return self.gate.running, self.gate.queued


def limited(key: Key) -> bool:
    """Whether anything but its models is limited for a key."""
    caps = (key.tokens_per_day, key.money_per_day, key.requests_per_minute, key.running)
    return any(cap is not None for cap in caps)


class SharedCaller(Caller):
    """The holder of a key whose limits the parent keeps."""

    def __init__(self, name: str, link: WorkerLink) -> None:
        super().__init__(name)
        self._link = link

    def _new_quota(self, tokens: float | None, money: float | None) -> Quota:
        return SharedQuota(self.name, tokens, money, self._link)

    async def enter(self) -> None:
        await self._link.take(self.leave, "enter", self.name)

    def leave(self) -> None:
        self._link.tell("leave", self.name)


class SharedQuota(Quota):
    """What is known here of a quota that the parent keeps."""

    def __init__(self, name: str, tokens: float | None, money: float | None, link: WorkerLink) -> None:
        super().__init__(tokens, money)
        self._name, self._link = name, link

    async def look(self) -> None:
        await self._link.ask("look", self._name)

    async def hold(self, grant: Grant) -> bool:
        return await self._link.take(partial(self.release, grant), "hold", self._name, grant)

    def release(self, grant: Grant) -> None:
        self._link.tell("release", self._name, grant)

    def spend(self, tokens: float, money: float) -> None:
        self._link.tell("spend", self._name, tokens, money)


class SharedMetrics(Metrics):
    """Counts at the parent."""

    def __init__(self, link: WorkerLink) -> None:
        self._link = link

    def count(self, what: str, *args: Any) -> None:
        self._link.tell("count", what, *args)

    async def text(self) -> bytes:
        return await self._link.ask("scrape")
