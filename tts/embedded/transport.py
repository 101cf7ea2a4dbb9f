"""Requests to `embedded://NAME` reach the engine in this process: an httpx transport over its ASGI app.

httpx's own ASGI transport hands an answer over when it is complete. This one hands it over as it comes, and a
response that is closed ends the app's work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx

from tts.embedded.models import model_folder

App = Callable[[Any, Any, Any], Awaitable[None]]

BUFFERED = 16
"""Parts of an answer that wait to be read, at most."""


class EmbeddedTransport(httpx.AsyncBaseTransport):
    """Answers requests below one `embedded://` URL. The model is loaded by the first, in a thread."""

    def __init__(self, base_url: str) -> None:
        self._folder = model_folder(base_url)
        self._base = httpx.URL(base_url.removesuffix("/v1")).path.rstrip("/")
        self._loading: asyncio.Task[App] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The app's response, its body as it comes."""
        from tts.embedded.loading import load_app

        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(load_app, self._folder))
        return await respond(await asyncio.shield(self._loading), request, self._path(request.url.path))

    def _path(self, path: str) -> str:
        """Where the app has what lies below the base URL, be that with or without its /v1."""
        path = path.removeprefix(self._base)
        return "/v1" + path if path.startswith(("/models", "/chat/", "/completions")) else path


async def respond(app: App, request: httpx.Request, path: str) -> httpx.Response:
    """The response of an ASGI `app` to `request`, as soon as it begins."""
    exchange = _Exchange(await request.aread())
    headers = [(name.lower(), value) for name, value in request.headers.raw]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": path,
        "raw_path": path.encode(),
        "query_string": request.url.query,
        "root_path": "",
        "headers": headers,
    }
    exchange.task = asyncio.create_task(exchange.run(app, scope))
    try:
        start = await exchange.next()
    except BaseException:
        await exchange.aclose()
        raise
    assert start is not None
    return httpx.Response(start["status"], headers=start["headers"], stream=exchange)


class _Exchange(httpx.AsyncByteStream):
    """One request and its answer: what the app sends waits here until it is read."""

    task: asyncio.Task[None]

    def __init__(self, body: bytes) -> None:
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(BUFFERED)
        self._body: bytes | None = body
        self._never = asyncio.Event()
        self._error: Exception | None = None

    async def run(self, app: App, scope: dict[str, Any]) -> None:
        """Let the app answer; its end, or its error, is seen by `next`."""
        try:
            await app(scope, self._receive, self._messages.put)
        except Exception as error:
            self._error = error
        await self._messages.put(None)

    async def _receive(self) -> dict[str, Any]:
        if self._body is None:  # a client that leaves cancels the app
            await self._never.wait()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def next(self) -> dict[str, Any] | None:
        """The next message of the app; None at its end. Raises what the app raised."""
        message = await self._messages.get()
        if message is None and self._error is not None:
            raise self._error
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self.next()) is not None:
            if message["body"]:
                yield message["body"]

    async def aclose(self) -> None:
        """End the app's work, if it is not done."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
