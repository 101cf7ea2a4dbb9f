"""Requests to one endpoint: a replica with room, an attempt in its time, another one where it is worth it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar
from zlib import crc32

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
)
from tenacity.wait import wait_random_exponential

from tts.accounts import Ledger
from tts.errors import EndpointError, EndpointRefused, RequestRejected, Throttled, TimedOut, TransientError
from tts.sampler.connection import Connection
from tts.sampler.endpoint import Endpoint
from tts.sampler.pool import Outcome, Pool
from tts.types import Prompt, Usage

log = logging.getLogger("tts")
T = TypeVar("T")

ONE_REQUEST = Usage(requests=1)
VLLM_SPEAKERS = {"vllm": "vLLM", "ttscale": "tts"}
"""Servers with vLLM's extensions: as they sign in the model list, and by name."""


class Client:
    """Reaches one `Endpoint`. Use it as an async context manager, or call `aclose`; it belongs to one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.pool = Pool(endpoint.urls, endpoint.max_concurrency, endpoint.target_latency)
        self.vllm = False
        """Whether it is vLLM or speaks its extensions: it counts each choice's tokens and knows token ids."""
        self.context_length: int | None = None
        """Most tokens of a prompt and its completion together, where the server tells."""
        self._connection: Connection | None = None
        self._served = False
        self._identified: asyncio.Task[None] | None = None
        self._jitter = wait_random_exponential(multiplier=endpoint.retry_wait, max=30)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._identified is not None:
            self._identified.cancel()
            await asyncio.gather(self._identified, return_exceptions=True)
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.aclose()

    @property
    def connection(self) -> Connection:
        """The HTTP connections, opened on first use."""
        if self._connection is None:
            self._connection = Connection(self.endpoint)
        return self._connection

    async def post(
        self, path: str, body: dict[str, Any], *, role: str, ledger: Ledger | None = None, affinity: int = 0
    ) -> Any:
        """The JSON answer to one request to `path`, with the pool's limits and retries; the caller books its usage.

        `path` goes on from the base URL, or with `/../` from where its `/v1` would be.
        """
        ledger = Ledger() if ledger is None else ledger

        async def talk(url: str) -> Any:
            place = url.removesuffix("/v1") + path[3:] if path.startswith("/../") else url + path
            return await self.connection.post(place, body)

        return await self.retrying(lambda avoid: self.exchange(role, ledger, affinity, avoid, talk))

    def affinity(self, prompt: Prompt) -> int:
        """What leads requests with the same beginning to the same replica."""
        return crc32(json.dumps(prompt)[:2048].encode()) if len(self.pool.replicas) > 1 else 0

    async def check(self) -> None:
        """Raise `EndpointRefused` when the server cannot be reached or rejects the key. Costs no tokens."""
        failure: EndpointError | None = None
        for attempt in range(3):
            await asyncio.sleep(attempt * 0.5)
            try:
                await self._models()
                return
            except EndpointRefused as error:
                if error.status == 404:  # no model list; the server is there
                    return
                raise
            except EndpointError as error:
                if error.status is not None:
                    return
                failure = error
        raise EndpointRefused(str(failure)) from failure

    async def identify(self) -> None:
        """Learn what the server is, once; costs no tokens. An endpoint that does not tell is taken as it is."""
        if self._identified is None:
            self._identified = asyncio.create_task(self._identify())
        if not self._identified.done():
            await asyncio.shield(self._identified)

    async def _identify(self) -> None:
        try:
            models = (await self._models())["data"]
            self.vllm = any(model.get("owned_by") in VLLM_SPEAKERS for model in models)
            lengths = [model.get("max_model_len") for model in models if model.get("id") == self.endpoint.model]
            self.context_length = next(iter(lengths), None)
        except (EndpointError, KeyError, TypeError, AttributeError) as error:
            log.debug("no model list from %s: %s", self.endpoint.urls[0], error)

    async def _models(self) -> Any:
        try:
            async with asyncio.timeout(self.endpoint.connect_timeout):
                return await self.connection.get(self.endpoint.urls[0] + "/models")
        except TimeoutError:
            raise TransientError(f"no answer from {self.endpoint.urls[0]}; is the server running there?") from None

    async def retrying(self, attempt: Callable[[str | None], Awaitable[T]]) -> T:
        """`attempt(server to avoid)`, again until it succeeds or is not worth repeating."""
        try:
            return await attempt(None)
        except TransientError as error:  # only now is the machinery of repetition worth its cost
            last = error
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            wait=self._wait,
            stop=stop_after_attempt(self.endpoint.max_attempts)
            | stop_before_delay(self.endpoint.total_timeout - last.seconds),
            reraise=True,
        )
        async for state in attempts:
            with state:
                if state.retry_state.attempt_number == 1:
                    raise last
                try:
                    return await attempt(last.server)
                except TransientError as error:
                    last = error
                    raise
        raise AssertionError("unreachable: the last error is raised again")

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, EndpointError) else None
        return max(asked or 0.0, self._jitter(state))

    async def exchange(
        self,
        role: str,
        ledger: Ledger,
        affinity: int,
        avoid: str | None,
        talk: Callable[[str], Awaitable[T]],
        lost: Callable[[], Usage] = lambda: ONE_REQUEST,
        *,
        queued: bool = True,
    ) -> T:
        """`talk` to a replica within the attempt's time; what is `lost` when it fails is booked as wasted.

        One that is not `queued` goes out at once, or fails at once where every replica asks for a pause.
        """
        loop = asyncio.get_running_loop()
        replica = await self.pool.acquire(affinity, avoid) if queued else self.pool.take(affinity, avoid)
        begin, outcome, wait = loop.time(), Outcome.ABANDONED, None
        limit = min(self.endpoint.attempt_timeout, self.endpoint.total_timeout)
        try:
            async with asyncio.timeout(limit):
                answer = await talk(replica.url)
            outcome = Outcome.SERVED
            self._served = True
            return answer
        except EndpointRefused as error:
            if self._served:  # the key and the model are good: it is this request that is refused
                raise RequestRejected(str(error), status=error.status, body=error.body) from error
            raise
        except TimeoutError:
            outcome = Outcome.CONGESTED
            late = TimedOut(f"no answer from {replica.url} within {limit:g} s (attempt_timeout)")
            late.server, late.seconds = replica.url, loop.time() - begin
            raise late from None
        except TransientError as error:
            error.server, error.seconds = replica.url, loop.time() - begin
            if isinstance(error, Throttled):
                outcome, wait = Outcome.CONGESTED, error.retry_after
            elif error.status in (None, 502, 504):
                outcome = Outcome.FAILED
            raise
        finally:
            if outcome is not Outcome.SERVED:
                ledger.waste(role, lost() + Usage(seconds=loop.time() - begin))
            if wait is not None:  # nobody else in the queue may wait longer than this either
                wait = min(wait, self.endpoint.total_timeout)
            self.pool.release(replica, outcome, loop.time() - begin, wait)
