"""The gateway itself: every request, from the key it comes with to the account of what it cost."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Self, cast
from uuid import uuid4

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from tts import registry
from tts.concurrency import LARGE, aside, now
from tts.errors import ConfigError, EndpointError, MissingExtra, UnreadableKey, is_outage, log
from tts.gateway.admission import BodyRoom, Caller, Gate, Keyring, check_page, identify
from tts.gateway.answering import Search, StrategyAnswer, kept_alive, open_search
from tts.gateway.exchange import EVENTS, JSON, PASSED, APIError, Kind, ResponseWriter, as_api_error
from tts.gateway.formats import Translation
from tts.gateway.link import SharedMetrics, WorkerLink
from tts.gateway.proxy import ABSENT, lacks, pass_through
from tts.gateway.routing import GatewayRequest, Offer, read, vet
from tts.gateway.settings import GatewayLimits, GatewaySettings
from tts.gateway.stored import ResponseStore
from tts.gateway.telemetry import Metrics, Spans, Trace, trace_line
from tts.policies import check_models, policies_of
from tts.resources import Resources
from tts.sampler import Endpoint, Sampler
from tts.sampler.protocol import estimate_prompt, estimate_tokens
from tts.sampler.refusals import server_message
from tts.sampler.scoring import tokenize
from tts.session import Session
from tts.solving import OnCandidate, drive
from tts.text import size_of
from tts.types import Result, by_role

CLIENT_LEFT = 499
"""The status under which requests are counted whose client left."""

STOPPING = APIError(503, "the gateway is shutting down", "stopping", None, 1)


class Gateway:
    """An ASGI app that answers the POST requests of the API. An async context manager; it belongs to one event loop."""

    def __init__(self, settings: GatewaySettings, link: WorkerLink | None = None) -> None:
        """`link` has what it shares with further workers."""
        if link is None and settings.redis is not None:
            raise ConfigError("redis: only `tts serve` shares limits with other machines")
        self._link = link
        self._keys = Keyring(settings) if link is None else link
        self.gate: Gate = Gate(settings.limits.running, settings.limits.queue) if link is None else link.gate
        self.metrics: Metrics | SharedMetrics = Metrics(self.gate) if link is None else link.metrics
        self._trace: Trace | None = None
        if settings.trace is not None:
            self._trace = Trace(settings.trace, settings if link is None else None)
        self.tls: ssl.SSLContext | None = None
        if settings.tls is not None:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            settings.tls.fill(self.tls)
        self.offer = Offer(settings)
        self._samplers: list[tuple[str | None, Sampler]] = []
        """All that are open, with the key that each uses."""
        self._open = Counter[Offer]()
        """How many requests go by each offer."""
        self._shared = Resources()
        self._bodies = BodyRoom()
        self._checking: asyncio.Future[list[BaseException | None]] | None = None
        self.responses: ResponseStore = ResponseStore(settings.responses, settings.limits)
        self._spans = Spans() if settings.otel else None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(load_plugins)
        await self._stack.enter_async_context(self._keys)
        self._stack.push_async_callback(self._close_all)
        self.offer = self._offer_of(self.settings)
        await self._stack.enter_async_context(self._shared)
        await self._stack.enter_async_context(self.responses)
        if self._trace is not None:
            await self._stack.enter_async_context(self._trace)
        if self._spans is not None:
            self._stack.push_async_callback(asyncio.to_thread, self._spans.close)
        if self._link is not None:
            self._link.join(self.reload)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def settings(self) -> GatewaySettings:
        """What it goes by now."""
        return self.offer.settings

    @property
    def callers(self) -> list[Caller]:
        """The holders of all keys."""
        return self._keys.callers

    async def reload(self, settings: GatewaySettings) -> None:
        """Go by `settings` from now on; what is under way goes on as it began.

        Raises `ConfigError` where that needs a restart, or cannot be; then nothing changes.
        """
        self.settings.check_successor(settings)
        offer = self._offer_of(settings)
        if settings.tls is not None and self.tls is not None:
            settings.tls.fill(self.tls)
        await self._keys.reload(settings)
        if self._link is None:
            self.gate.resize(settings.limits.running, settings.limits.queue)
            if self._trace is not None:
                self._trace.know(settings)
        self.responses.limits = settings.limits
        self.offer = offer
        await self._close_unused()

    def _offer_of(self, settings: GatewaySettings) -> Offer:
        """What `settings` say, with the samplers that are open already where endpoint and key have stayed the same."""

        def sampler(endpoint: Endpoint) -> Sampler:
            try:
                key = endpoint.key()
            except UnreadableKey:  # which requests are told, without its place
                key = None
            for used, one in self._samplers:
                if (used, one.endpoint) == (key, endpoint):
                    return one
            one = Sampler(endpoint)
            if self._link is not None:
                self._link.share(one)
            one.keep_raw = one.connection.health.impatient = True
            self._samplers.append((key, one))
            return one

        models = settings.models.items()
        return Offer(settings, {name: {role: sampler(one) for role, one in roles.items()} for name, roles in models})

    async def _close_all(self) -> None:
        self.offer: Offer = Offer(self.settings)
        await self._close_unused()

    async def _close_unused(self) -> None:
        """Close the samplers that neither the offer has nor a request that goes by an earlier one."""
        used = self.offer.samplers.union(*(offer.samplers for offer in self._open))
        gone = [sampler for _, sampler in self._samplers if sampler not in used]
        self._samplers = [pair for pair in self._samplers if pair[1] in used]
        for sampler in gone:
            await sampler.aclose()

    @asynccontextmanager
    async def _going_by_offer(self) -> AsyncIterator[Offer]:
        """What is offered now, for the length of a request."""
        offer = self.offer
        self._open[offer] += 1
        try:
            yield offer
        finally:
            self._open -= Counter([offer])
            if offer is not self.offer and offer not in self._open:
                await self._close_unused()

    async def check(self) -> None:
        """Raise an `EndpointError` if a model, of a set all, cannot be reached or rejects the gateway's key.

        Whoever asks meanwhile gets the same answer: anybody may ask, as often as he likes.
        """
        if self._checking is None or self._checking.done():
            checks = map(check_models, self.offer.models.values())
            self._checking = asyncio.ensure_future(asyncio.gather(*checks, return_exceptions=True))
        for failure in await asyncio.shield(self._checking):
            if failure is not None:
                raise failure

    def check_page(self, http: Request) -> None:
        """Raise `APIError` for what a web page may not ask of a gateway without keys."""
        if not self.callers:
            check_page(http.scope, self.settings.hosts, self.settings.origins)

    def caller(self, http: Request) -> Caller:
        """Who is asking. Raises `APIError` (401; 403 and 415 for web pages, see `check_page`)."""
        self.check_page(http)
        return identify(self.callers, http.headers.get("authorization"), http.headers.get("x-api-key"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever becomes of it."""
        async with self._going_by_offer() as offer:
            await self._respond(offer, scope, receive, send)

    async def _respond(self, offer: Offer, scope: Scope, receive: Receive, send: Send) -> None:
        http, run, began = Request(scope, receive), uuid4().hex, now()
        kind = cast(Kind, scope["path"].removeprefix("/v1").strip("/"))
        out = ResponseWriter(send, kind, [(b"x-tts-run", run.encode())])
        span = None if self._spans is None else self._spans.begin(scope["headers"], began)
        request: GatewayRequest | None = None
        try:
            caller = self.caller(http)
            limits = offer.settings.limits
            async with caller.request(), self._bodies.body(caller.name, limits.bodies_bytes) as grow:
                content = await read_body(http, limits, grow)
                async with while_connected(receive, out):
                    try:
                        request = await read(offer, kind, run, caller, content, out, self.responses)
                        await self._answer(request)
                    except asyncio.CancelledError:
                        if out.client_left:
                            raise
                        await self._fail(STOPPING, out, run)  # the server has waited as long as it may
                    except Exception as error:
                        await self._fail(error, out, run)
        except ClientDisconnect:
            out.status = CLIENT_LEFT
        except APIError as error:  # before the body was read
            with suppress(ClientDisconnect):
                await out.refuse(error, http.stream())
        finally:
            await self._ended(request, out.status or CLIENT_LEFT, began)
            if self._spans is not None and span is not None and request is not None:
                self._spans.record(span, request, out.status or CLIENT_LEFT, now())

    async def _answer(self, request: GatewayRequest) -> None:
        """Answer by the model that was asked, or by one that stands in for it while its server does not work."""
        others = request.stand_ins()
        while True:
            try:
                await self._attempt(request)
                return
            except Exception as error:
                if not others or request.out.status is not None or not is_outage(error):
                    raise
                log.warning("'%s' does not answer: %s", request.plan.model, error.__cause__ or error)
            self.metrics.count("fell_back", request.plan.model, others[0])
            request.fall_back(others.pop(0))

    async def _attempt(self, request: GatewayRequest) -> None:
        strategy = request.plan.strategy
        if strategy is None or request.kind == "messages/count_tokens":
            async with self.gate.room():
                await self._plain(request)
            return
        await vet(request.plan, self._shared)
        search = open_search(request, strategy, self._shared)
        request.out.say(b"x-tts-strategy", strategy.name.encode())
        try:
            self.gate.check()  # before a stream begins
            await (self._stream(search) if request.body.get("stream") else self._whole(search))
        finally:
            self._book(request, search.session)

    async def _plain(self, request: GatewayRequest) -> None:
        """Let the model's own server answer: in the API that was asked if it has that, else in chat."""
        kind, model, out = request.kind, request.plan.model, request.out
        roles, chat_only = request.offer.models[model], request.offer.chat_only
        sampler = roles[policies_of(roles)[-1]]
        if kind == "messages/count_tokens":
            await _count(request, sampler)
            return
        if kind == "responses" and model in chat_only and request.format is None:
            await request.translate()
        missing: EndpointError | None = None
        for path in ("/chat/completions",) if request.format else PASSED.get(kind, (f"/{kind}",)):
            try:
                await pass_through(request, sampler, path)
                return
            except EndpointError as error:
                known = kind not in PASSED and (kind != "responses" or request.format is not None)
                if known or error.status not in ABSENT or out.status is not None:
                    raise
                missing = error
        assert missing is not None
        if kind in PASSED:
            words = f"the server of '{model}' has no {kind}: {server_message(missing.body)}"
            raise APIError(404, words[:500], "not_supported") from missing
        if not await lacks(sampler, f"/{kind}"):
            raise missing
        chat_only.add(model)
        await self._plain(request)

    async def _whole(self, search: Search) -> None:
        answer = self._counted(search, await self._run(search))
        body = await _written(search, answer, lambda: search.format.whole(*answer.parts))
        await search.request.out.whole(200, [JSON, *answer.headers], body)

    async def _stream(self, search: Search) -> None:
        out, form, seconds = search.request.out, search.format, search.request.offer.settings.limits.keep_alive
        reports = search.request.plan.options.progress
        async with kept_alive(out, seconds, form, reports=reports) as on_candidate:
            result = await self._run(search, on_candidate)
        answer = self._counted(search, result)
        if out.status is None:
            await out.start(200, [*EVENTS, *answer.headers])
            await out.write(form.start(answer.usage))
        await out.write(await _written(search, answer, lambda: b"".join(form.chunks(*answer.parts))))
        await out.end()

    def _counted(self, search: Search, result: Result) -> StrategyAnswer:
        """The answer to a search, which is counted if it has no verdict although one was promised."""
        try:
            answer = search.answer(result)
        except APIError as error:
            if error.code == "unverified":
                self.metrics.count("unverified", search.request.plan.label)
            raise
        if answer.verified is False:
            self.metrics.count("unverified", search.request.plan.label)
        return answer

    async def _run(self, search: Search, on_candidate: OnCandidate | None = None) -> Result:
        session = search.session
        left = None if session.budget.seconds is None else session.budget.seconds - session.elapsed
        async with self.gate.room(left):
            early = search.n == 1  # a search for several answers goes on
            result = await drive(
                search.strategy, search.session, stop_early=early, at_least=search.n, on_candidate=on_candidate
            )
        if self._trace is not None:
            await self._trace.keep(result, search.request.plan.model)
        return result

    def _book(self, request: GatewayRequest, session: Session) -> None:
        """Count all that the session did, answered or not."""
        request.charges |= session.ledger.paid
        for work in (by_role(session.ledger.paid), session.ledger.wasted):
            for role, usage in work.items():
                money = 0.0 if role == "verifier" else session.sampler(role).endpoint.money(usage)
                request.book(role, usage, money)
        session.settle(*request.unsettled())

    async def _ended(self, request: GatewayRequest | None, status: int, began: float) -> None:
        """Report a request in metrics and trace."""
        name, seconds = request.plan.label if request else "none", now() - began
        self.metrics.count("ended", name, status, seconds)
        if request is None:
            return
        self.metrics.count("paid", name, request.caller.name, status, request.spent, request.money)
        if self._trace is not None:
            await self._trace.note(trace_line(request, status))

    async def _fail(self, error: Exception, out: ResponseWriter, run: str) -> None:
        """Tell the client what went wrong: as the response, or inside the stream that has begun."""
        told = as_api_error(error)
        if told is not None:
            told.message = told.message.replace(run, "the request")
        else:
            log.error("a request failed", exc_info=error)
            told = APIError(500, "internal error; the gateway's log says more", "internal_error")
        for one in (error, error.__cause__):
            if isinstance(one, EndpointError):  # its message is not for the client: it says where the server is
                log.warning("a request failed: %s", one)
        await out.fail(told)


