"""What is counted for Prometheus. Labels come from the configuration alone, so that clients cannot make new ones."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tts.gateway.admission import Gate
from tts.types import Usage

SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The counters of one gateway."""

    def __init__(self, gate: Gate) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "tts_requests", "Requests by what was asked for and how they ended.", ("name", "status"), registry=registry
        )
        self._seconds = Histogram(
            "tts_request_seconds", "From arrival to the last byte.", ("name",), buckets=SECONDS, registry=registry
        )
        self._tokens = Counter("tts_tokens", "Tokens of all inner calls.", ("name", "role", "kind"), registry=registry)
        self._calls = Counter("tts_model_requests", "Inner calls.", ("name", "role"), registry=registry)
        for name, words, value in (
            ("tts_requests_running", "Requests that are worked on.", lambda: gate.running),
            ("tts_requests_queued", "Requests that wait for that.", lambda: gate.queued),
        ):
            Gauge(name, words, registry=registry).set_function(value)

    def ended(self, name: str, status: int | str, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(name, str(status)).inc()
        self._seconds.labels(name).observe(seconds)

    def spent(self, name: str, role: str, usage: Usage) -> None:
        """Count inner work."""
        self._calls.labels(name, role).inc(usage.requests)
        self._tokens.labels(name, role, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(name, role, "completion").inc(usage.completion_tokens)

    def text(self) -> bytes:
        """All of them in Prometheus' form."""
        return generate_latest(self._registry)
