"""A collector of OpenTelemetry spans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@asynccontextmanager
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ExportTraceServiceRequest]:
    """What has come so far of the spans that this process sends; the environment names the place."""
    received = ExportTraceServiceRequest()

    async def collect(request: web.BaseRequest) -> web.Response:
        received.MergeFromString(await request.read())
        return web.Response()

    server = await asyncio.get_running_loop().create_server(web.Server(collect), "127.0.0.1", 0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield received
    finally:
        server.close()


def spans_of(received: ExportTraceServiceRequest) -> list[tuple[Any, dict[str, Any]]]:
    """Each span with what it tells."""
    spans = [span for group in received.resource_spans for scope in group.scope_spans for span in scope.spans]
    return [(span, {one.key: one.value for one in span.attributes}) for span in spans]
