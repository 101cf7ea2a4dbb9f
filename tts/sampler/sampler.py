"""Samples from one endpoint: split, spread, retried, topped up, accounted; cancelling reaches the server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from time import time
from typing import Any, TypeVar
from uuid import uuid4
from zlib import crc32

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
)
from tenacity.wait import wait_random_exponential

from tts.aio import Flow, flow
from tts.errors import (
    EndpointError,
    EndpointRefused,
    RequestRejected,
    SamplingFailed,
    Throttled,
    TransientError,
)
from tts.ledger import Ledger
from tts.sampler import wire
from tts.sampler.endpoint import Endpoint
from tts.sampler.http import Connection
from tts.sampler.pool import Outcome, Pool, Replica
from tts.types import Charge, Prompt, Sample, Usage

log = logging.getLogger("tts")
T = TypeVar("T")


@dataclass(slots=True)
class _Order:
    """What the requests for one prompt have in common."""

    prompt: Prompt
    path: str
    body: dict[str, Any]
    role: str
    ledger: Ledger
    out: Flow[Sample]
    errors: list[EndpointError]
    keep_ids: bool
    affinity: int
    on_sample: Callable[[Sample], None] | None
    answered: bool = False


class Sampler:
    """Talks to one `Endpoint`. Use it as an async context manager, or call `aclose`; it belongs to one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.pool = Pool(endpoint.base_url, endpoint.max_concurrency, endpoint.target_latency)
        self.takes_n: bool | None = None
        """Whether the server answers `n` choices to one request; None until known."""
        self.vllm = False
        """Whether it is vLLM, which can count each choice's tokens exactly and knows token ids."""
        self.notices: list[str] = []
        """What the server cannot do and what is done instead."""
        self._connection: Connection | None = None
        self._identified: asyncio.Task[None] | None = None
        self._jitter = wait_random_exponential(multiplier=endpoint.retry_wait, max=30)

    async def __aenter__(self) -> Sampler:
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

    async def sample(
        self,
        prompt: Prompt,
        n: int | Sequence[int] = 1,
        *,
        role: str = "policy",
        ledger: Ledger | None = None,
        on_sample: Callable[[Sample], None] | None = None,
        **params: Any,
    ) -> AsyncGenerator[Sample, None]:
        """`n` samples of `prompt` as they complete; `params` are added to the endpoint's own.

        `n` may be the occurrence numbers to draw: they become `Sample.index` and, where `seed` is given, are added
        to it, so that occurrence i of a seeded prompt is the same however the work is split.
        `on_sample` is called with each sample as soon as it is there, also if nobody waits for it any more.
        A sample that cannot be had is noted in `ledger.failures`. Raises `SamplingFailed` when none can, and
        `EndpointRefused` at once when no request can succeed.
        """
        await self.identify()
        indices = list(range(n)) if isinstance(n, int) else list(n)
        ledger = Ledger() if ledger is None else ledger
        path, body = wire.request(prompt, self.endpoint.model, {**self.endpoint.params, **params})
        body.pop("n", None)
        keep_ids = bool(body.get("return_token_ids"))
        affinity = crc32(json.dumps(prompt)[:2048].encode()) if len(self.pool.replicas) > 1 else 0
        errors: list[EndpointError] = []

        def begin(out: Flow[Sample]) -> None:
            order = _Order(prompt, path, body, role, ledger, out, errors, keep_ids, affinity, on_sample)
            size = 1 if self.takes_n is False else self.endpoint.max_n
            for i in range(0, len(indices), size):
                out.start(self._start(order, indices[i : i + size]))

        any_had = False
        async with aclosing(flow(begin)) as samples:
            async for sample in samples:
                any_had = True
                yield sample
        ledger.failures.extend(f"{role}: {error}" for error in errors)
        if errors and not any_had:
            raise SamplingFailed(f"no sample could be had: {errors[-1]}", status=errors[-1].status) from errors[-1]

    async def post(
        self, path: str, body: dict[str, Any], *, role: str, ledger: Ledger | None = None, affinity: int = 0
    ) -> Any:
        """The JSON answer to one request to `path`, with the pool's limits and retries; the caller books its usage."""
        ledger = Ledger() if ledger is None else ledger

        async def attempt(number: int) -> Any:
            return await self._exchange(
                role, ledger, affinity + number, lambda url: self.connection.post(url + path, body)
            )

        return await self._retrying(attempt)

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
            self.vllm = any(model.get("owned_by") == "vllm" for model in (await self._models())["data"])
        except (EndpointError, KeyError, TypeError, AttributeError) as error:
            log.debug("no model list from %s: %s", self.endpoint.base_url[0], error)

    async def _models(self) -> Any:
        try:
            async with asyncio.timeout(self.endpoint.connect_timeout):
                return await self.connection.get(self.endpoint.base_url[0] + "/models")
        except TimeoutError:
            raise TransientError(f"no answer from {self.endpoint.base_url[0]}; is the server running there?") from None

    # -- one chunk: as few requests as the server allows ---------------------------------------------------------

    async def _fill(self, order: _Order, missing: list[int]) -> bool:
        """Have the occurrences `missing` answered; those that cannot be go to `order.errors`. Whether all were had."""
        whole = True
        while missing:
            if self.takes_n is False and len(missing) > 1:
                for index in missing:
                    order.out.start(self._start(order, [index]))
                return whole
            ask = self._stream if self.endpoint.stream else self._ask
            try:
                await self._retrying(partial(ask, order, missing))
            except EndpointRefused:
                raise
            except EndpointError as error:
                if len(missing) > 1 and wire.refuses_n(error):
                    self._learn_n(False, f"it refuses n ({wire.server_message(error.body)})")
                    continue
                # Perhaps only this very request was at fault: one alone tells whether the others are worth asking.
                alone, missing = missing[:1], missing[1:]
                hopeless = not missing or not isinstance(error, RequestRejected)
                if hopeless or not (await self._fill(order, alone) or order.answered):
                    order.errors.extend([error] * (len(missing) + hopeless))
                    return False
                whole = False
        return whole

    async def _start(self, order: _Order, indices: list[int]) -> None:
        await self._fill(order, indices)

    async def _retrying(self, attempt: Callable[[int], Awaitable[T]]) -> T:
        """`attempt(number)`, again until it succeeds or is not worth repeating."""
        try:
            return await attempt(0)
        except TransientError as error:  # only now is the machinery of repetition worth its cost
            first = error
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            wait=self._wait,
            stop=stop_after_attempt(self.endpoint.max_attempts) | stop_before_delay(self.endpoint.total_timeout),
            reraise=True,
        )
        async for state in attempts:
            with state:
                number = state.retry_state.attempt_number - 1
                if number == 0:
                    raise first
                return await attempt(number)
        raise AssertionError("unreachable: the last error is raised again")

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, EndpointError) else None
        return self._jitter(state) if asked is None else asked

    def _learn_n(self, takes_n: bool, why: str = "") -> None:
        if not takes_n and self.takes_n is None:
            self.notices.append(f"{self.endpoint.model}: {why}; samples are asked for one by one")
            log.warning(self.notices[-1])
        self.takes_n = takes_n

    # -- one attempt ---------------------------------------------------------------------------------------------

    async def _ask(self, order: _Order, missing: list[int], number: int) -> None:
        run = _leading_run(missing)
        body = self._body(order, run)
        begin = time()

        def fetch(replica: int) -> Awaitable[Any]:
            return self._exchange(
                order.role, order.ledger, replica, lambda url: self.connection.post(url + order.path, body)
            )

        place = order.affinity + number
        reply = wire.parse(await _hedged((partial(fetch, place), partial(fetch, place + 1)), self.endpoint.hedge_after))
        if not reply.choices:
            order.ledger.waste(order.role, Usage(requests=1) + (reply.usage or Usage()))
            raise TransientError("the answer has no choices")
        if len(run) > 1 and self.takes_n is None:
            self._learn_n(len(reply.choices) > 1, "it answers a single choice whatever n is")
        self._deliver(order, missing, run, reply, begin)

    async def _stream(self, order: _Order, missing: list[int], number: int) -> None:
        if not missing:  # the stream before broke after its last choice
            return
        run = _leading_run(missing)
        options = {"include_usage": True, **({"continuous_usage_stats": True} if self.vllm else {})}
        body = {**self._body(order, run), "stream": True, "stream_options": options}
        begin, request = time(), uuid4().hex
        assembly, given = wire.Assembly(), Usage()

        def hand_over(choices: list[wire.Choice], usage: Usage | None) -> None:
            nonlocal given
            for choice in choices:
                given += Usage(completion_tokens=choice.tokens or 0)
                del assembly.choices[choice.index]
            reply = wire.Reply(choices, usage, assembly.model)
            self._deliver(order, missing, run, reply, begin, request)

        async def read(url: str) -> None:
            async with self.connection.stream(url + order.path, body) as events:
                async for event in events:
                    finished = assembly.add(event)
                    if finished and assembly.usage is not None and all(c.tokens is not None for c in finished):
                        tokens = sum(choice.tokens or 0 for choice in finished)
                        hand_over(
                            finished,
                            Usage(prompt_tokens=assembly.usage.prompt_tokens, completion_tokens=tokens),
                        )

        await self._exchange(order.role, order.ledger, order.affinity + number, read, assembly.known)
        if len(run) > 1 and self.takes_n is None:
            self._learn_n(assembly.seen > 1, "it answers a single choice whatever n is")
        if not assembly.seen:
            order.ledger.waste(order.role, Usage(requests=1) + (assembly.usage or Usage()))
            raise TransientError("the stream has no choices")
        if left := list(assembly.choices.values()):
            usage = assembly.usage
            if usage is not None and given.completion_tokens:
                own = usage.completion_tokens - given.completion_tokens
                usage = Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=max(0, own))
            hand_over(left, usage)

    def _body(self, order: _Order, run: Sequence[int]) -> dict[str, Any]:
        body = dict(order.body)
        if body.get("seed") is not None:
            body["seed"] = int(body["seed"]) + run[0]
        if len(run) > 1:
            body["n"] = len(run)
            if self.vllm:
                body["return_token_ids"] = True
        return body

    async def _exchange(
        self,
        role: str,
        ledger: Ledger,
        affinity: int,
        talk: Callable[[str], Awaitable[T]],
        known: Callable[[], Usage] = Usage,
    ) -> T:
        """`talk` to a replica within the attempt's time; what it is known to have cost is wasted when it fails."""
        loop = asyncio.get_running_loop()
        replica: Replica = await self.pool.acquire(affinity)
        begin, outcome, wait = loop.time(), Outcome.ABANDONED, None
        try:
            async with asyncio.timeout(self.endpoint.attempt_timeout):
                answer = await talk(replica.url)
            outcome = Outcome.SERVED
            return answer
        except TimeoutError:
            outcome = Outcome.CONGESTED
            raise TransientError(f"no answer within {self.endpoint.attempt_timeout} s (attempt_timeout)") from None
        except Throttled as error:
            outcome, wait = Outcome.CONGESTED, error.retry_after
            raise
        except TransientError as error:
            outcome = Outcome.FAILED if error.status is None else Outcome.ABANDONED
            raise
        finally:
            if outcome is not Outcome.SERVED:
                ledger.waste(role, known() + Usage(requests=1, seconds=loop.time() - begin))
            self.pool.release(replica, outcome, loop.time() - begin, wait)

    def _deliver(
        self,
        order: _Order,
        missing: list[int],
        run: Sequence[int],
        reply: wire.Reply,
        begin: float,
        request: str | None = None,
    ) -> None:
        """Turn choices into samples: the prompt is one charge that they share, each completion another."""
        request = request or uuid4().hex
        seconds = time() - begin
        estimated = 0 if reply.usage else wire.estimate_prompt(order.prompt)
        shared = reply.usage or Usage(prompt_tokens=estimated)
        prompt = Charge(
            request,
            order.role,
            Usage(1, shared.prompt_tokens, shared.cached_tokens, estimated_tokens=estimated),
            begin,
        )
        order.ledger.pay(prompt)
        tokens = wire.share_tokens(reply.choices, reply.usage)
        for choice, (count, guessed) in zip(reply.choices, tokens, strict=True):
            if choice.index >= len(run) or run[choice.index] not in missing:
                continue  # more than was asked for
            index = run[choice.index]
            reasoning = shared.reasoning_tokens / len(reply.choices)
            own = Usage(0, 0, 0, count, reasoning, seconds=seconds, estimated_tokens=count if guessed else 0)
            charge = Charge(f"{request}.{choice.index}", order.role, own, begin)
            order.ledger.pay(charge)
            missing.remove(index)
            sample = _sample(choice, (prompt, charge), index, order, reply.model or self.endpoint.model)
            if order.on_sample is not None:
                order.on_sample(sample)
            order.out.emit(sample)
            order.answered = True


