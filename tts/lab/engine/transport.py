"""The two ways to a service: an httpx transport without a port for `embedded://NAME`, and an ASGI app for a server.

Responses are passed on as they come, and a response that is closed, or whose client goes away, ends its computation.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import httpx

from tts.lab.engine.models import fingerprint, model_folder

if TYPE_CHECKING:  # the engine is imported when it is needed
    from tts.lab.engine.routes import Parts, Service

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class EmbeddedTransport(httpx.AsyncBaseTransport):
    """Answers requests below one `embedded://` URL. The first request loads the model, in a thread."""

    fingerprint = staticmethod(fingerprint)

    def __init__(self, base_url: str) -> None:
        self._folder = model_folder(base_url)
        self._base = httpx.URL(base_url.removesuffix("/v1")).path.rstrip("/")
        self._loading: asyncio.Task[Service] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        from tts.lab.engine.routes import load_service

        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(load_service, self._folder))
        return await respond(await asyncio.shield(self._loading), request, self._path(request.url.path))

    def _path(self, path: str) -> str:
        """The service's path for what lies below the base URL, whether that has its /v1 or not."""
        path = path.removeprefix(self._base)
        return "/v1" + path if path.startswith(("/models", "/chat/", "/completions")) else path


async def respond(service: Service, request: httpx.Request, path: str) -> httpx.Response:
    """The response of `service` to `request`, as soon as it starts."""
    reply = await service.answer(request.method, path, await request.aread())
    return httpx.Response(reply.status, headers={"content-type": reply.kind}, stream=_Stream(reply.parts))


class _Stream(httpx.AsyncByteStream):
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts

    async def aclose(self) -> None:
        await self._parts.aclose()


class ServiceApp:
    """An ASGI app that serves one model over HTTP, as vLLM does."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"  # the server takes the error to mean that there is nothing to start up
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        answering = asyncio.create_task(self._answer(scope, body, send))
        leaving = asyncio.create_task(_disconnect(receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
        if not answering.cancelled():
            answering.result()

    async def _answer(self, scope: dict[str, Any], body: bytes, send: Send) -> None:
        reply = await self.service.answer(scope["method"], scope["path"], body)
        headers = [(b"content-type", reply.kind.encode())]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        async with aclosing(reply.parts) as parts:
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
