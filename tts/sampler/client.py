"""JSON and streams over HTTP, whatever goes wrong turned into one of the library's errors."""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from itertools import count
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from multidict import CIMultiDict
from yarl import URL

from tts.concurrency import LARGE, aside, closing
from tts.errors import EndpointError, RequestRejected, TransientError
from tts.sampler import protocol, refusals
from tts.sampler.batches import BatchTransport
from tts.sampler.compression import inflater
from tts.sampler.endpoint import Endpoint, in_process, joined
from tts.sampler.limits import most_in_flight
from tts.sampler.providers import ProviderTransport
from tts.sampler.redaction import Redactor, secret_headers
from tts.sampler.sse import BYTE_ORDER_MARK, STEP, EventReader, ServerEvent
from tts.text import size_of, well_formed

T = TypeVar("T")

CHUNK = 1 << 14
"""Bytes of a body that are handed on at once, at most."""

KEPT = 4
"""Seconds for which idle connections are kept: servers drop them later (uvicorn: after 5), so that no request meets one
that is closing."""

LONGEST_ERROR = 1 << 16
"""Bytes that are read of the body of an error."""


class Origin:
    """The request from outside that calls are made for: they carry its id and trace context to the model server."""

    def __init__(self, id: str, trace: Mapping[str, str]) -> None:
        """`trace` has the headers of its trace context."""
        self.id: str = id
        self.trace: Mapping[str, str] = trace
        self._calls = count()

    def headers(self) -> dict[str, str]:
        """What the next call carries. Its id ends in a number after the first: servers want each id once."""
        number = next(self._calls)
        return {"x-request-id": f"{self.id}-{number}" if number else self.id, **self.trace}


ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)
"""What calls are made for; None: for this program itself."""


class Reply:
    """An answer whose head has come. Iterating gives its body as it arrives, uncompressed; close it in any case.

    Raises `TransientError` if the connection is lost, or the body compressed in a way that cannot be read.
    """

    __slots__ = ("_chunks", "_close", "_lost", "headers", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        chunks: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
        lost: Callable[[Exception], TransientError],
    ) -> None:
        self.status: int = status
        self.headers: Mapping[str, str] = headers
        encoding = headers.get("content-encoding")  # some servers compress unasked
        self._chunks = _inflated(chunks, encoding) if encoding else chunks
        self._close = close
        self._lost = lost

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except _LOST as error:
            lost = self._lost(error)
            raise lost from lost.__cause__

    async def aclose(self) -> None:
        """Free the connection for the next request."""
        async with closing(self._chunks):
            await self._close()


async def _inflated(chunks: AsyncIterator[bytes], encoding: str) -> AsyncGenerator[bytes, None]:
    inflate = inflater(encoding)
    async with closing(chunks):
        async for chunk in chunks:
            for piece in [chunk] if inflate is None else inflate(chunk):
                yield piece


