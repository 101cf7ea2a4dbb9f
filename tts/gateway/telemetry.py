"""What the gateway tells its operator: Prometheus metrics, a trace of every request, OpenTelemetry spans."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from time import time
from typing import Any, Protocol, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tts.errors import MissingExtra
from tts.gateway.routing import GatewayRequest
from tts.gateway.settings import GatewaySettings
from tts.runs.database import Lock
from tts.runs.store import Cell, Store
from tts.types import Result, Usage, sum_usage

log = logging.getLogger("tts")

SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Load(Protocol):
    """How much is going on."""

    running: int
    queued: int


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
        self._unverified = Counter(
            "tts_unverified", "Answers whose verification was lost.", ("name",), registry=registry
        )
        Gauge("tts_requests_running", "Requests in progress.", registry=registry).set_function(lambda: gate.running)
        Gauge("tts_requests_queued", "Requests waiting.", registry=registry).set_function(lambda: gate.queued)

    def ended(self, name: str, status: int, seconds: float) -> None:
        self._requests.labels(name, str(status)).inc()
        self._seconds.labels(name).observe(seconds)

    def spent(self, name: str, role: str, usage: Usage) -> None:
        self._calls.labels(name, role).inc(usage.requests)
        self._tokens.labels(name, role, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(name, role, "completion").inc(usage.completion_tokens)

    def unverified(self, name: str) -> None:
        self._unverified.labels(name).inc()

    async def text(self) -> bytes:
        """All of them, for Prometheus."""
        return generate_latest(self._registry)


class Trace:
    """Keeps every request in a directory that `tts report` opens.

    A request with a strategy is a problem of the run, under the id that the client gets in `x-tts-run`. What was asked,
    of plain models too, is in `requests.jsonl`: a line each with the key's name, the status and the usage. An async
    context manager; raises `ConfigError` if the directory cannot be written.
    """

    def __init__(self, directory: Path, settings: GatewaySettings) -> None:
        self._directory = directory
        self._lock = Lock(directory)
        config = directory / "run.json"  # what `tts report` must know of the models, earlier ones included
        models = json.loads(config.read_text())["config"]["models"] if config.exists() else {}
        models |= settings.model_dump(mode="json", include={"models"})["models"]
        config.touch(0o600)
        config.write_text(json.dumps({"config": {"task": {"name": "gateway"}, "verifier": None, "models": models}}))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._requests = os.open(directory / "requests.jsonl", flags, 0o600)

    async def __aenter__(self) -> Self:
        self._store = Store(self._directory / "run.sqlite")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.aclose()
        os.close(self._requests)
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
            await asyncio.to_thread(os.write, self._requests, json.dumps(line).encode() + b"\n")
        except OSError as error:
            log.error("request %s was not noted: %s", line["run"], error.strerror)


def trace_line(request: GatewayRequest, status: int) -> dict[str, Any]:
    """What a trace keeps of a request that has ended with `status`."""
    return {
        "run": request.run,
        "time": round(time(), 3),
        "client": request.caller.name,
        "kind": request.kind,
        "status": status,
        "usage": {role: usage.as_dict() for role, usage in request.spent.items()},
        "body": request.body,
    }


class Spans:
    """Sends OpenTelemetry spans by the GenAI semantic conventions: one for each request, below it one for each call.

    The environment says where to (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`, ...). Raises `MissingExtra`.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import propagate, trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise MissingExtra("otel", "otel = true") from None
        self._extract, self._trace = propagate.extract, trace
        self._provider = TracerProvider()
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("tts.gateway")

    def close(self) -> None:
        """Send what is left; may take seconds."""
        self._provider.shutdown()

    def record(
        self, request: GatewayRequest, status: int, began: float, seconds: float, headers: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """The spans of a request that began at the Unix time `began`; a `traceparent` header names the parent."""
        plan, trace = request.plan, self._trace
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": plan.model,
            "http.response.status_code": status,
            "tts.run": request.run,
            **_usage_attributes(sum_usage(request.spent.values())),
        }
        if plan.strategy is not None:
            attributes["tts.strategy"] = plan.strategy.spec
        if status >= 400:
            attributes["error.type"] = str(status)
        outside = self._extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers})
        server, client = trace.SpanKind.SERVER, trace.SpanKind.CLIENT
        whole = self._tracer.start_span(f"chat {plan.label}", outside, server, attributes, start_time=_ns(began))
        inside = trace.set_span_in_context(whole)
        for charge in sorted(request.charges, key=lambda charge: charge.started):
            kind, start = "verify" if charge.role == "verifier" else "chat", charge.started
            attributes = {"gen_ai.operation.name": kind, "tts.role": charge.role, **_usage_attributes(charge.usage)}
            call = self._tracer.start_span(f"{kind} {charge.role}", inside, client, attributes, start_time=_ns(start))
            call.end(_ns(start + charge.usage.seconds))
        if status >= 400:
            whole.set_status(trace.StatusCode.ERROR)
        whole.end(_ns(began + seconds))


def _usage_attributes(usage: Usage) -> dict[str, float]:
    return {
        "gen_ai.usage.input_tokens": round(usage.prompt_tokens),
        "gen_ai.usage.output_tokens": round(usage.completion_tokens),
        "tts.verifier_seconds": usage.verifier_seconds,
    }


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
