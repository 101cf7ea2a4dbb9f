"""One HTTP exchange as ASGI has it: the body within limits, the answer, and the client that may leave at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from tts.gateway.errors import Refused
from tts.gateway.settings import Limits

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Left(Exception):
    """The client went away."""


class Out:
    """The way back to the client."""

    def __init__(self, send: Send, headers: Headers) -> None:
        self._send, self.headers = send, list(headers)
        self.status: int | None = None
        """The status that was sent; None before the answer begins."""
        self.ended = False
        self.left = False
        """Whether the client went away before the end."""

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the status line and headers."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.headers]})

    async def write(self, data: bytes) -> None:
        """Send a part of the body; it waits while the client is slow to read."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last part."""
        self.ended = True  # first: the server reports the client as gone once the answer is complete
        await self._send({"type": "http.response.body", "body": data})

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send an answer in one piece."""
        await self.begin(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self.end(body)


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a request's header, by its name in lower case."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """The request's body. Raises `Refused` where it is too large (413) or too slow (408), `Left`."""
    too_large = Refused(413, f"a request has at most {limits.body_bytes} bytes here", "request_too_large")
    length = header(scope, b"content-length")
    if length is not None and length.isdigit() and int(length) > limits.body_bytes:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Left
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limits.body_bytes:
                    raise too_large
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise Refused(408, f"the request did not arrive within {limits.body_seconds:g} s", "request_timeout") from None


@asynccontextmanager
async def while_present(receive: Receive, out: Out) -> AsyncIterator[None]:
    """What is done inside is cancelled, and `Left` raised, when the client goes away before its answer has ended."""
    work = asyncio.current_task()
    assert work is not None

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not out.ended:
            out.left = True
            work.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if out.left and not work.uncancel():
            raise Left from None
        raise
    finally:
        out.ended = True
        watching.cancel()
