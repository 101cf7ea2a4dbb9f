"""Requests to one endpoint: a replica with room, limited time for each attempt, retries where they help."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar
from uuid import uuid4
from zlib import crc32

from tts.accounts import Ledger
from tts.concurrency import now
from tts.errors import EndpointRefused, QuotaSpent, RequestRejected, Throttled, TimedOut, TransientError
from tts.sampler.client import HttpClient
from tts.sampler.endpoint import Endpoint, joined
from tts.sampler.pool import AttemptOutcome, Pool
from tts.types import Prompt, Usage

T = TypeVar("T")

ONE_REQUEST = Usage(requests=1)
LONGEST_WAIT = 30.0
"""Seconds between two attempts, at most, unless the server asks for more."""


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
    id: str = field(default_factory=lambda: uuid4().hex)
    """Names its charges."""


class Connection:
    """The replicas of one endpoint, used as if they were one server. It belongs to one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.pool = Pool(endpoint.urls, endpoint.max_concurrency, endpoint.target_latency)
        self._has_served = False

    @cached_property
    def http(self) -> HttpClient:
        """The HTTP connections, opened on first use."""
        return HttpClient(self.endpoint)

    async def aclose(self) -> None:
        if http := vars(self).pop("http", None):
            await http.aclose()

    def affinity(self, prefix: Prompt | bytes) -> int:
        """The number that sends requests with the same beginning to the same replica."""
        if len(self.pool.replicas) == 1:
            return 0
        return crc32((prefix if isinstance(prefix, bytes) else json.dumps(prefix).encode())[:2048])

    async def post(
        self, path: str, body: dict[str, Any], *, role: str, ledger: Ledger | None = None, affinity: int = 0
    ) -> tuple[Any, Exchange]:
        """The JSON answer to a POST to `path`, retried where that may help, and the exchange that brought it.

        `path` is relative to the base URL; `/../tokenize` is beside its `/v1`. Failed attempts are booked as waste in
        `ledger`; the caller books the answer's usage.
        """
        retry = Retry(self.endpoint)
        while True:
            try:
                async with self.exchange(role, ledger or Ledger(), affinity, retry.avoid) as exchange:
                    return await self.http.json(joined(exchange.url, path), body), exchange
            except TransientError as error:
                await retry.wait(error)

    @asynccontextmanager
    async def exchange(
        self,
        role: str,
        ledger: Ledger,
        affinity: int,
        avoid: str | None = None,
        lost: Callable[[], Usage] = lambda: ONE_REQUEST,
        *,
        queued: bool = True,
    ) -> AsyncIterator[Exchange]:
        """A replica for the length of one attempt, which must end in its time; books what is `lost` if it fails.

        An attempt that is not `queued` starts at once, or fails at once if every replica has asked for a pause.
        """
        loop = asyncio.get_running_loop()
        replica = await self.pool.acquire(affinity, avoid) if queued else self.pool.take(affinity, avoid)
        exchange = Exchange(replica.url, now())
        start, outcome, pause = loop.time(), AttemptOutcome.ABANDONED, None
        limit = min(self.endpoint.attempt_timeout, self.endpoint.total_timeout)
        try:
            async with asyncio.timeout(limit):
                yield exchange
            outcome = AttemptOutcome.SERVED
            self._has_served = True
        except EndpointRefused as error:
            # once the key and the model have proved good, it is this request that is refused
            if self._has_served and not isinstance(error, QuotaSpent):
                raise RequestRejected(str(error), status=error.status, body=error.body) from error
            raise
        except TimeoutError:
            outcome = AttemptOutcome.CONGESTED
            late = TimedOut(f"no answer from {replica.url} within {limit:g} s (attempt_timeout)")
            late.server, late.seconds = replica.url, loop.time() - start
            raise late from None
        except TransientError as error:
            error.server, error.seconds = replica.url, loop.time() - start
            if isinstance(error, Throttled):
                outcome, pause = AttemptOutcome.CONGESTED, error.retry_after
            elif error.status in (None, 502, 504):
                outcome = AttemptOutcome.FAILED
            raise
        finally:
            exchange.seconds = loop.time() - start
            if outcome is not AttemptOutcome.SERVED:
                ledger.waste(role, lost() + Usage(seconds=exchange.seconds))
            if pause is not None:  # nobody in the queue may wait longer than total_timeout either
                pause = min(pause, self.endpoint.total_timeout)
            self.pool.release(replica, outcome, exchange.seconds, pause)


@dataclass(slots=True)
class Retry:
    """The attempts of one request: which failure deserves another attempt, when, and where not."""

    endpoint: Endpoint
    avoid: str | None = None
    """The replica at which the last attempt failed."""
    failures: int = 0
    deadline: float = 0.0

    async def wait(self, error: TransientError) -> None:
        """Sleep until the next attempt is due; raises `error` if there must be none."""
        time = asyncio.get_running_loop().time()
        if not self.failures:
            self.deadline = time - error.seconds + self.endpoint.total_timeout
        longest = min(LONGEST_WAIT, self.endpoint.retry_wait * 2.0 ** min(self.failures, 30))
        pause = max(error.retry_after or 0.0, random.uniform(0, longest))
        self.failures += 1
        if error.final or self.failures >= self.endpoint.max_attempts or time + pause >= self.deadline:
            raise error
        self.avoid = error.server
        await asyncio.sleep(pause)


async def hedged(
    fetch: Callable[[str | None, asyncio.Future[str] | None], Coroutine[Any, Any, T]],
    avoid: str | None,
    after: float,
    lose: Callable[[T], None],
) -> T:
    """The first success of two attempts; the second starts elsewhere, `after` seconds after the first was sent.

    `fetch(server to avoid, future to set to the server when it is sent)` is one attempt. Time in the queue does not
    count: sending twice what waits for room would only make the queue longer. The slower attempt is cancelled; if it
    was answered all the same, `lose` gets its answer. (Dean and Barroso 2013, "The Tail at Scale".)
    """
    sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    first = asyncio.create_task(fetch(avoid, sent))
    attempts, winner = [first], None
    try:
        await asyncio.wait([first, sent], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([first], timeout=after)
        if not first.done():
            attempts.append(asyncio.create_task(fetch(sent.result(), None)))
        running = set(attempts)
        while running and winner is None:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            winner = next((task for task in done if task.exception() is None), None)
        return (winner or first).result()
    finally:
        for task in attempts:
            task.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)
        for task in attempts:
            if task is not winner and not task.cancelled() and task.exception() is None:
                lose(task.result())
