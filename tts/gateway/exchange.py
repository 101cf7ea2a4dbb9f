"""Responses: whole or streamed, and errors in the form of the API that was asked."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tts.errors import BudgetSpent, ConfigError, EndpointError, MissingExtra, StoreError, TimedOut, UnreadableKey
from tts.sampler.protocol import json_of
from tts.sampler.refusals import server_message

Kind = Literal[
    "chat/completions",
    "completions",
    "responses",
    "messages",
    "messages/count_tokens",
    "embeddings",
    "score",
    "rerank",
    "tokenize",
    "detokenize",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
PASSED: dict[Kind, tuple[str, ...]] = {
    "embeddings": ("/embeddings",),
    "score": ("/score", "/../score"),
    "rerank": ("/rerank", "/../rerank"),
    "tokenize": ("/../tokenize", "/tokenize"),
    "detokenize": ("/../detokenize", "/detokenize"),
}
"""Where model servers have what is only passed through, below their base URL or beside its `/v1`."""
SPOKEN: tuple[Kind, ...] = ("chat/completions", "completions", "responses", "messages")
"""What models answer by generating."""
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]

UNSENDABLE = re.compile(rb"[^ -~]")
"""What no header may hold: a client's words in one would end it, and the response with it."""
LONGEST_HEADER = 1024

ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}

