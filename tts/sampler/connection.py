"""Requests to one endpoint: a replica with room, limited time for each attempt, retries where they help."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, Self
from zlib import crc32

from tts.accounts import Ledger
from tts.concurrency import now
from tts.errors import EndpointError, EndpointRefused, QuotaSpent, RequestRejected, Throttled, TimedOut, TransientError
from tts.sampler.client import HttpClient, out_of_files
from tts.sampler.endpoint import Endpoint, joined
from tts.sampler.health import Health
from tts.sampler.pool import LONGEST_WAIT, AttemptOutcome, Pool
from tts.text import head_of
from tts.types import Prompt, Usage

NOTHING, ONE_REQUEST = Usage(), Usage(requests=1)


# -- replicas and attempts -----------------------------------------------------------------------------------------


class Exchange:
    """One attempt of a request at one replica, as an async context: see `Connection.exchange`."""

    __slots__ = (
        *("_affinity", "_avoid", "_clock", "_connection", "_ledger", "_limit", "_loop", "_lost", "_prompt", "_queued"),
        *("_replica", "_role", "_start", "id", "seconds", "started", "url"),
    )

    def __init__(
        self,
        connection: Connection,
        role: str,
        ledger: Ledger,
        affinity: int,
        avoid: Sequence[str],
        lost: Callable[[], Usage],
        prompt: Callable[[], Usage],
        queued: bool,
    ) -> None:
        self._connection, self._role, self._ledger = connection, role, ledger
        self._affinity, self._avoid, self._queued = affinity, avoid, queued
        self._lost, self._prompt = lost, prompt
        self.id: str = os.urandom(16).hex()
        """Names its charges."""
        self.url: str = ""
        """The replica's base URL."""
        self.started: float = 0.0
        """Unix time."""
        self.seconds: float = 0.0
        """How long it took; known at its end."""

    async def __aenter__(self) -> Self:
        connection, self._loop = self._connection, asyncio.get_running_loop()
        pool, health, endpoint = connection.pool, connection.health, connection.endpoint
        health.start()
        if self._queued and health.closed:
            raise TransientError(f"no server of {endpoint.model} works: {pool.ailments}")
        replica = (
            await pool.acquire(self._affinity, self._avoid) if self._queued else pool.take(self._affinity, self._avoid)
        )
        self._replica, self.url, self.started, self._start = replica, replica.url, now(), self._loop.time()
        self._limit = min(endpoint.attempt_timeout, endpoint.total_timeout)
        self._clock = asyncio.timeout(self._limit)
        await self._clock.__aenter__()
        replica.heard[self._clock] = self._start
        if self._queued:
            health.working[self._clock] = self._start
        return self

    def flows(self) -> None:
        """To be called when a part of the answer has come: a stream that flows is not cut off."""
        self._replica.heard[self._clock] = time = self._loop.time()
        self._clock.reschedule(min(time + self._limit, self._start + self._connection.endpoint.total_timeout))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, replica = self._connection, self._replica
        connection.health.working.pop(self._clock, None)
        del replica.heard[self._clock]
        try:
            await self._clock.__aexit__(kind, error, trace)
        except TimeoutError as late:
            error = late
        self.seconds = self._loop.time() - self._start
        if error is None:
            connection.has_served = True
            connection.pool.release(replica, AttemptOutcome.SERVED, self.seconds)
            return
        outcome, raised = self._judged(error)
        pause, usage = None, self._lost()
        if outcome is AttemptOutcome.ABANDONED and usage.requests and not usage.prompt_tokens:
            usage += self._prompt()
        self._ledger.waste(self._role, usage + Usage(seconds=self.seconds))
        failed = isinstance(raised, TransientError)
        if isinstance(raised, EndpointError):
            raised.server, raised.seconds = replica.url, self.seconds
        if failed:
            replica.failures += raised.status == 503  # overloaded, or its engine is dead
            if raised.retry_after is not None:  # whoever comes now must still get a turn within total_timeout
                pause = min(raised.retry_after, connection.endpoint.total_timeout / 2)
        connection.pool.release(replica, outcome, self.seconds, pause, str(raised) if failed else "")
        if failed:
            connection.health.examine()
        if raised is not error:
            raise raised from (None if isinstance(error, TimeoutError) else error)

    def _judged(self, error: BaseException) -> tuple[AttemptOutcome, BaseException]:
        """What an `error` says about the replica, and the error to raise instead."""
        if isinstance(error, EndpointRefused | RequestRejected):
            # once the key and the model have proved good, it is this request that is refused
            if isinstance(error, EndpointRefused) and not isinstance(error, QuotaSpent) and self._connection.has_served:
                return AttemptOutcome.REFUSED, RequestRejected(str(error), status=error.status, body=error.body)
            return AttemptOutcome.REFUSED, error
        if isinstance(error, TimeoutError):
            dead = f"and it is down: {self._replica.down}" if self._replica.down else "(attempt_timeout)"
            waited = min(self._limit, self.seconds)
            return AttemptOutcome.CONGESTED, TimedOut(f"nothing from {self.url} within {waited:.3g} s {dead}")
        if isinstance(error, TransientError):
            fewer = isinstance(error, Throttled) or out_of_files(error)
            return AttemptOutcome.CONGESTED if fewer else AttemptOutcome.FAILED, error
        return AttemptOutcome.ABANDONED, error


