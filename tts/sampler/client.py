"""JSON and streams over HTTP, whatever goes wrong turned into one of the library's errors."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from itertools import count
from typing import Any, TypeVar

from multidict import CIMultiDict
from yarl import URL

from tts.concurrency import LARGE, aside
from tts.errors import EndpointError, RequestRejected, TransientError, causes
from tts.sampler import protocol, refusals
from tts.sampler.batches import BatchTransport
from tts.sampler.endpoint import Endpoint, in_process, joined
from tts.sampler.providers import ProviderTransport
from tts.sampler.redaction import Redactor, secret_headers
from tts.sampler.sse import BYTE_ORDER_MARK, STEP, EventReader, ServerEvent
from tts.sampler.transport import LOST, Network, Reply, Request, Transport
from tts.text import size_of, well_formed

T = TypeVar("T")

UNREACHED = "Is the server running there?"
UNTRUSTED = "Name a file with the server's authority in SSL_CERT_FILE, or install the system's (ca-certificates)."

LONGEST_ERROR = 1 << 16
"""Bytes that are read of the body of an error."""


class Origin:
    """The request from outside that calls are made for: they carry its id and trace context to the model server."""

    def __init__(self, id: str, trace: Mapping[str, str], sent: str = "") -> None:
        """`trace` has the headers of its trace context; `sent` is what calls carry in place of its id."""
        self.id: str = id
        self._sent = sent or id
        self.trace: Mapping[str, str] = trace
        self._calls = count()

    def headers(self) -> dict[str, str]:
        """What the next call carries. Its id ends in a number after the first: servers want each id once."""
        number = next(self._calls)
        return {"x-request-id": f"{self._sent}-{number}" if number else self._sent, **self.trace}


ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)
"""What calls are made for; None: for this program itself."""


class HttpClient:
    """JSON over HTTP, every failure turned into one of the library's errors.

    Whatever a server says passes through here: bodies are uncompressed, no larger than `max_answer_bytes`, and free of
    the endpoint's secrets.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._opened = AsyncExitStack()
        network = endpoint.transport
        if network is None:
            model = in_process(endpoint.base_url)
            connections = endpoint.most_in_flight * len(endpoint.urls) + 16
            network = self._own(
                model(endpoint.base_url) if model else Network(connections, endpoint.connect_timeout, proxies=True)
            )
        if endpoint.provider:
            network = self._own(ProviderTransport(network))
        if endpoint.batch:
            network = self._own(BatchTransport(network, endpoint.batch_folder))
        self._transport: Transport = network
        headers = {"user-agent": "ttscale", "content-type": "application/json", "accept-encoding": "identity"}
        self._headers = CIMultiDict(headers)
        self._headers.update(endpoint.headers)
        if key := endpoint.key():
            self._headers["authorization"] = f"Bearer {key}"
        self._query = {name: value.get_secret_value() for name, value in endpoint.query.items()}
        self._places: dict[tuple[str, str], tuple[URL, str]] = {}
        self._limit = endpoint.max_answer_bytes
        self.hide: Redactor = Redactor([key or "", *self._query.values(), *secret_headers(endpoint.headers)])
        """Replaces the endpoint's secrets."""
        self.has_secrets: bool = bool(self.hide)

    def _own(self, transport: Any) -> Transport:
        """`transport`, which is closed with this."""
        self._opened.push_async_callback(transport.aclose)
        return transport

    async def aclose(self) -> None:
        await self._opened.aclose()

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
                return await _collected(await self._send(Request("GET", place, headers), url), self._limit)
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
        stranger = isinstance(error, ssl.SSLCertVerificationError)
        lost = TransientError(f"connection to {url} failed: {words}. {UNTRUSTED if stranger else UNREACHED}")
        lost.__cause__ = error if self.hide.error(str(error)) == str(error) else None  # it may tell a secret
        return lost

    async def send(self, method: str, base: str, path: str, content: bytes, name: str = "") -> Reply:
        """An answer with a good status. A batch files it under `name`.

        Raises an `EndpointError` of the right kind, with status and body, for any other.
        """
        known = self._places.get((base, path))
        if known is None:
            url = joined(base, path)
            place = URL(url).update_query(self._query) if self._query else URL(url)
            known = self._places[base, path] = (place, url)
        headers = self._headers
        if method == "POST" and (origin := ORIGIN.get()) is not None:  # the rest looks after the server
            headers = CIMultiDict({**origin.headers(), **headers})
        return await self._send(Request(method, known[0], headers, content, name), known[1])

    async def _send(self, request: Request, url: str) -> Reply:
        """`url` is what errors say of where the request went: it has no secrets."""
        try:
            reply = await self._transport(request)
        except (*LOST, ValueError) as error:  # ValueError: a header or URL that cannot be sent
            failure = self._lost(url, error)
            raise failure from failure.__cause__
        reply.headers, reply.lost = self._shown(reply.headers), partial(self._lost, url)
        if reply.status >= 300:
            body = await _collected(reply, LONGEST_ERROR, cut=True)
            words = self.hide.error(protocol.decoded(body))
            told = {name.lower(): well_formed(value) for name, value in reply.headers.items()}
            raise refusals.error_of(reply.status, told, words, url, self._endpoint.key_place)
        return reply

    def _shown(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        if not self.has_secrets:
            return headers
        return CIMultiDict((name, self.hide(value)) for name, value in headers.items())


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


async def _after(head: bytes, rest: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    yield head
    async for part in rest:
        yield part


def out_of_files(error: BaseException) -> bool:
    """Whether an attempt failed because this process has too many files open."""
    return any(isinstance(one, OSError) and one.errno in (errno.EMFILE, errno.ENFILE) for one in causes(error))


def _in_the_systems_words(error: Exception) -> str:
    """`Connection refused` and the like, if `error` comes down to such a failure; else empty."""
    for one in causes(error, contexts=True):
        if isinstance(one, OSError) and one.errno is not None and not one.__cause__:
            ours = one.errno > 0 and not isinstance(one, ssl.SSLError)  # whose numbers are not the system's
            return os.strerror(one.errno) if ours else one.strerror or ""
    return ""