ANTHROPIC_TYPES = {
    **ERROR_TYPES,
    413: "request_too_large",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
OVERLOADED = 529
"""What Anthropic's clients are told where others get 503."""

NOT_WORTH_A_RETRY = frozenset(
    {
        *("budget_spent", "deadline", "insufficient_quota", "no_answer", "no_candidate"),
        *("unverified", "upstream_timeout"),
    }
)
"""Codes of errors after which the same request would cost as much again and end in the same way. Clients of OpenAI's
try again by themselves, twice, unless the header `x-should-retry` says no."""


@dataclass(eq=False)
class APIError(Exception):
    """Ends a request with an error response."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    """Further fields of the body, beside `error`."""
    original: bytes | None = None
    """The model server's own body, passed on unchanged."""

    def body(self, kind: Kind) -> bytes:
        """The body of the response to a request of this kind."""
        if is_anthropic(kind):
            return json.dumps(self._anthropic).encode()
        if self.original is not None:
            return self.original
        return json.dumps({"error": self.told, **self.details}).encode()

    def status_for(self, kind: Kind) -> int:
        """The status of that response."""
        overloaded = self.status == 503 or self.code == "overloaded"
        return OVERLOADED if overloaded and is_anthropic(kind) else self.status

    @property
    def _anthropic(self) -> dict[str, Any]:
        """The error in Anthropic's form, which has no field for the parameter at fault."""
        status, told = self.status_for("messages"), self.told
        kind = ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
        message, param = told["message"], told["param"]
        named = message if not param or str(param) in message else f"{param}: {message}"
        return {"type": "error", "error": {"type": kind, "message": named}, **self.details}

    def event(self, kind: Kind, number: int) -> bytes:
        """The same inside a stream that has begun, after `number` events.

        Responses have an event of the type `error`: its fields stand both at its top, where OpenAI documents them, and
        below `error`, where it sends them and clients look for them.
        """
        error = self.told
        if is_anthropic(kind):
            return b"event: error\ndata: " + self.body(kind) + b"\n\n"
        if kind != "responses":
            return f"data: {json.dumps({'error': error, **self.details})}\n\n".encode()
        error |= {"code": str(error["code"] or error["type"])}
        event = {
            "type": "error",
            "sequence_number": number,
            **{key: error[key] for key in ("code", "message", "param")},
        }
        return f"event: error\ndata: {json.dumps({**event, 'error': error, **self.details})}\n\n".encode()

    @property
    def told(self) -> dict[str, Any]:
        """The error in OpenAI's form; the model server's own if it has that form, else made from its words."""
        kind = ERROR_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        if self.original is None:
            return {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        text = self.original.decode(errors="replace")
        try:
            given = json_of(text).get("error")
        except (ValueError, AttributeError):
            given = None
        given = given if isinstance(given, Mapping) else {}
        message = given.get("message")
        words = message if isinstance(message, str) else server_message(text) or "The model server refused the request."
        told = {name: given.get(name) for name in ("type", "param", "code")}
        return {"message": words, **told, "type": told["type"] if isinstance(told["type"], str) else kind}

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = [JSON]
        if self.status == 401 and self.original is None:
            headers.append((b"www-authenticate", b"Bearer"))
        if self.retry_after is not None:
            headers.append((b"retry-after", str(max(1, math.ceil(self.retry_after))).encode()))
        if self.code in NOT_WORTH_A_RETRY:
            headers.append((b"x-should-retry", b"false"))
        return headers


def is_anthropic(kind: Kind) -> bool:
    """Whether requests of this kind are of Anthropic's API."""
    return kind.startswith("messages")


def bad_request(message: str, param: str, code: str = "invalid_value") -> APIError:
    """The error for a parameter whose value cannot be used."""
    return APIError(400, message, code, param)


def as_api_error(error: Exception) -> APIError | None:
    """`error` as the client may see it; None for an internal one."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, EndpointError):
        return _from_upstream(error)
    if isinstance(error, UnreadableKey):  # says where the key is
        return None
    if isinstance(error, MissingExtra):  # how to install it is the operator's business
        return APIError(501, f"{error.what} is not available on this gateway", "not_installed")
    for kind, status, code in (
        (ConfigError, 400, "invalid_value"),
        (BudgetSpent, 429, "budget_spent"),
        (StoreError, 503, "not_stored"),
    ):
        if isinstance(error, kind):
            return APIError(status, str(error), code)
    return None


def _from_upstream(error: EndpointError) -> APIError:
    """The model server's refusal, with its status; 504 if its answer did not come in time, 502 if it is unusable."""
    cause = error.__cause__
    if error.status is not None and not error.body and isinstance(cause, EndpointError):
        return _from_upstream(cause)
    status, wait = error.status, error.retry_after
    if status is None or not 400 <= status < 600:
        if isinstance(error, TimedOut) or isinstance(cause, TimedOut):
            return APIError(504, "The model server did not answer in time.", "upstream_timeout", None, wait)
        return APIError(502, "The model server gave no usable answer.", "upstream_failed", None, wait)
    try:
        if isinstance(json_of(error.body), dict):
            return APIError(status, "", retry_after=wait, original=error.body.encode())
    except ValueError:
        pass
    message = server_message(error.body) or "The model server refused the request."
    return APIError(status, message, "upstream_refused", retry_after=wait)


LINGERING = 2.0
"""Seconds for which the rest of a refused request is read."""


class ResponseWriter:
    """Sends the response to the client."""

    def __init__(self, send: Send, kind: Kind, headers: Headers) -> None:
        self._send = send
        self.headers: list[tuple[bytes, bytes]] = list(headers)
        self._kind: Kind = kind
        self._events = 0
        self.failed: Callable[[APIError], bytes] = lambda error: error.event(kind, self._events)
        """How an error is told inside a stream that has begun."""
        self.status: int | None = None
        """The status that was sent; None before the response has begun."""
        self.ended: bool = False
        self.client_left = False
        """Whether the client left before the end."""

    def say(self, name: bytes, value: bytes) -> None:
        """Have the response say so in a header, and nothing else under its name."""
        self.headers = [*(one for one in self.headers if one[0] != name), (name, value)]

    async def start(self, status: int, headers: Headers) -> None:
        self.status = status
        sent = [(name, UNSENDABLE.sub(b"?", value[:LONGEST_HEADER])) for name, value in (*headers, *self.headers)]
        await self._send({"type": "http.response.start", "status": status, "headers": sent})

    async def write(self, data: bytes) -> None:
        """Send a part of the body; waits while the client is slow to read."""
        self._events += data.count(b"\ndata:") + data.startswith(b"data:")
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last part."""
        self.ended = True  # first: the server reports the client as gone once the response is complete
        await self._send({"type": "http.response.body", "body": data})

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self.end(body)

    async def fail(self, error: APIError) -> None:
        """Send an error: as the response, or inside the stream that has begun."""
        if self.status is None:
            await self.whole(error.status_for(self._kind), error.headers, error.body(self._kind))
        elif not self.ended:
            await self.end(self.failed(error))
            self.status = error.status

    async def refuse(self, error: APIError, rest: AsyncIterator[object]) -> None:
        """Send an error before the request was read, and close the connection.

        What is still to come of the request, its `rest`, is thrown away for a moment, or else a client that is busy
        sending would see the connection reset, and not why.
        """
        body = error.body(self._kind)
        size = (b"content-length", str(len(body)).encode())
        await self.start(error.status_for(self._kind), [*error.headers, size, (b"connection", b"close")])
        await self.write(body)
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGERING):
                async for _ in rest:
                    pass
        await self.end()
