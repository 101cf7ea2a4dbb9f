"""OpenTelemetry spans by the GenAI semantic conventions: one for each request, below it one for each inner call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tts.errors import MissingExtra
from tts.gateway.requests import Request
from tts.types import Usage, sum_usage

try:
    from opentelemetry import propagate, trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
except ImportError:
    raise MissingExtra("otel", "otel = true") from None


class Spans:
    """Sends them where the environment says (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`, ...)."""

    def __init__(self) -> None:
        self._provider = TracerProvider()
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("tts.gateway")

    def close(self) -> None:
        """Send what is left; this may take seconds."""
        self._provider.shutdown()

    def record(
        self, request: Request, status: int, began: float, seconds: float, headers: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """The spans of a request that began at the Unix time `began` and has ended.

        A `traceparent` among its headers says within what.
        """
        plan = request.plan
        told: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": plan.model,
            "http.response.status_code": status,
            "tts.run": request.run,
            **_usage(sum_usage(request.spent.values())),
        }
        if plan.strategy is not None:
            told["tts.strategy"] = plan.strategy.spec
        if status >= 400:
            told["error.type"] = str(status)
        outside = propagate.extract({name.decode("latin-1"): value.decode("latin-1") for name, value in headers})
        server, client = trace.SpanKind.SERVER, trace.SpanKind.CLIENT
        whole = self._tracer.start_span(f"chat {plan.label}", outside, server, told, start_time=_ns(began))
        inside = trace.set_span_in_context(whole)
        for charge in sorted(request.charges, key=lambda charge: charge.started):
            kind = "verify" if charge.role == "verifier" else "chat"
            told = {"gen_ai.operation.name": kind, "tts.role": charge.role, **_usage(charge.usage)}
            call = self._tracer.start_span(
                f"{kind} {charge.role}", inside, client, told, start_time=_ns(charge.started)
            )
            call.end(_ns(charge.started + charge.usage.seconds))
        if status >= 400:
            whole.set_status(trace.StatusCode.ERROR)
        whole.end(_ns(began + seconds))


def _usage(usage: Usage) -> dict[str, float]:
    return {
        "gen_ai.usage.input_tokens": round(usage.prompt_tokens),
        "gen_ai.usage.output_tokens": round(usage.completion_tokens),
        "tts.verifier_seconds": usage.verifier_seconds,
    }


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