def _sample(choice: wire.Choice, charges: tuple[Charge, ...], index: int, order: _Order, model: str) -> Sample:
    return Sample(
        choice.text,
        choice.finish_reason,
        charges,
        index,
        order.role,
        model,
        choice.reasoning,
        tuple(choice.tool_calls),
        tuple(choice.token_ids) if order.keep_ids and choice.token_ids is not None else None,
        tuple(choice.logprobs) if choice.logprobs is not None else None,
    )


def _leading_run(indices: Sequence[int]) -> list[int]:
    """The consecutive numbers at the begin of `indices`."""
    length = next((i for i in range(1, len(indices)) if indices[i] != indices[0] + i), len(indices))
    return list(indices[:length])


async def _hedged(attempts: Sequence[Callable[[], Awaitable[Any]]], after: float | None) -> Any:
    """The first of two attempts to succeed, the second one begun `after` seconds; None: only the first."""
    if after is None:
        return await attempts[0]()
    running = {asyncio.ensure_future(attempts[0]())}
    everything = set(running)
    try:
        done, running = await asyncio.wait(running, timeout=after)
        if not done:
            second = asyncio.ensure_future(attempts[1]())
            everything.add(second)
            running = running | {second}
        while True:
            for task in sorted(done, key=lambda task: task.exception() is not None):
                if task.exception() is None or not running:
                    return task.result()
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in everything:
            task.cancel()
        await asyncio.gather(*everything, return_exceptions=True)
