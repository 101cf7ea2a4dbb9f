"""What the gateway tells its operator: Prometheus metrics, a trace of every request, OpenTelemetry spans."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers

from tts.errors import log
from tts.gateway.routing import GatewayRequest
from tts.gateway.settings import GatewaySettings
from tts.runs.database import Lock
from tts.runs.store import Cell, Store
from tts.sampler.client import ORIGIN, Origin
from tts.sampler.protocol import bytes_of
from tts.tracing import Tracer, nanoseconds, usage_attributes
from tts.types import Result, Usage, sum_usage

if TYPE_CHECKING:
    from opentelemetry.trace import Span


SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


REQUEST_ID = re.compile(r"[!-~]{1,128}")
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def origin_of(headers: Headers) -> Origin:
    """The id of a request, which it gets here if it has none that can be used, and its trace context (W3C), if any.

    Servers refuse an id that is at work. So what they get of a client's own ends in digits that nobody else has: who
    uses the id of another client keeps nobody out.
    """
    id, parent = headers.get("x-request-id", ""), headers.get("traceparent", "")
    state = ",".join(headers.getlist("tracestate"))  # it may come in parts
    trace = {"traceparent": parent} if TRACEPARENT.fullmatch(parent) else {}
    if trace and state and state.isascii() and state.isprintable():
        trace["tracestate"] = state
    made = uuid4().hex
    return Origin(id, trace, f"{id[:100]}-{made[:12]}") if REQUEST_ID.fullmatch(id) else Origin(f"req_{made}", trace)


def _named(record: logging.LogRecord) -> bool:
    """Has what is logged be one line, which begins with the id of the request that it is about.

    Servers repeat what clients wrote, who must not write lines of the log, nor tell the terminal what to do.
    """
    words = "".join(one if one.isprintable() else repr(one)[1:-1] for one in record.getMessage())
    origin = ORIGIN.get()
    record.msg, record.args = "%s", (words if origin is None else f"[{origin.id}] {words}",)
    return True


log.addFilter(_named)


class Load(Protocol):
    """How much is going on."""

    @property
    def running(self) -> int: ...

    @property
    def queued(self) -> int: ...


class Metrics:
    """The counters of one gateway. All labels come from the configuration, so clients cannot create new ones."""

    def __init__(self, gate: Load) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("tts_requests", "Requests by name and status.", ("name", "status"), registry=registry)
        self._seconds = Histogram(
            "tts_request_seconds", "From arrival to the last byte.", ("name",), buckets=SECONDS, registry=registry
        )
        self._tokens = Counter("tts_tokens", "Tokens of all inner calls.", ("name", "role", "kind"), registry=registry)
        self._calls = Counter("tts_model_requests", "Inner calls.", ("name", "role"), registry=registry)
        self._key_requests = Counter(
            "tts_key_requests", "Requests by key and status.", ("key", "status"), registry=registry
        )
        self._key_tokens = Counter("tts_key_tokens", "Tokens by key.", ("key", "kind"), registry=registry)
        self._key_money = Counter("tts_key_money", "What they cost.", ("key",), registry=registry)
        self._fallbacks = Counter(
            "tts_fallbacks", "Requests that another model stood in for.", ("model", "by"), registry=registry
        )
        self._lost_verdicts = Counter(
            "tts_unverified", "Answers whose verification was lost.", ("name",), registry=registry
        )
        Gauge("tts_requests_running", "Requests in progress.", registry=registry).set_function(lambda: gate.running)
        Gauge("tts_requests_queued", "Requests waiting.", registry=registry).set_function(lambda: gate.queued)

    def count(self, what: Literal["ended", "paid", "fell_back", "unverified"], *args: Any) -> None:
        """Count what has happened; `args` are those of the method called so."""
        getattr(self, f"_{what}")(*args)

    def _ended(self, name: str, status: int, seconds: float) -> None:
        self._requests.labels(name, str(status)).inc()
        self._seconds.labels(name).observe(seconds)

    def _paid(self, name: str, key: str, status: int, spent: Mapping[str, Usage], money: float) -> None:
        self._key_requests.labels(key, str(status)).inc()
        self._key_money.labels(key).inc(money)
        for kind in ("prompt", "completion"):
            self._key_tokens.labels(key, kind).inc(getattr(sum_usage(spent.values()), f"{kind}_tokens"))
            for role, usage in spent.items():
                self._tokens.labels(name, role, kind).inc(getattr(usage, f"{kind}_tokens"))
        for role, usage in spent.items():
            self._calls.labels(name, role).inc(usage.requests)

    def _fell_back(self, model: str, by: str) -> None:
        self._fallbacks.labels(model, by).inc()

    def _unverified(self, name: str) -> None:
        self._lost_verdicts.labels(name).inc()

    async def text(self) -> bytes:
        """All of them, for Prometheus."""
        return generate_latest(self._registry)


class Trace:
    """Keeps every request in a directory that `tts report` opens.

    A request with a strategy is a problem of the run, under the id that the client gets in `x-tts-run`. What was asked,
    of plain models too, is in `requests.jsonl`: a line each with the key's name, the status and the usage. An async
    context manager.
    """

    def __init__(self, directory: Path, settings: GatewaySettings | None) -> None:
        """`settings` are those of the process that the directory belongs to; None: it is one of its workers, which
        write there themselves. Raises `ConfigError` if the directory cannot be written."""
        self._directory = directory
        self._lock = None if settings is None else Lock(directory)
        if settings is not None:
            self.know(settings)

    def know(self, settings: GatewaySettings) -> None:
        """Write what `tts report` must know of the models, earlier ones included."""
        config = self._directory / "run.json"
        models = json.loads(config.read_text())["config"]["models"] if config.exists() else {}
        models |= settings.model_dump(mode="json", include={"models"})["models"]
        config.touch(0o600)
        config.write_text(json.dumps({"config": {"task": {"name": "gateway"}, "verifier": None, "models": models}}))

    async def __aenter__(self) -> Self:
        self._requests = os.open(self._directory / "requests.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._store = Store(self._directory / "run.sqlite")
        if not await self._store.used():  # from here on the file is there, for workers too
            await self._store.check()  # which takes no time
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.aclose()
        os.close(self._requests)
        if self._lock is not None:
            self._lock.release()

    async def keep(self, result: Result, model: str) -> None:
        """Store a strategy's result durably; a failure is logged, and the client gets its answer all the same."""
        try:
            await self._store.finish(Cell(result.problem, result.strategy, model, 0), result, {})
        except Exception as error:  # whatever it is, the answer is paid for
            log.error("request %s was not stored: %s: %s", result.problem, type(error).__name__, error)

    async def note(self, line: dict[str, Any]) -> None:
        """Write what `trace_line` says of a request."""
        try:
            await asyncio.to_thread(lambda: os.write(self._requests, bytes_of(line, large=True) + b"\n"))
        except OSError as error:
            log.error("request %s was not noted: %s", line["run"], error.strerror)


