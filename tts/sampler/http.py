"""One HTTP exchange with a model server, its failures turned into the library's errors."""

from __future__ import annotations

import functools
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from httpx_aiohttp import AiohttpTransport

from tts.errors import TransientError
from tts.sampler import wire
from tts.sampler.endpoint import Endpoint


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class Connection:
    """The HTTP client of one endpoint. aiohttp carries the bytes: it costs a fraction of httpx's own transport."""

    def __init__(self, endpoint: Endpoint) -> None:
        encrypted = any(url.startswith("https:") for url in endpoint.base_url)
        most = endpoint.max_concurrency * len(endpoint.base_url) + 16
        self._client = httpx.AsyncClient(
            transport=endpoint.transport
            or AiohttpTransport(
                verify=_tls() if encrypted else False,
                limits=httpx.Limits(max_connections=most, max_keepalive_connections=most),
            ),
            timeout=httpx.Timeout(None, connect=endpoint.connect_timeout),  # attempts are timed as a whole
            headers={"user-agent": "ttscale", "content-type": "application/json", **endpoint.headers},
        )
        if key := endpoint.key():
            self._client.headers["authorization"] = f"Bearer {key}"

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def get(self, url: str) -> Any:
        """The JSON answer to a GET."""
        return await self._json("GET", url, b"")

    async def post(self, url: str, body: Any) -> Any:
        """The JSON answer to a POST of `body`.

        Raises an `EndpointError` of the right kind for error statuses, lost connections and unreadable answers.
        """
        return await self._json("POST", url, json.dumps(body).encode())

    async def _json(self, method: str, url: str, content: bytes) -> Any:
        async with self._exchange(method, url, content) as response:
            data = await response.aread()
        try:
            return json.loads(data)
        except ValueError as error:
            raise TransientError(f"unreadable answer from {url}: {data[:100]!r}") from error

    @asynccontextmanager
    async def stream(self, url: str, body: Any) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The events of a streamed answer to a POST; leaving early closes the connection."""
        async with self._exchange("POST", url, json.dumps(body).encode()) as response:
            yield wire.events(response)

    @asynccontextmanager
    async def _exchange(self, method: str, url: str, content: bytes) -> AsyncIterator[httpx.Response]:
        try:
            async with self._client.stream(method, url, content=content) as response:
                if response.status_code >= 400:
                    raise wire.error_of(response, await response.aread())
                yield response
        except httpx.TransportError as error:
            words = str(error) or type(error).__name__
            raise TransientError(f"connection to {url} failed: {words}. Is the server running there?") from error
