"""Failures as clients see them: the right status, and a body in OpenAI's form."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from tts.errors import BudgetSpent, ConfigError, EndpointError, MissingExtra, TimedOut
from tts.sampler.protocol import server_message


@dataclass
class Refused(Exception):
    """A request that is answered with an error."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    """Further fields of the body, beside `error`."""
    original: bytes | None = None
    """The model server's own body, passed on as it is."""

    @property
    def body(self) -> bytes:
        """What the client gets."""
        if self.original is not None:
            return self.original
        error = {"message": self.message, "type": _kind(self.status), "param": self.param, "code": self.code}
        return json.dumps({"error": error, **self.details}).encode()

    @property
    def event(self) -> bytes:
        """The same inside a stream that has begun."""
        return b"data: " + b" ".join(self.body.splitlines()) + b"\n\n"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that go with it."""
        headers = [(b"content-type", b"application/json")]
        if self.status == HTTPStatus.UNAUTHORIZED and self.original is None:
            headers.append((b"www-authenticate", b"Bearer"))
        if self.retry_after is not None:
            headers.append((b"retry-after", str(max(1, math.ceil(self.retry_after))).encode()))
        return headers


def _kind(status: int) -> str:
    known = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    return known.get(status, "invalid_request_error" if status < 500 else "server_error")


def refusal_of(error: Exception) -> Refused | None:
    """`error` as clients may see it; None for one that is nobody's business."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, EndpointError):
        return _upstream(error)
    if isinstance(error, MissingExtra):
        return Refused(501, str(error), "not_installed")
    if isinstance(error, ConfigError):
        return Refused(400, str(error), "invalid_value")
    if isinstance(error, BudgetSpent):
        return Refused(429, str(error), "budget_spent")
    return None


def _upstream(error: EndpointError) -> Refused:
    """What a model server said, with its status; what never came from it is a 502, or a 504 where time was up."""
    cause = error.__cause__
    if error.status is not None and not error.body and isinstance(cause, EndpointError):
        return _upstream(cause)
    status, wait = error.status, error.retry_after
    if status is None or not 400 <= status < 600:
        late = isinstance(error, TimedOut) or isinstance(cause, TimedOut)
        words = "The model server did not answer in time." if late else "The model server gave no usable answer."
        return Refused(504 if late else 502, words, "upstream_timeout" if late else "upstream_failed", None, wait)
    if _in_form(error.body):
        return Refused(status, "", retry_after=wait, original=error.body.encode())
    words = server_message(error.body) or "The model server refused the request."
    return Refused(status, words, "upstream_refused", retry_after=wait)


def _in_form(body: str) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False
