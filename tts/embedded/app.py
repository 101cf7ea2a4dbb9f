"""An ASGI app that serves one model to OpenAI clients, as vLLM does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from tts.embedded.engine import Engine
from tts.embedded.protocol import Refused, failure
from tts.embedded.service import Events, Service

log = logging.getLogger("tts")

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class App:
    """The routes of one engine. A client that goes away ends its computation."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.service = Service(engine)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
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

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        status, answer = 200, None
        try:
            answer = await self._route(scope["method"], scope["path"], body)
        except Refused as refused:
            status, answer = refused.status, refused.body
        except Exception as error:
            log.exception("%s failed", scope["path"])
            status, answer = 500, failure(error)
        if isinstance(answer, AsyncGenerator):
            await _stream(answer, send)
        elif isinstance(answer, str):
            await _whole(send, status, "text/plain; charset=utf-8", answer.encode())
        else:
            await _whole(send, status, "application/json", json.dumps(answer, separators=(",", ":")).encode())

    async def _route(self, method: str, path: str, body: bytes) -> Any:
        if method == "GET" and path == "/health":
            return ""
        if method == "GET" and path in self.service.gets:
            return self.service.gets[path]()
        if method == "POST" and path in self.service.posts:
            return await self.service.posts[path](body)
        known = path in self.service.posts or path in self.service.gets
        status, words = (405, "Method Not Allowed") if known else (404, "Not Found")
        raise Refused(words, status=status, kind="NotFoundError")


async def _lifespan(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _whole(send: Send, status: int, kind: str, body: bytes) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(events: Events, send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async with aclosing(events):
        async for event in events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
