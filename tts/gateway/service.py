"""The gateway itself: every request from the key it comes with to the account of what it cost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any, Self
from uuid import uuid4

from tts.driver import OnCandidate, open_models
from tts.gateway.access import Access, Client
from tts.gateway.answers import account
from tts.gateway.failures import Refused, refusal_of
from tts.gateway.gate import Gate
from tts.gateway.metrics import Metrics
from tts.gateway.passing import pass_through
from tts.gateway.requests import Kind, Request, posed, read
from tts.gateway.settings import Settings
from tts.gateway.solving import Form, alive, chosen, session_for, solve
from tts.gateway.trace import Trace
from tts.gateway.wire import EVENTS, Left, Out, Receive, Scope, Send, header, read_body, while_present
from tts.sampler import Sampler
from tts.session import Session
from tts.shared import Shared
from tts.types import Result, Usage, by_role, sum_usage

log = logging.getLogger("tts")

LEFT = 499
"""What a request is counted as whose client went away."""


class Gateway:
    """Answers requests by `settings`. An async context manager; it belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.gate = Gate(settings.limits.running, settings.limits.queue)
        self.metrics = Metrics(self.gate)
        self.models: dict[str, dict[str, Sampler]] = {}
        self._access = Access(settings.keys)
        self._shared = Shared()
        self._trace: Trace | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        places = {(name, role): one for name, roles in self.settings.models.items() for role, one in roles.items()}
        named = {f"{name}\0{role}": endpoint for (name, role), endpoint in places.items()}
        samplers = await self._stack.enter_async_context(open_models(named))
        for sampler in samplers.values():
            sampler.keep_raw = True
        self.models = {
            name: {role: samplers[f"{name}\0{role}"] for role in roles} for name, roles in self.settings.models.items()
        }
        await self._stack.enter_async_context(self._shared)
        if self.settings.trace is not None:
            self._trace = await self._stack.enter_async_context(Trace(self.settings.trace, self.settings))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def ready(self) -> None:
        """Raise an `EndpointError` when a model cannot be reached, or rejects the gateway's key."""
        samplers = {sampler for roles in self.models.values() for sampler in roles.values()}
        await asyncio.gather(*(sampler.check() for sampler in samplers))

    def client(self, scope: Scope) -> Client:
        """Who is asking. Raises `Refused`."""
        return self._access.client(header(scope, b"authorization"))

    async def answer(self, kind: Kind, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever becomes of it."""
        run, began, name = uuid4().hex, perf_counter(), "none"
        out = Out(send, [(b"x-tts-run", run.encode())])
        status: int | None = None
        try:
            client = self.client(scope)
            content = await read_body(scope, receive, self.settings.limits)
            async with while_present(receive, out):
                try:
                    with client.request():
                        request = read(self.settings, kind, run, client, content, out)
                        name = request.plan.label
                        await self._answer(request)
                except Exception as error:
                    await self._fail(error, out)
        except Left:
            status = LEFT
        except Refused as error:
            await self._fail(error, out)
        finally:
            self.metrics.ended(name, status or out.status or LEFT, perf_counter() - began)

    async def _answer(self, request: Request) -> None:
        if request.plan.strategy is None:
            async with self.gate.room():
                await self._pass(request)
            return
        form, problem, n = posed(request, self.settings.limits.samples)
        session = session_for(request.plan, problem, self.models, self._shared, request.client.left())
        request.out.headers.append((b"x-tts-strategy", request.plan.strategy.name.encode()))
        try:
            self.gate.check()  # before a stream begins
            result = await (self._streamed if request.streamed else self._whole)(request, form, session, n)
            if self._trace is not None:
                kept = request.client.name, request.kind, request.plan.model, request.body
                await self._trace.keep(request.run, *kept, result)
        finally:
            self._book(request, session)

    async def _pass(self, request: Request) -> None:
        sampler = self.models[request.plan.model]["policy"]

        def book(usage: Usage) -> None:
            self.metrics.spent(request.plan.label, "policy", usage)
            request.client.book(usage.total_tokens, sampler.endpoint.money(usage))

        await pass_through(sampler, f"/{request.kind}", request.content, request.body, request.out, book)

    async def _whole(self, request: Request, form: Form, session: Session, n: int) -> Result:
        async with self.gate.room():
            result = await solve(request.plan, session, n)
        winners, extra = chosen(request.plan, session, result, n, request.run), self._extra(request, result)
        headers = [(b"content-type", b"application/json"), (b"x-tts-ended", result.ended.encode())]
        await request.out.whole(200, headers, form.whole(winners, result.usage, extra))
        return result

    async def _streamed(self, request: Request, form: Form, session: Session, n: int) -> Result:
        out = request.out

        async def work(on_candidate: OnCandidate) -> Result:
            async with self.gate.room():
                return await solve(request.plan, session, n, on_candidate)

        await out.begin(200, EVENTS)
        await out.write(form.begin())
        tell = form.progress if request.plan.wishes.progress else None
        result = await alive(work, out, self.settings.limits.keep_alive, tell)
        winners, extra = chosen(request.plan, session, result, n, request.run), self._extra(request, result)
        await out.write(b"".join(form.chunks(winners, result.usage, extra)))
        await out.end()
        return result

    def _extra(self, request: Request, result: Result) -> dict[str, Any]:
        return {"tts": account(request.plan, result, request.run)} if request.plan.wishes.details else {}

    def _book(self, request: Request, session: Session) -> None:
        """Count all that the session did, answered or not."""
        ledger = session.ledger
        money = 0.0
        spent: Mapping[str, Usage] = by_role(ledger.paid)
        for role in {*spent, *ledger.wasted}:
            usage = sum_usage([spent.get(role, Usage()), ledger.wasted.get(role, Usage())])
            self.metrics.spent(request.plan.label, role, usage)
            if role != "verifier":
                money += session.sampler(role).endpoint.money(usage)
            request.client.book(usage.total_tokens, 0.0)
        request.client.book(0.0, money)

    async def _fail(self, error: Exception, out: Out) -> None:
        """Tell the client what went wrong: as the answer, or inside the stream that has begun."""
        refused = refusal_of(error)
        if refused is None:
            log.error("a request failed", exc_info=error)
            refused = Refused(500, "the gateway failed; its log says why", "internal_error")
        if out.status is None:
            await out.whole(refused.status, refused.headers, refused.body)
        elif not out.ended:
            await out.end(refused.event)
            out.status = refused.status
