"""The gateway itself: every request, from the key it comes with to the account of what it cost."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Self, cast
from uuid import uuid4

from tts.concurrency import now
from tts.errors import EndpointError
from tts.gateway.admission import Callers, Gate
from tts.gateway.answering import Search, keep_alive, open_search
from tts.gateway.exchange import (
    EVENTS,
    JSON,
    APIError,
    ClientLeft,
    Receive,
    ResponseWriter,
    Scope,
    Send,
    as_api_error,
    header,
    read_body,
    while_connected,
)
from tts.gateway.proxy import pass_through
from tts.gateway.routing import GatewayRequest, read
from tts.gateway.schemas import Kind
from tts.gateway.settings import GatewaySettings
from tts.gateway.telemetry import Metrics, Spans, Trace
from tts.resources import Resources
from tts.sampler import Sampler
from tts.session import Session
from tts.solving import OnCandidate, open_models
from tts.types import Charge, Result, Usage, by_role, sum_usage

log = logging.getLogger("tts")

CLIENT_LEFT = 499
"""The status under which requests are counted whose client left."""

STOPPING = APIError(503, "the gateway is shutting down", "stopping", None, 1)


class Gateway:
    """An ASGI app that answers the POST requests of the API. An async context manager; it belongs to one event loop."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.callers = Callers(settings.keys)
        self.gate = Gate(settings.limits.running, settings.limits.queue)
        self.metrics = Metrics(self.gate)
        self.models: dict[str, dict[str, Sampler]] = {}
        self._shared = Resources()
        self._trace = Trace(settings.trace, settings) if settings.trace is not None else None
        self._spans = Spans() if settings.otel else None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        models = self.settings.models
        named = {f"{name}\0{role}": endpoint for name, roles in models.items() for role, endpoint in roles.items()}
        samplers = await self._stack.enter_async_context(open_models(named))
        for sampler in samplers.values():
            sampler.keep_raw = True
        self.models = {name: {role: samplers[f"{name}\0{role}"] for role in roles} for name, roles in models.items()}
        await self._stack.enter_async_context(self._shared)
        if self._trace is not None:
            await self._stack.enter_async_context(self._trace)
        if self._spans is not None:
            self._stack.push_async_callback(asyncio.to_thread, self._spans.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def check(self) -> None:
        """Raise an `EndpointError` if a model cannot be reached or rejects the gateway's key."""
        samplers = {sampler for roles in self.models.values() for sampler in roles.values()}
        await asyncio.gather(*(sampler.check() for sampler in samplers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever becomes of it."""
        kind = cast(Kind, scope["path"].rpartition("/v1/")[2])
        run, began = uuid4().hex, now()
        out = ResponseWriter(send, [(b"x-tts-run", run.encode())])
        request: GatewayRequest | None = None
        try:
            caller = self.callers.identify(header(scope, b"authorization"))
            content = await read_body(scope, receive, self.settings.limits)
            async with while_connected(receive, out):
                try:
                    with caller.request():
                        request = read(self.settings, kind, run, caller, content, out)
                        await self._answer(request)
                except asyncio.CancelledError:
                    if out.client_left:
                        raise
                    await self._fail(STOPPING, out)  # the server has waited as long as it may
                except Exception as error:
                    await self._fail(error, out)
        except ClientLeft:
            out.status = CLIENT_LEFT
        except APIError as error:
            await self._fail(error, out)
        finally:
            await self._ended(request, scope, out.status or CLIENT_LEFT, began)

    async def _answer(self, request: GatewayRequest) -> None:
        strategy = request.plan.strategy
        if strategy is None:
            async with self.gate.room():
                await self._pass(request)
            return
        search = open_search(request, strategy, self.models, self._shared, self.settings.limits.samples)
        request.out.headers.append((b"x-tts-strategy", strategy.name.encode()))
        try:
            self.gate.check()  # before a stream begins
            await (self._stream(search) if request.body.get("stream") else self._whole(search))
        finally:
            self._book(request, search.session)

    async def _pass(self, request: GatewayRequest) -> None:
        sampler, began = self.models[request.plan.model]["policy"], now()

        def book(usage: Usage) -> None:
            usage += Usage(seconds=now() - began)
            request.charges.add(Charge(uuid4().hex, "policy", usage, began))
            request.spent["policy"] = request.spent.get("policy", Usage()) + usage
            request.caller.book(usage.total_tokens, sampler.endpoint.money(usage))

        await pass_through(sampler, f"/{request.kind}", request.content, request.body, request.out, book)

    async def _whole(self, search: Search) -> None:
        result = await self._run(search)
        body = search.format.whole(*search.answer(result))
        await search.request.out.whole(200, [JSON, (b"x-tts-ended", result.ended.encode())], body)

    async def _stream(self, search: Search) -> None:
        out = search.request.out
        await out.start(200, EVENTS)
        await out.write(search.format.start())
        report = search.format.progress if search.request.plan.options.progress else None

        async def work(on_candidate: OnCandidate) -> Result:
            return await self._run(search, on_candidate)

        result = await keep_alive(work, out, self.settings.limits.keep_alive, report)
        await out.write(b"".join(search.format.chunks(*search.answer(result))))
        await out.end()

    async def _run(self, search: Search, on_candidate: OnCandidate | None = None) -> Result:
        async with self.gate.room():
            result = await search.run(on_candidate)
        if self._trace is not None:
            await self._trace.keep(result, search.request.plan.model)
        return result

    def _book(self, request: GatewayRequest, session: Session) -> None:
        """Count all that the session did, answered or not."""
        ledger, money = session.ledger, 0.0
        paid = by_role(ledger.paid)
        for role in {*paid, *ledger.wasted}:
            usage = sum_usage([paid.get(role, Usage()), ledger.wasted.get(role, Usage())])
            request.spent[role] = usage
            if role != "verifier":
                money += session.sampler(role).endpoint.money(usage)
        request.charges |= ledger.paid
        request.caller.book(sum_usage(request.spent.values()).total_tokens, money)

    async def _ended(self, request: GatewayRequest | None, scope: Scope, status: int, began: float) -> None:
        """Report a request in metrics, spans and trace."""
        name, seconds = request.plan.label if request else "none", now() - began
        self.metrics.ended(name, status, seconds)
        if request is None:
            return
        for role, usage in request.spent.items():
            self.metrics.spent(name, role, usage)
        if self._spans is not None:
            self._spans.record(request, status, began, seconds, scope["headers"])
        if self._trace is not None:
            await self._trace.note(request, status)

    async def _fail(self, error: Exception, out: ResponseWriter) -> None:
        """Tell the client what went wrong: as the response, or inside the stream that has begun."""
        told = as_api_error(error)
        if told is None:
            log.error("a request failed", exc_info=error)
            told = APIError(500, "internal error; the gateway's log says more", "internal_error")
        for one in (error, error.__cause__):
            if isinstance(one, EndpointError):  # its message is not for the client: it says where the server is
                log.warning("a request failed: %s", one)
        if out.status is None:
            await out.whole(told.status, told.headers, told.body)
        elif not out.ended:
            await out.end(told.event)
            out.status = told.status
