"""Samples from one endpoint: split, spread, retried, topped up, accounted; cancelling reaches the server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
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

ONE_REQUEST = Usage(requests=1)


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

    def run(self, missing: Sequence[int]) -> list[int]:
        """Those of the occurrences `missing` that one request can ask for: with a seed, consecutive ones."""
        return list(missing) if self.body.get("seed") is None else _leading_run(missing)


class Sampler:
    """Talks to one `Endpoint`. Use it as an async context manager, or call `aclose`; it belongs to one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.pool = Pool(endpoint.base_url, endpoint.max_concurrency, endpoint.target_latency)
        self.takes_n: bool | None = None
        """Whether the server answers `n` choices to one request; None until known."""
        self.vllm = False
        """Whether it is vLLM, which can count each choice's tokens exactly and knows token ids."""
        self.context_length: int | None = None
        """Most tokens of a prompt and its completion together, where the server tells."""
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
                out.start(self._fill(order, indices[i : i + size]))

        any_had = False
        try:
            async with aclosing(flow(begin)) as samples:
                async for sample in samples:
                    any_had = True
                    yield sample
        finally:
            ledger.failures.extend(f"{role}: {error}" for error in errors)
        if errors and not any_had:
            raise SamplingFailed(f"no sample could be had: {errors[-1]}", status=errors[-1].status) from errors[-1]

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

        return await self._retrying(lambda avoid: self._exchange(role, ledger, affinity, avoid, talk))

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
            self.vllm = any(model.get("owned_by") == "vllm" for model in models)
            lengths = [model.get("max_model_len") for model in models if model.get("id") == self.endpoint.model]
            self.context_length = next(iter(lengths), None)
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
                    order.out.start(self._fill(order, [index]))
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

    async def _retrying(self, attempt: Callable[[str | None], Awaitable[T]]) -> T:
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

    def _learn_n(self, takes_n: bool, why: str = "") -> None:
        if not takes_n and self.takes_n is None:
            self.notices.append(f"{self.endpoint.model}: {why}; samples are asked for one by one")
            log.warning(self.notices[-1])
        self.takes_n = takes_n

    # -- one attempt ---------------------------------------------------------------------------------------------

    async def _ask(self, order: _Order, missing: list[int], avoid: str | None) -> None:
        run = order.run(missing)
        body = self._body(order, run)

        async def fetch(avoid: str | None, sent: asyncio.Future[str] | None = None) -> tuple[wire.Reply, float]:
            begin = 0.0

            async def talk(url: str) -> wire.Reply:
                nonlocal begin
                begin = time()
                if sent is not None:
                    sent.set_result(url)
                return wire.parse(await self.connection.post(url + order.path, body))

            return await self._exchange(order.role, order.ledger, order.affinity, avoid, talk), begin

        def lose(answer: tuple[wire.Reply, float]) -> None:
            order.ledger.waste(order.role, ONE_REQUEST + (answer[0].usage or Usage()))

        after = self.endpoint.hedge_after
        answer = await (fetch(avoid) if after is None else _hedged(fetch, avoid, after, lose))
        reply, begin = answer
        if not reply.choices:
            lose(answer)
            raise TransientError("the answer has no choices")
        if len(run) > 1 and self.takes_n is None:
            self._learn_n(len(reply.choices) > 1, "it answers a single choice whatever n is")
        if not self._deliver(order, missing, run, reply, begin):
            raise TransientError("the answer has none of the choices that were asked for")

    async def _stream(self, order: _Order, missing: list[int], avoid: str | None) -> None:
        if not missing:  # the stream before broke after its last choice
            return
        run = order.run(missing)
        options = {"include_usage": True, **({"continuous_usage_stats": True} if self.vllm else {})}
        body = {**self._body(order, run), "stream": True, "stream_options": options}
        begin, request = 0.0, uuid4().hex
        assembly, given = wire.Assembly(), 0.0
        paid = delivered = False

        def hand_over(choices: list[wire.Choice], usage: Usage | None) -> None:
            nonlocal given, paid, delivered
            for choice in choices:
                given += choice.tokens or 0
                del assembly.choices[choice.index]
            reply = wire.Reply(choices, usage, assembly.model)
            delivered |= self._deliver(order, missing, run, reply, begin, request)
            paid = True

        def lost() -> Usage:
            known = assembly.known()  # the request itself is paid for as soon as one of its choices was handed over
            return Usage(completion_tokens=known.completion_tokens) if paid else ONE_REQUEST + known

        async def read(url: str) -> None:
            nonlocal begin
            begin = time()
            async with self.connection.stream(url + order.path, body) as events:
                async for event in events:
                    finished = assembly.add(event)
                    if finished and assembly.usage is not None and all(c.tokens is not None for c in finished):
                        tokens = sum(choice.tokens or 0 for choice in finished)
                        hand_over(finished, replace(assembly.usage, completion_tokens=tokens))

        await self._exchange(order.role, order.ledger, order.affinity, avoid, read, lost)
        if len(run) > 1 and self.takes_n is None:
            self._learn_n(assembly.seen > 1, "it answers a single choice whatever n is")
        if not assembly.seen:
            order.ledger.waste(order.role, ONE_REQUEST + (assembly.usage or Usage()))
            raise TransientError("the stream has no choices")
        if left := list(assembly.choices.values()):
            usage = assembly.usage
            if usage is not None and given:
                usage = replace(usage, completion_tokens=max(0, usage.completion_tokens - given))
            hand_over(left, usage)
        if not delivered:
            raise TransientError("the stream has none of the choices that were asked for")

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
        avoid: str | None,
        talk: Callable[[str], Awaitable[T]],
        lost: Callable[[], Usage] = lambda: ONE_REQUEST,
    ) -> T:
        """`talk` to a replica within the attempt's time; what is `lost` when it fails is booked as wasted."""
        loop = asyncio.get_running_loop()
        replica: Replica = await self.pool.acquire(affinity, avoid)
        begin, outcome, wait = loop.time(), Outcome.ABANDONED, None
        limit = min(self.endpoint.attempt_timeout, self.endpoint.total_timeout)
        try:
            async with asyncio.timeout(limit):
                answer = await talk(replica.url)
            outcome = Outcome.SERVED
            return answer
        except TimeoutError:
            outcome = Outcome.CONGESTED
            late = TransientError(f"no answer from {replica.url} within {limit:g} s (attempt_timeout)")
            late.server, late.seconds = replica.url, loop.time() - begin
            raise late from None
        except TransientError as error:
            error.server, error.seconds = replica.url, loop.time() - begin
            if isinstance(error, Throttled):
                outcome, wait = Outcome.CONGESTED, error.retry_after
            elif error.status is None:
                outcome = Outcome.FAILED
            raise
        finally:
            if outcome is not Outcome.SERVED:
                ledger.waste(role, lost() + Usage(seconds=loop.time() - begin))
            if wait is not None:  # nobody else in the queue may wait longer than this either
                wait = min(wait, self.endpoint.total_timeout)
            self.pool.release(replica, outcome, loop.time() - begin, wait)

    def _deliver(
        self,
        order: _Order,
        missing: list[int],
        run: Sequence[int],
        reply: wire.Reply,
        begin: float,
        request: str | None = None,
    ) -> bool:
        """Turn choices into samples: the prompt is one charge that they share, each completion another.

        Choices that nobody asked for are wasted. Returns whether there was any other.
        """
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
        delivered = False
        for choice, (count, guessed) in zip(reply.choices, tokens, strict=True):
            reasoning = shared.reasoning_tokens / len(reply.choices)
            own = Usage(0, 0, 0, count, reasoning, seconds=seconds, estimated_tokens=count if guessed else 0)
            index = run[choice.index] if choice.index < len(run) else None
            if index is None or index not in missing:
                order.ledger.waste(order.role, own)
                continue
            charge = Charge(f"{request}.{choice.index}", order.role, own, begin)
            order.ledger.pay(charge)
            missing.remove(index)
            sample = _sample(choice, (prompt, charge), index, order, reply.model or self.endpoint.model)
            if order.on_sample is not None:
                order.on_sample(sample)
            order.out.emit(sample)
            order.answered = delivered = True
        return delivered


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