class HttpClient:
    """JSON over HTTP, every failure turned into one of the library's errors.

    Whatever a server says passes through here: bodies are uncompressed, no larger than `max_answer_bytes`, and free of
    the endpoint's secrets. aiohttp carries the bytes; models in this process answer by httpx transports.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        model = in_process(endpoint.base_url)
        self._endpoint = endpoint
        network = endpoint.transport or (model(endpoint.base_url) if model else None)
        if endpoint.provider:
            network = ProviderTransport(network or _network(endpoint))
        if endpoint.batch:
            network = BatchTransport(network or _network(endpoint), endpoint.batch_folder)
        self._transport = network
        headers = {"user-agent": "ttscale", "content-type": "application/json", "accept-encoding": "identity"}
        self._headers = CIMultiDict(headers)
        self._headers.update(endpoint.headers)
        if key := endpoint.key():
            self._headers["authorization"] = f"Bearer {key}"
        self._query = {name: value.get_secret_value() for name, value in endpoint.query.items()}
        self._urls: dict[tuple[str, str], URL] = {}
        self._limit = endpoint.max_answer_bytes
        self.hide: Redactor = Redactor([key or "", *self._query.values(), *secret_headers(endpoint.headers)])
        """Replaces the endpoint's secrets."""
        self.has_secrets: bool = bool(self.hide)

    @functools.cached_property
    def _session(self) -> aiohttp.ClientSession:
        """The connections to the network, opened on first use."""
        endpoint = self._endpoint
        encrypted = any(url.startswith("https:") for url in endpoint.urls)
        connector = aiohttp.TCPConnector(
            limit=_connections(endpoint), ssl=_tls() if encrypted else False, keepalive_timeout=KEPT
        )
        return aiohttp.ClientSession(
            connector=connector,
            trust_env=any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in os.environ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(sock_connect=endpoint.connect_timeout),
        )

    async def aclose(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()
        if session := vars(self).pop("_session", None):
            await session.close()

    async def ready(self) -> None:
        """Wait for what is to be imported before the first request: that is no part of the time for its answer."""
        if isinstance(self._transport, ProviderTransport):
            await self._transport.loaded()

    async def json(
        self, base: str, path: str, body: Any = None, read: Callable[[Any], Any] | None = None, name: str = ""
    ) -> Any:
        """What `read` makes of the JSON answer to a POST of `body`, which may be written already, or to a GET.

        `path` is below the URL `base`: `/models`, or `/../tokenize` for what is beside its `/v1`. A batch files the
        answer under `name`. Raises an `EndpointError` of the right kind for error statuses, lost connections and
        unreadable answers.
        """
        method, content = ("GET", b"") if body is None else ("POST", await _written(body))
        return await self._read(await self.send(method, base, path, content, name), base, path, read)

    async def _read(
        self,
        arriving: Reply | AsyncGenerator[bytes, None],
        base: str,
        path: str,
        read: Callable[[Any], Any] | None = None,
    ) -> Any:
        data = await _collected(arriving, self._limit)

        def work() -> Any:
            protocol.check_values(data, self._limit)
            text = protocol.decoded(data)  # first: no secret is then written in the bytes of another encoding
            text = self.hide(text) if self.has_secrets else text
            try:
                answer = protocol.json_of(text)
            except ValueError as error:
                url = joined(base, path)
                raise TransientError(f"unreadable answer from {url}: {text[:100]!r} ({error})") from error
            return answer if read is None else read(answer)

        return await aside(len(data), work)

    async def fetch(self, url: str) -> bytes:
        """The file at a URL that the server gave. The URL may be anyone's, so the key is not sent."""
        with suppress(ValueError):
            place = URL(url)
            if place.scheme in ("http", "https", "mock"):
                headers = CIMultiDict({"user-agent": "ttscale"})
                return await _collected(await self._send("GET", place, b"", headers, url), self._limit)
        raise TransientError(f"the server gave '{url[:100]}' where an image should be")

    @asynccontextmanager
    async def stream(
        self, base: str, path: str, body: Any, read: Callable[[Mapping[str, Any]], T] = dict
    ) -> AsyncIterator[AsyncIterator[T] | Mapping[str, Any]]:
        """What `read` makes of the events of a streamed answer to a POST; leaving early closes the connection.

        A server that does not stream answers in one piece, which is then given instead, as it is.
        """
        response = await self.send("POST", base, path, await _written(body))
        async with aclosing(response) as arriving:
            head, blank = b"", 0
            async for part in arriving:  # a stream begins with a field or a comment, JSON with a bracket
                head += part.removeprefix(BYTE_ORDER_MARK).lstrip()
                blank += len(part)
                if head or blank > self._limit:
                    break
            if head.startswith((b"{", b"[")):
                answer = await self._read(_after(head, arriving), base, path)
                if not isinstance(answer, Mapping):
                    raise TransientError(f"unreadable answer from {joined(base, path)}: it is a list")
                yield answer
            else:
                async with aclosing(self._events(_after(head, arriving), read)) as events:
                    yield events

    async def _events(
        self, arriving: AsyncIterator[bytes], read: Callable[[Mapping[str, Any]], T]
    ) -> AsyncGenerator[T, None]:
        """What the events say until `[DONE]`; raises `TransientError` if the stream ends without it."""
        reader = self.reader()

        def said(event: ServerEvent) -> list[T]:
            protocol.check_values(event.data or b"", self._limit)
            table = protocol.event_of(event)
            return [] if table is None else [read(table)]

        since = 0
        async for part in arriving:
            events = reader.feed(part)
            try:
                for event in events:
                    if event.data is not None and event.data.strip() == b"[DONE]":
                        return
                    for one in await aside(len(event.raw), said, event):
                        yield one
                    since += len(event.raw)
                    if since > STEP:
                        since = 0
                        await asyncio.sleep(0)
            except (GeneratorExit, asyncio.CancelledError):
                with suppress(EndpointError):
                    for event in events:  # what had come by then was paid for too
                        said(event)
                raise
        last = reader.rest()
        if last.data is not None and last.data.strip() == b"[DONE]":
            return
        with suppress(TransientError):  # it was cut off
            for one in await aside(len(last.raw), said, last):
                yield one
        raise TransientError("the stream ended before it was complete")

    def reader(self) -> EventReader:
        """For the events in the `parts` of a streamed answer."""
        return EventReader(self._limit, self.hide)

    async def body(self, response: Reply) -> bytes:
        """The whole body. Raises `RequestRejected` if it is larger than `max_answer_bytes`."""
        data = await _collected(response, self._limit)
        return await aside(len(data), self._without_secrets, data)

    def _without_secrets(self, data: bytes) -> bytes:
        """`data` as it came, where it has none: else in UTF-8."""
        if self.has_secrets and data[:4].translate(None, b"\0\xff\xfe") != data[:4]:  # UTF-16 or UTF-32
            text = protocol.decoded(data)
            return data if (hidden := self.hide(text)) == text else hidden.encode()
        return self.hide(data)

    def _lost(self, url: str, error: Exception) -> TransientError:
        words = self.hide.error(_in_the_systems_words(error) or str(error) or type(error).__name__)
        lost = TransientError(f"connection to {url} failed: {words}. Is the server running there?")
        lost.__cause__ = error if self.hide.error(str(error)) == str(error) else None  # it may tell a secret
        return lost

    async def send(self, method: str, base: str, path: str, content: bytes, name: str = "") -> Reply:
        """An answer with a good status. A batch files it under `name`.

        Raises an `EndpointError` of the right kind, with status and body, for any other.
        """
        place = self._urls.get((base, path))
        if place is None:
            url = URL(joined(base, path))
            place = self._urls[base, path] = url.update_query(self._query) if self._query else url
        headers = self._headers
        if method == "POST" and (origin := ORIGIN.get()) is not None:  # the rest looks after the server
            headers = CIMultiDict({**origin.headers(), **headers})
        return await self._send(method, place, content, headers, base, path, name)

    async def _send(
        self,
        method: str,
        place: URL,
        content: bytes,
        headers: CIMultiDict[str],
        base: str,
        path: str = "",
        name: str = "",
    ) -> Reply:
        """`base` and `path` are what errors say of where the request went: they have no secrets."""

        def lost(error: Exception) -> TransientError:
            return self._lost(joined(base, path), error)

        try:
            if self._transport is None:
                came = await self._session.request(
                    method, place, data=content or None, headers=headers, allow_redirects=False
                )
                shown = self._shown(came.headers)
                reply = Reply(came.status, shown, came.content.iter_chunked(CHUNK), partial(_release, came), lost)
            else:
                timeout = httpx.Timeout(None, connect=self._endpoint.connect_timeout).as_dict()
                more = {"timeout": timeout, **({"name": name} if name else {})}
                url = _url(str(place))
                request = httpx.Request(method, url, content=content, headers=dict(headers), extensions=more)
                response = await self._transport.handle_async_request(request)
                stream = response.stream
                assert isinstance(stream, httpx.AsyncByteStream)
                shown = self._shown(CIMultiDict(response.headers.multi_items()))
                reply = Reply(response.status_code, shown, aiter(stream), stream.aclose, lost)
        except (*_LOST, ValueError) as error:  # ValueError: a header or URL that cannot be sent
            failure = lost(error)
            raise failure from failure.__cause__
        if reply.status >= 300:
            body = await _collected(reply, LONGEST_ERROR, cut=True)
            words = self.hide.error(protocol.decoded(body))
            told = {name.lower(): well_formed(value) for name, value in reply.headers.items()}
            raise refusals.error_of(reply.status, told, words, joined(base, path), self._endpoint.key_place)
        return reply

    def _shown(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        if not self.has_secrets:
            return headers
        return CIMultiDict((name, self.hide(value)) for name, value in headers.items())


async def _release(response: aiohttp.ClientResponse) -> None:
    response.release()
    await response.wait_for_close()


async def _written(body: Any) -> bytes:
    return body if isinstance(body, bytes) else await aside(size_of(body, LARGE, 16), protocol.bytes_of, body)


async def _collected(arriving: Reply | AsyncGenerator[bytes, None], limit: int, *, cut: bool = False) -> bytes:
    """The whole body. One of more than `limit` bytes is `cut`, or raises `RequestRejected` once that is seen."""
    data = bytearray()
    async with aclosing(arriving):
        async for part in arriving:
            if len(data) + len(part) > limit:
                if cut:
                    return bytes(data + part[: limit - len(data)])
                raise RequestRejected(f"the answer has more than {limit:,} bytes (max_answer_bytes)")
            data += part
    return bytes(data)


async def _after(head: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield head
    async for part in rest:
        yield part


_LOST = (aiohttp.ClientError, OSError, httpx.TransportError)


_url = functools.lru_cache(64)(httpx.URL)


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _connections(endpoint: Endpoint) -> int:
    return most_in_flight(endpoint) * len(endpoint.urls) + 16


def _network(endpoint: Endpoint) -> httpx.AsyncHTTPTransport:
    """What carries requests that are translated before they are sent; else they go by `HttpClient._session`."""
    url = urlsplit(endpoint.base_url)
    proxy = None if proxy_bypass(url.hostname or "") else getproxies().get("http" if url.scheme == "http" else "https")
    limits = httpx.Limits(max_connections=_connections(endpoint), keepalive_expiry=KEPT)
    return httpx.AsyncHTTPTransport(verify=_tls(), limits=limits, proxy=proxy)


def _in_the_systems_words(error: BaseException | None) -> str:
    """`Connection refused` and the like, if `error` comes down to such a failure; else empty."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None and not error.__cause__:
            ours = error.errno > 0 and not isinstance(error, ssl.SSLError)  # whose numbers are not the system's
            return os.strerror(error.errno) if ours else error.strerror or ""
        error = error.__cause__ or error.__context__
    return ""
