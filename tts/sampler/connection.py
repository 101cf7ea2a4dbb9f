"""One HTTP exchange with a model server, its failures turned into the library's errors."""

from __future__ import annotations

import functools
import json
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from tts.errors import TransientError
from tts.sampler import protocol
from tts.sampler.endpoint import Endpoint


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class Connection:
    """The HTTP side of one endpoint.

    Requests go straight to an httpx transport: a client's cookies, redirects and authentication flows have no use
    here and cost as much CPU as the rest of a request. aiohttp carries the bytes.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._transport = endpoint.transport or (_in_process if endpoint.embedded else _network)(endpoint)
        headers = {"user-agent": "ttscale", "content-type": "application/json", "accept-encoding": "identity"}
        self._headers = httpx.Headers(headers | endpoint.headers)
        self._key = (endpoint.key() or "").encode()
        if self._key:
            self._headers["authorization"] = f"Bearer {self._key.decode()}"
        self._extensions = {"timeout": httpx.Timeout(None, connect=endpoint.connect_timeout).as_dict()}
        self._urls: dict[str, httpx.URL] = {}

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def get(self, url: str) -> Any:
        """The JSON answer to a GET."""
        return await self._json("GET", url, b"")

    async def post(self, url: str, body: Any) -> Any:
        """The JSON answer to a POST of `body`.

        Raises an `EndpointError` of the right kind for error statuses, lost connections and unreadable answers.
        """
        return await self._json("POST", url, json.dumps(body).encode())

    async def fetch(self, url: str) -> bytes:
        """The file at a URL that the server gave, which may be anyone's: it is not shown the key."""
        request = httpx.Request("GET", url, headers={"user-agent": "ttscale"}, extensions=self._extensions)
        if request.url.scheme not in ("http", "https", "mock"):
            raise TransientError(f"the server gave '{url[:100]}' where a picture should be")
        return await _body(await self._answered(request))

    async def _json(self, method: str, url: str, content: bytes) -> Any:
        response = await self.send(method, url, content)
        data = await _body(response)
        try:
            return json.loads(data)
        except ValueError as error:
            raise TransientError(f"unreadable answer from {url}: {data[:100]!r}") from error

    @asynccontextmanager
    async def stream(self, url: str, body: Any) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The events of a streamed answer to a POST; leaving early closes the connection."""
        response = await self.send("POST", url, json.dumps(body).encode())
        try:
            yield protocol.events(response)
        except _LOST as error:
            raise _lost(url, error) from error
        finally:
            await response.aclose()

    async def send(self, method: str, url: str, content: bytes) -> httpx.Response:
        """A response whose body is still to be read, if its status is good; close it in any case.

        Raises an `EndpointError` of the right kind, which has the status and the body, if it is not.
        """
        place = self._urls.get(url) or self._urls.setdefault(url, httpx.URL(url))
        request = httpx.Request(method, place, headers=self._headers, content=content, extensions=self._extensions)
        return await self._answered(request)

    async def _answered(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await self._transport.handle_async_request(request)
        except _LOST as error:
            raise _lost(str(request.url), error) from error
        response.request = request
        if response.status_code >= 300:
            body = await _body(response)
            if self._key:  # some servers repeat it in their complaint
                body = body.replace(self._key, b"[API key]")
            raise protocol.error_of(response, body)
        return response


async def chunks(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body as sent (it is asked for without compression), as it comes; at the end, however that comes about, the
    connection is free for the next request. Raises `TransientError` when it is lost."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        async for chunk in response.stream:
            yield chunk
    except _LOST as error:
        raise _lost(str(response.request.url), error) from error
    finally:
        await response.stream.aclose()


async def _body(response: httpx.Response) -> bytes:
    return b"".join([chunk async for chunk in chunks(response)])


_LOST = (httpx.TransportError, aiohttp.ClientError, OSError)  # the transport translates most of aiohttp's errors


def _lost(url: str, error: Exception) -> TransientError:
    words = str(error) or type(error).__name__
    return TransientError(f"connection to {url} failed: {words}. Is the server running there?")


def _in_process(endpoint: Endpoint) -> httpx.AsyncBaseTransport:
    from tts.lab.engine.transport import EmbeddedTransport

    return EmbeddedTransport(endpoint.urls[0])


def _network(endpoint: Endpoint) -> AiohttpTransport:
    encrypted = any(url.startswith("https:") for url in endpoint.urls)
    most = endpoint.max_concurrency * len(endpoint.urls) + 16
    proxied = any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ)

    def session() -> aiohttp.ClientSession:
        # Idle connections are dropped before the server does it (uvicorn: after 5 s), or a request might meet that end.
        connector = aiohttp.TCPConnector(limit=most, ssl=_tls() if encrypted else False, keepalive_timeout=4)
        return aiohttp.ClientSession(connector=connector, trust_env=proxied, cookie_jar=aiohttp.DummyCookieJar())

    return AiohttpTransport(verify=False, client=session)
