"""How a request reaches a model: a function from a `Request` to a `Reply`. The network is one, a model in this process
another."""

from __future__ import annotations

import functools
import json
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from yarl import URL

from tts.sampler.compression import Inflate, inflater, unchanged

CHUNK = 1 << 14
"""Bytes of a body that are handed on at once, at most."""

KEPT = 4
"""Seconds for which idle connections are kept: servers drop them later (uvicorn: after 5), so that no request meets one
that is closing."""

LOST = (aiohttp.ClientError, OSError)
"""What a transport raises, at once or while its reply is read, where no answer comes: another attempt may help."""


@dataclass(slots=True)
class Request:
    """What a transport is asked."""

    method: str
    url: URL
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    name: str = ""
    """What a batch files the answer under; empty if it does not matter."""

    def json(self) -> Any:
        """What the content says. Raises `ValueError` if that is no JSON."""
        return json.loads(self.content)


class Reply:
    """An answer whose head has come. Iterating gives its body as it arrives, uncompressed; close it in any case.

    Iterating raises what `lost` makes of it if the connection is lost, `TransientError` if the body cannot be read.
    """

    __slots__ = ("_chunks", "_close", "_inflate", "_pieces", "headers", "lost", "status")

    def __init__(
        self,
        status: int,
        chunks: AsyncIterator[bytes],
        headers: Mapping[str, str],
        close: Callable[[], Awaitable[object]],
    ) -> None:
        """`headers` have names in small letters, or finds them in any; `close` ends the answer, read or not."""
        self.status: int = status
        self.headers: Mapping[str, str] = headers
        self.lost: Callable[[Exception], Exception] = _itself
        self._chunks, self._close = chunks, close
        self._inflate: Inflate | None = None
        self._pieces: Iterator[bytes] = iter(())

    @classmethod
    def whole(cls, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> Self:
        """One that is all there; in JSON if no `headers` say otherwise."""
        chunks = _one(content)
        return cls(status, chunks, headers or {"content-type": "application/json"}, chunks.aclose)

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> Self:
        """One that says `value`."""
        return cls.whole(status, json.dumps(value).encode(), {"content-type": "application/json", **headers})

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while (piece := next(self._pieces, None)) is None:
            try:
                chunk = await anext(self._chunks)
            except LOST as error:
                lost = self.lost(error)
                raise lost from lost.__cause__
            if self._inflate is None:  # some servers compress unasked
                encoding = self.headers.get("content-encoding")
                self._inflate = inflater(encoding) if encoding else unchanged
            self._pieces = self._inflate(chunk)
        return piece

    async def read(self) -> bytes:
        """The whole body, however large."""
        try:
            return b"".join([part async for part in self])
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """End the answer: its computation, or its use of a connection."""
        await self._close()


Transport = Callable[[Request], Awaitable[Reply]]
"""Raises one of `LOST` where there is no answer, as `ConnectionError`."""


class Network:
    """HTTP, by aiohttp; connections are opened on first use, and belong to one event loop."""

    def __init__(self, connections: int = 0, connect_timeout: float = 10.0, *, proxies: bool = False) -> None:
        """`connections` are the most at once (0: any number), `proxies` goes by those of the environment."""
        self._connections, self._connect_timeout, self._proxies = connections, connect_timeout, proxies

    @functools.cached_property
    def _session(self) -> aiohttp.ClientSession:
        named = any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=KEPT),
            trust_env=self._proxies and named,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(sock_connect=self._connect_timeout),
        )

    async def __call__(self, request: Request) -> Reply:
        came = await self._session.request(
            request.method,
            request.url,
            data=request.content or None,
            headers=request.headers,
            allow_redirects=False,
            ssl=_authorities() if request.url.scheme == "https" else True,
        )

        async def close() -> None:
            came.release()
            await came.wait_for_close()

        return Reply(came.status, came.content.iter_chunked(CHUNK), came.headers, close)

    async def aclose(self) -> None:
        """Close all connections."""
        if session := vars(self).pop("_session", None):
            await session.close()


@functools.cache
def _authorities() -> ssl.SSLContext:
    """Who is trusted: the system's authorities, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`; read once, in 20 ms."""
    return ssl.create_default_context()


def _itself(error: Exception) -> Exception:
    return error


async def _one(content: bytes) -> AsyncGenerator[bytes, None]:
    if content:
        yield content
