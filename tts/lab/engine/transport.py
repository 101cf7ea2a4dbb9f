"""The two ways to a service: a transport without a port for `embedded://NAME`, and an ASGI app for a server.

Responses are passed on as they come, and a response that is closed, or whose client goes away, ends its computation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from yarl import URL

from tts.lab.engine.models import GGUF, fingerprint, model_name, model_place
from tts.sampler.transport import Network, Reply, Request

if TYPE_CHECKING:  # the engine is imported when it is needed
    from tts.lab.engine.gguf import RunningServer
    from tts.lab.engine.routes import Service

Handler = Callable[[Request, str], Awaitable[Reply]]
"""What answers a request, given the path below the server."""
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class EmbeddedTransport:
    """Answers requests below one `embedded://` URL. The first request loads the model, in a thread.

    The engine in numpy computes model folders, llama.cpp GGUF files.
    """

    fingerprint: Callable[[str], str] = staticmethod(fingerprint)

    def __init__(self, base_url: str) -> None:
        self._place = model_place(base_url)
        self.name: str = model_name(base_url)
        self._base = URL(base_url.removesuffix("/v1")).path.rstrip("/")
        self._loading: asyncio.Task[Handler] | None = None
        self._network = Network()
        if self._place.suffix == GGUF:
            from tts.lab.engine.gguf import check_extra

            check_extra()

    async def __call__(self, request: Request) -> Reply:
        if self._loading is None:
            self._loading = asyncio.create_task(self._handler())
        handle = await asyncio.shield(self._loading)
        return await handle(request, self._path(request.url.path))

    async def aclose(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self._network.aclose()

    def load(self) -> Service | RunningServer:
        """The model, loaded once in this process, which may take seconds. Raises `ConfigError` if it cannot run."""
        if self._place.suffix == GGUF:
            from tts.lab.engine.gguf import load_server

            return load_server(self._place, self.name)
        from tts.lab.engine.routes import load_service

        return load_service(self._place)

    async def _handler(self) -> Handler:
        from tts.lab.engine.routes import Service

        model = await asyncio.to_thread(self.load)
        if isinstance(model, Service):
            return partial(respond, model)
        return lambda request, path: self._network(model.request(request, path))

    def _path(self, path: str) -> str:
        """The service's path for what lies below the base URL, whether that has its /v1 or not."""
        path = path.removeprefix(self._base)
        return "/v1" + path if path.startswith(("/models", "/chat/", "/completions")) else path


async def respond(service: Service, request: Request, path: str) -> Reply:
    """The answer of `service` to `request`, as soon as it starts."""
    reply = await service.answer(request.method, path, request.content)
    return Reply(reply.status, reply.parts, {"content-type": reply.kind}, reply.parts.aclose)


class EmbeddedApp:
    """An ASGI app that serves one embedded model over HTTP."""

    def __init__(self, transport: EmbeddedTransport) -> None:
        self.transport = transport

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
        url = URL.build(scheme="embedded", host="model", path=scope["path"])
        reply = await self.transport(Request(scope["method"], url, {}, body))
        headers = [(b"content-type", reply.headers.get("content-type", "application/json").encode())]
        async with aclosing(reply) as parts:
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
