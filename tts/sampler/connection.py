"""Requests to one endpoint: a replica with room, limited time for each attempt, retries where they help."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from zlib import crc32

from tts.accounts import Ledger
from tts.concurrency import now
from tts.errors import EndpointError, EndpointRefused, QuotaSpent, RequestRejected, Throttled, TimedOut, TransientError
from tts.sampler.client import HttpClient
from tts.sampler.endpoint import Endpoint, joined
from tts.sampler.health import Health
from tts.sampler.limits import most_in_flight, out_of_files
from tts.sampler.pool import LONGEST_WAIT, AttemptOutcome, Pool
from tts.text import head_of
from tts.types import Prompt, Usage

NOTHING, ONE_REQUEST = Usage(), Usage(requests=1)


# -- replicas and attempts -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Exchange:
    """One attempt of a request at one replica."""

    url: str
    """The replica's base URL."""
    started: float
    """Unix time."""
    seconds: float = 0.0
    """How long it took; known at its end."""
    id: str = field(default_factory=lambda: os.urandom(16).hex())
    """Names its charges."""
    flows: Callable[[], None] = lambda: None
    """To be called when a part of the answer has come: a stream that flows is not cut off."""


class Connection:
    """The replicas of one endpoint, used as if they were one server. It belongs to one event loop."""

    def __init__(self, endpoint: Endpoint, pool: Pool | None = None) -> None:
        self.endpoint = endpoint
        self.pool: Pool = pool or Pool(endpoint.urls, most_in_flight(endpoint), endpoint.target_latency)
        if endpoint.batch:  # what is not asked for at once is in the next batch
            for replica in self.pool.replicas:
                replica.window = replica.maximum
        self.health: Health = Health(self.pool, endpoint, self._examine)
        self._has_served = False

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

    @asynccontextmanager
    async def exchange(
        self,
        role: str,
        ledger: Ledger,
        affinity: int,
        avoid: Sequence[str] = (),
        lost: Callable[[], Usage] = lambda: ONE_REQUEST,
        *,
        prompt: Callable[[], Usage] = Usage,
        queued: bool = True,
    ) -> AsyncIterator[Exchange]:
        """A replica for the length of one attempt, which must end in its time; books what is `lost` if it fails.

        One that is cancelled has cost its `prompt`, whether the server has told or not; what it has generated by then
        is unknown where the answer does not stream.

        An attempt that is not `queued` starts at once, or fails at once if every replica is set aside.
        """
        loop = asyncio.get_running_loop()
        self.health.start()
        if queued and self.health.closed:
            raise TransientError(f"no server of {self.endpoint.model} works: {self.pool.ailments}")
        replica = await self.pool.acquire(affinity, avoid) if queued else self.pool.take(affinity, avoid)
        exchange = Exchange(replica.url, now())
        start, outcome, pause, failure = loop.time(), AttemptOutcome.ABANDONED, None, ""
        cancelled = True
        limit = min(self.endpoint.attempt_timeout, self.endpoint.total_timeout)
        last = start + self.endpoint.total_timeout
        try:
            async with asyncio.timeout(limit) as clock:
                replica.heard[clock] = start

                def flows() -> None:
                    replica.heard[clock] = loop.time()
                    clock.reschedule(min(loop.time() + limit, last))

                exchange.flows = flows
                if queued:
                    self.health.working[clock] = start
                try:
                    yield exchange
                finally:
                    self.health.working.pop(clock, None)
                    del replica.heard[clock]
            outcome = AttemptOutcome.SERVED
            self._has_served = True
        except (EndpointRefused, RequestRejected) as error:
            outcome, cancelled = AttemptOutcome.REFUSED, False
            error.server, error.seconds = replica.url, loop.time() - start
            # once the key and the model have proved good, it is this request that is refused
            if isinstance(error, EndpointRefused) and not isinstance(error, QuotaSpent) and self._has_served:
                rejected = RequestRejected(str(error), status=error.status, body=error.body)
                rejected.server, rejected.seconds = error.server, error.seconds
                raise rejected from error
            raise
        except TimeoutError:
            outcome, cancelled = AttemptOutcome.CONGESTED, False
            dead = f"and it is down: {replica.down}" if replica.down else "(attempt_timeout)"
            late = TimedOut(f"nothing from {replica.url} within {min(limit, loop.time() - start):.3g} s {dead}")
            late.server, late.seconds, failure = replica.url, loop.time() - start, str(late)
            raise late from None
        except TransientError as error:
            cancelled = False
            error.server, error.seconds, failure = replica.url, loop.time() - start, str(error)
            fewer = isinstance(error, Throttled) or out_of_files(error)
            outcome = AttemptOutcome.CONGESTED if fewer else AttemptOutcome.FAILED
            pause = error.retry_after
            replica.failures += error.status == 503  # overloaded, or its engine is dead
            raise
        finally:
            exchange.seconds = loop.time() - start
            if outcome is not AttemptOutcome.SERVED:
                usage = lost()
                if cancelled and usage.requests and not usage.prompt_tokens:
                    usage += prompt()
                ledger.waste(role, usage + Usage(seconds=exchange.seconds))
            if pause is not None:  # whoever comes now must still get a turn within total_timeout
                pause = min(pause, self.endpoint.total_timeout / 2)
            self.pool.release(replica, outcome, exchange.seconds, pause, failure)
            if failure:
                self.health.examine()


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
