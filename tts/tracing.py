"""OpenTelemetry spans by the GenAI semantic conventions, for the gateway's requests and the cells of runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tts.errors import MissingExtra
from tts.types import Charge, Usage

if TYPE_CHECKING:
    from opentelemetry.trace import Span

MOST_WAITING = 1 << 17
"""Spans that wait to be sent; OpenTelemetry drops those beyond."""


class Tracer:
    """Sends spans to where the environment says (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`, ...)."""

    def __init__(self, scope: str, wish: str) -> None:
        """Raises `MissingExtra`, which names the `wish`, where OpenTelemetry is not installed."""
        try:
            from opentelemetry import propagate, trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError:
            raise MissingExtra("otel", wish) from None
        self.extract, self.inject, self.trace = propagate.extract, propagate.inject, trace
        self._provider = TracerProvider()
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), max_queue_size=MOST_WAITING))
        self.start = self._provider.get_tracer(scope).start_span

    def close(self) -> None:
        """Send what is left; may take seconds."""
        self._provider.shutdown()

    def calls(self, whole: Span, charges: Iterable[Charge]) -> None:
        """A span below `whole` for each of `charges`."""
        inside = self.trace.set_span_in_context(whole)
        for charge in sorted(charges, key=lambda charge: charge.started):
            kind, start = "verify" if charge.role == "verifier" else "chat", charge.started
            attributes = {"gen_ai.operation.name": kind, "tts.role": charge.role, **usage_attributes(charge.usage)}
            client = self.trace.SpanKind.CLIENT
            call = self.start(f"{kind} {charge.role}", inside, client, attributes, start_time=nanoseconds(start))
            call.end(nanoseconds(start + charge.usage.seconds))


def usage_attributes(usage: Usage) -> dict[str, Any]:
    """What spans say of `usage`."""
    return {
        "gen_ai.usage.input_tokens": round(usage.prompt_tokens),
        "gen_ai.usage.output_tokens": round(usage.completion_tokens),
        "tts.verifier_seconds": usage.verifier_seconds,
    }


def nanoseconds(seconds: float) -> int:
    """A Unix time as spans have it."""
    return int(seconds * 1e9)