async def _written(search: Search, answer: StrategyAnswer, write: Callable[[], bytes]) -> bytes:
    """An answer as the client gets it, who may come back to it where that is a translation."""
    size = size_of([[one.content, one.samples and one.samples[-1].raw] for one in answer.candidates], LARGE, 16)
    form = search.format
    form.large = size > LARGE
    made = await aside(size, write)
    if isinstance(form, Translation):
        await search.request.keep(form.made)
    return made


async def _count(request: GatewayRequest, sampler: Sampler) -> None:
    """Answer with the tokens of the request's prompt: the server's own count, or an estimate that says so."""
    messages, tools = request.chat["messages"], request.chat.get("tools")
    headers: list[tuple[bytes, bytes]] = [JSON]
    try:
        count = len(await tokenize(sampler, messages, tools=tools))
    except ConfigError:
        count = estimate_prompt(messages) + (estimate_tokens(json.dumps(tools)) if tools else 0)
        headers.append((b"x-tts-estimated", b"input_tokens"))
    await request.out.whole(200, headers, json.dumps({"input_tokens": count}).encode())


def load_plugins() -> None:
    """Import what requests may choose, so that none has to wait for it; what cannot be imported is told when chosen."""
    for group in ("strategies", "verifiers"):
        for name in registry.names(group):
            with suppress(ConfigError, MissingExtra):
                registry.load(group, name)


async def read_body(http: Request, limits: GatewayLimits, grow: Callable[[int], None] = lambda size: None) -> bytes:
    """The request body, of whose size so far `grow` is told.

    Raises `APIError` if it is too large (413) or too slow (408), what `grow` raises, or `ClientDisconnect`.
    """
    too_large = APIError(413, f"a request may have at most {limits.body_bytes} bytes", "request_too_large")
    length = http.headers.get("content-length", "")
    if length.isdigit() and int(length) > limits.body_bytes:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in http.stream():
                content += part
                if len(content) > limits.body_bytes:
                    raise too_large
                grow(len(content))
    except TimeoutError:
        raise APIError(408, f"the request did not arrive within {limits.body_seconds:g} s", "request_timeout") from None
    return bytes(content)


@asynccontextmanager
async def while_connected(receive: Receive, out: ResponseWriter) -> AsyncIterator[None]:
    """Cancels its body, and raises `ClientDisconnect`, when the client leaves before the response has ended."""
    work = asyncio.current_task()
    assert work is not None

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not out.ended:
            out.client_left = True
            work.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if out.client_left and not work.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        out.ended = True
        watching.cancel()