def trace_line(request: GatewayRequest, status: int) -> dict[str, Any]:
    """What a trace keeps of a request that has ended with `status`."""
    return {
        "run": request.run,
        "time": round(time(), 3),
        "id": origin.id if (origin := ORIGIN.get()) is not None else None,
        "client": request.caller.name,
        "kind": request.kind,
        "status": status,
        "usage": {role: usage.as_dict() for role, usage in request.spent.items()},
        "body": request.body,
    }


class Spans(Tracer):
    """One span for each request, below it one for each call."""

    def __init__(self) -> None:
        super().__init__("tts.gateway", "otel = true")

    def begin(self, headers: Iterable[tuple[bytes, bytes]], began: float) -> Span:
        """The span of a request that begins at the Unix time `began`; a `traceparent` header names its parent.

        It is itself the parent that calls of models name.
        """
        outside = self.extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers})
        whole = self.start("request", outside, self.trace.SpanKind.SERVER, start_time=nanoseconds(began))
        if (origin := ORIGIN.get()) is not None:
            origin.trace = carried = dict[str, str]()
            self.inject(carried, self.trace.set_span_in_context(whole, outside))
        return whole

    def record(self, whole: Span, request: GatewayRequest, status: int, ended: float) -> None:
        """The `whole` span of a request that ended at the Unix time `ended`, and those of its calls."""
        plan = request.plan
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": plan.model,
            "http.response.status_code": status,
            "tts.run": request.run,
            **usage_attributes(sum_usage(request.spent.values())),
        }
        if plan.strategy is not None:
            attributes["tts.strategy"] = plan.strategy.spec
        if status >= 400:
            attributes["error.type"] = str(status)
        whole.update_name(f"chat {plan.label}")
        whole.set_attributes(attributes)
        self.calls(whole, request.charges)
        if status >= 400:
            whole.set_status(self.trace.StatusCode.ERROR)
        whole.end(nanoseconds(ended))
