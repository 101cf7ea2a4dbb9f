"""Requests to `embedded://NAME` reach the engine in this process: an httpx transport without a port.

Answers are handed over as they come, and a response that is closed ends its computation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx

from tts.lab.engine.models import fingerprint, model_folder

if TYPE_CHECKING:  # the engine is loaded when it is needed
    from tts.lab.engine.service import Events, Service


class EmbeddedTransport(httpx.AsyncBaseTransport):
    """Answers requests below one `embedded://` URL. The model is loaded by the first, in a thread."""

    fingerprint = staticmethod(fingerprint)

    def __init__(self, base_url: str) -> None:
        self._folder = model_folder(base_url)
        self._base = httpx.URL(base_url.removesuffix("/v1")).path.rstrip("/")
        self._loading: asyncio.Task[Service] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The service's answer, its body as it comes."""
        from tts.lab.engine.loading import load_service

        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(load_service, self._folder))
        return await respond(await asyncio.shield(self._loading), request, self._path(request.url.path))

    def _path(self, path: str) -> str:
        """Where the service has what lies below the base URL, be that with or without its /v1."""
        path = path.removeprefix(self._base)
        return "/v1" + path if path.startswith(("/models", "/chat/", "/completions")) else path


async def respond(service: Service, request: httpx.Request, path: str) -> httpx.Response:
    """The response of `service` to `request`, as soon as it begins."""
    reply = await service.answer(request.method, path, await request.aread())
    return httpx.Response(reply.status, headers={"content-type": reply.kind}, stream=_Stream(reply.parts))


class _Stream(httpx.AsyncByteStream):
    """The parts of an answer; closed early, they end."""

    def __init__(self, parts: Events) -> None:
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts

    async def aclose(self) -> None:
        await self._parts.aclose()