async def _hedged(
    fetch: Callable[[str | None, asyncio.Future[str] | None], Coroutine[Any, Any, T]],
    avoid: str | None,
    after: float,
    lose: Callable[[T], None],
) -> T:
    """The first success of one attempt and another that begins `after` seconds after that was sent, elsewhere.

    Time in the queue does not count: sending twice what waits for room would make the queue longer. The slower one
    is cancelled; if it was answered all the same, `lose` is told.
    """
    sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def patience() -> None:
        await asyncio.shield(sent)
        await asyncio.sleep(after)

    timer = asyncio.create_task(patience())
    attempts = [asyncio.create_task(fetch(avoid, sent))]
    winner: asyncio.Task[T] | None = None
    try:
        await asyncio.wait([timer, *attempts], return_when=asyncio.FIRST_COMPLETED)
        if not attempts[0].done():
            attempts.append(asyncio.create_task(fetch(sent.result(), None)))
        running = set(attempts)
        while running and winner is None:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            winner = next((task for task in done if task.exception() is None), None)
        return (winner or attempts[0]).result()
    finally:
        for task in (timer, *attempts):
            task.cancel()
        await asyncio.gather(timer, *attempts, return_exceptions=True)
        for task in attempts:
            if task is not winner and not task.cancelled() and task.exception() is None:
                lose(task.result())