class Connection:
    """The replicas of one endpoint, used as if they were one server. It belongs to one event loop."""

    def __init__(self, endpoint: Endpoint, pool: Pool | None = None) -> None:
        self.endpoint = endpoint
        self.pool: Pool = pool or Pool(endpoint.urls, endpoint.most_in_flight, endpoint.target_latency)
        if endpoint.batch:  # what is not asked for at once is in the next batch
            for replica in self.pool.replicas:
                replica.window = replica.maximum
        self.health: Health = Health(self.pool, endpoint, self._examine)
        self.has_served: bool = False
        """Whether an answer has shown that the key and the model are good."""

    @cached_property
    def http(self) -> HttpClient:
        """The HTTP connections, opened on first use."""
        return HttpClient(self.endpoint)

    async def aclose(self) -> None:
        await self.health.aclose()
        if http := vars(self).pop("http", None):
            await http.aclose()

    async def _examine(self, url: str) -> str:
        """Why the replica cannot work, by its health and its list of models; empty if it can or does not tell."""
        for path in ("/../health", "/models"):
            try:
                async with asyncio.timeout(self.endpoint.connect_timeout):
                    await self.http.body(await self.http.send("GET", url, path, b""))
            except TimeoutError:
                return f"{joined(url, path)} does not answer within {self.endpoint.connect_timeout:g} s"
            except EndpointError as error:
                if (error.status is None or error.status >= 500) and not out_of_files(error):
                    return str(error)
        return ""

    def affinity(self, prefix: Prompt | bytes) -> int:
        """The number that sends requests with the same beginning to the same replica."""
        if len(self.pool.replicas) == 1:
            return 0
        return crc32((prefix if isinstance(prefix, bytes) else json.dumps(head_of(prefix, 2048)).encode())[:2048])

    async def post(
        self,
        path: str,
        body: dict[str, Any],
        *,
        role: str,
        ledger: Ledger | None = None,
        affinity: int = 0,
        prompt: Usage = NOTHING,
    ) -> tuple[Any, Exchange]:
        """The JSON answer to a POST to `path`, retried where that may help, and the exchange that brought it.

        `path` is relative to the base URL; `/../tokenize` is beside its `/v1`. Failed attempts are booked as waste in
        `ledger`, with the `prompt` of those that were cancelled or out of time; the caller books the answer's usage.
        """
        retry = Retry(self)
        while True:
            try:
                async with self.exchange(
                    role, ledger or Ledger(), affinity, retry.avoid, prompt=lambda: prompt
                ) as exchange:
                    return await self.http.json(exchange.url, path, body), exchange
            except EndpointError as error:
                if ledger is not None and isinstance(error, TimedOut):
                    ledger.waste(role, prompt)
                await retry.wait(error)

    def exchange(
        self,
        role: str,
        ledger: Ledger,
        affinity: int,
        avoid: Sequence[str] = (),
        lost: Callable[[], Usage] = lambda: ONE_REQUEST,
        *,
        prompt: Callable[[], Usage] = Usage,
        queued: bool = True,
    ) -> Exchange:
        """A replica for the length of one attempt, which must end in its time; books what is `lost` if it fails.

        One that is cancelled has cost its `prompt`, whether the server has told or not; what it has generated by then
        is unknown where the answer does not stream.

        An attempt that is not `queued` starts at once, or fails at once if every replica is set aside.
        """
        return Exchange(self, role, ledger, affinity, avoid, lost, prompt, queued)


@dataclass(slots=True)
class Retry:
    """The attempts of one request: which failure deserves another attempt, when, and where not."""

    connection: Connection
    avoid: tuple[str, ...] = ()
    """The replica at which each attempt failed."""
    failures: int = 0
    began: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    deadline: float = 0.0

    async def wait(self, error: EndpointError) -> None:
        """Sleep until the next attempt is due; raises `error` if there must be none."""
        if not isinstance(error, TransientError):
            if not self.connection.pool.others_may(error, self.avoid):
                raise error
            if error.server not in self.avoid:
                self.avoid += (error.server,) if error.server else ()
                return
        time, endpoint = asyncio.get_running_loop().time(), self.connection.endpoint
        if not self.failures:  # time in the queue counts unless others were served in it
            sent = time - error.seconds
            self.deadline = max(self.began, min(sent, self.connection.pool.served_at)) + endpoint.total_timeout
        longest = min(LONGEST_WAIT, endpoint.retry_wait * 2.0 ** min(self.failures, 30))
        pause = max(min(error.retry_after or 0.0, LONGEST_WAIT), random.uniform(0, longest))
        self.failures += 1
        self._raise_if_lost(error)
        late = time + pause >= self.deadline or self.connection.health.too_long(self.began, time + pause)
        if error.final or self.failures >= endpoint.max_attempts or late:
            raise error
        self.avoid += (error.server,) if error.server else ()
        await self.connection.health.rest(pause)
        self._raise_if_lost(error)

    def _raise_if_lost(self, error: EndpointError) -> None:
        if lost := self.connection.health.lost_since(self.began):
            raise lost from error
