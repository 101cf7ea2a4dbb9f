"""The gateway itself: every request from the key it comes with to the account of what it cost."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from tts.concurrency import now
from tts.errors import EndpointError
from tts.gateway.admission import Gate
from tts.gateway.answering import Form, alive, chosen, session_for, solve
from tts.gateway.asgi import EVENTS, Left, Out, Receive, Scope, Send, header, read_body, while_present
from tts.gateway.chat import account
from tts.gateway.errors import Refused, refusal_of
from tts.gateway.keys import Access, Client
from tts.gateway.metrics import Metrics
from tts.gateway.proxy import pass_through
from tts.gateway.requests import Request, posed, read
from tts.gateway.schemas import Kind
from tts.gateway.settings import Settings
from tts.gateway.trace import Trace
from tts.resources import Resources
from tts.sampler import Sampler
from tts.session import Session
from tts.solving import OnCandidate, open_models
from tts.types import Charge, Result, Usage, by_role, sum_usage

if TYPE_CHECKING:
    from tts.gateway.spans import Spans

log = logging.getLogger("tts")

LEFT = 499
"""What a request is counted as whose client went away."""

STOPPING = Refused(503, "the gateway is being stopped", "stopping", None, 1)


class Gateway:
    """Answers requests by `settings`. An async context manager; it belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.gate = Gate(settings.limits.running, settings.limits.queue)
        self.metrics = Metrics(self.gate)
        self.models: dict[str, dict[str, Sampler]] = {}
        self._access = Access(settings.keys)
        self._shared = Resources()
        self._trace = Trace(settings.trace, settings) if settings.trace is not None else None
        self._spans = spans() if settings.otel else None
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
        if self._trace is not None:
            await self._stack.enter_async_context(self._trace)
        if self._spans is not None:
            self._stack.push_async_callback(asyncio.to_thread, self._spans.close)
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
        run, began = uuid4().hex, now()
        out = Out(send, [(b"x-tts-run", run.encode())])
        request: Request | None = None
        try:
            client = self.client(scope)
            content = await read_body(scope, receive, self.settings.limits)
            async with while_present(receive, out):
                try:
                    with client.request():
                        request = read(self.settings, kind, run, client, content, out)
                        await self._answer(request)
                except asyncio.CancelledError:
                    if out.left:
                        raise
                    await self._fail(STOPPING, out)  # by the server, which has waited for as long as it may
                except Exception as error:
                    await self._fail(error, out)
        except Left:
            out.status = LEFT
        except Refused as error:
            await self._fail(error, out)
        finally:
            await self._ended(request, scope, out.status or LEFT, began)

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
            await (self._streamed if request.streamed else self._whole)(request, form, session, n)
        finally:
            self._book(request, session)

    async def _pass(self, request: Request) -> None:
        sampler, began = self.models[request.plan.model]["policy"], now()

        def book(usage: Usage) -> None:
            usage += Usage(seconds=now() - began)
            request.charges.add(Charge(uuid4().hex, "policy", usage, began))
            request.spent["policy"] = request.spent.get("policy", Usage()) + usage
            request.client.book(usage.total_tokens, sampler.endpoint.money(usage))

        await pass_through(sampler, f"/{request.kind}", request.content, request.body, request.out, book)

    async def _whole(self, request: Request, form: Form, session: Session, n: int) -> None:
        result = await self._solved(request, session, n)
        winners, extra = chosen(request.plan, session, result, n, request.run), self._extra(request, result)
        headers = [(b"content-type", b"application/json"), (b"x-tts-ended", result.ended.encode())]
        await request.out.whole(200, headers, form.whole(winners, result.usage, extra))

    async def _streamed(self, request: Request, form: Form, session: Session, n: int) -> None:
        out = request.out
        await out.begin(200, EVENTS)
        await out.write(form.begin())
        tell = form.progress if request.plan.wishes.progress else None
        result = await alive(partial(self._solved, request, session, n), out, self.settings.limits.keep_alive, tell)
        winners, extra = chosen(request.plan, session, result, n, request.run), self._extra(request, result)
        await out.write(b"".join(form.chunks(winners, result.usage, extra)))
        await out.end()

    async def _solved(
        self, request: Request, session: Session, n: int, on_candidate: OnCandidate | None = None
    ) -> Result:
        async with self.gate.room():
            result = await solve(request.plan, session, n, on_candidate)
        if self._trace is not None:
            await self._trace.keep(result, request.plan.model)
        return result

    def _extra(self, request: Request, result: Result) -> dict[str, Any]:
        return {"tts": account(request.plan, result, request.run)} if request.plan.wishes.details else {}

    def _book(self, request: Request, session: Session) -> None:
        """Count all that the session did, answered or not."""
        ledger, money = session.ledger, 0.0
        paid = by_role(ledger.paid)
        for role in {*paid, *ledger.wasted}:
            usage = sum_usage([paid.get(role, Usage()), ledger.wasted.get(role, Usage())])
            request.spent[role] = usage
            if role != "verifier":
                money += session.sampler(role).endpoint.money(usage)
        request.charges |= ledger.paid
        request.client.book(sum_usage(request.spent.values()).total_tokens, money)

    async def _ended(self, request: Request | None, scope: Scope, status: int, began: float) -> None:
        """Count a request, and note it where requests are noted."""
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

    async def _fail(self, error: Exception, out: Out) -> None:
        """Tell the client what went wrong: as the answer, or inside the stream that has begun."""
        refused = refusal_of(error)
        if refused is None:
            log.error("a request failed", exc_info=error)
            refused = Refused(500, "the gateway failed; its log says why", "internal_error")
        for one in (error, error.__cause__):
            if isinstance(one, EndpointError):  # its words are not for the client: they say where the server is
                log.warning("a request failed: %s", one)
        if out.status is None:
            await out.whole(refused.status, refused.headers, refused.body)
        elif not out.ended:
            await out.end(refused.event)
            out.status = refused.status


def spans() -> Spans:
    """What sends spans. Raises `MissingExtra`."""
    from tts.gateway.spans import Spans

    return Spans()
