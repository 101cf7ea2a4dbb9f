"""OpenTelemetry spans by the GenAI semantic conventions: one for each request, below it one for each inner call.

Without the extra `otel`, or without a tracer that the operator's environment sets up, nothing is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tts.gateway.choosing import Plan
from tts.types import Charge, Usage

try:
    from opentelemetry import trace
except ImportError:
    trace = None


def record(run: str, plan: Plan, status: int, began: float, seconds: float, charges: Iterable[Charge]) -> None:
    """The spans of a request that began at the Unix time `began` and has ended."""
    if trace is None:
        return
    tracer = trace.get_tracer("tts.gateway")
    told: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": plan.model,
        "http.response.status_code": status,
        "tts.run": run,
    }
    if plan.strategy is not None:
        told["tts.strategy"] = plan.strategy.spec
    whole = tracer.start_span(f"chat {plan.label}", start_time=_ns(began), attributes=told)
    inside = trace.set_span_in_context(whole)
    for charge in charges:
        kind = "verify" if charge.role == "verifier" else "chat"
        call = tracer.start_span(
            f"{kind} {charge.role}",
            context=inside,
            start_time=_ns(charge.started),
            attributes={"gen_ai.operation.name": kind, "tts.role": charge.role, **_usage(charge.usage)},
        )
        call.end(_ns(charge.started + charge.usage.seconds))
    whole.end(_ns(began + seconds))


def _usage(usage: Usage) -> dict[str, float]:
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "tts.verifier_seconds": usage.verifier_seconds,
    }


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
