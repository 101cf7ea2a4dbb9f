"""Requests to a plain model: the bytes go through as they are, and only what they cost is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

import httpx

from tts.accounts import Ledger
from tts.errors import TransientError
from tts.gateway.asgi import EVENTS, Out
from tts.sampler import Sampler
from tts.sampler.connection import chunks
from tts.sampler.protocol import estimate_prompt, usage_of
from tts.types import Usage

END = tuple(f"data:{space}[DONE]".encode() for space in ("", " ")) + tuple(
    f"event: {name}".encode() for name in ("response.completed", "response.incomplete", "response.failed", "error")
)
"""How the line begins by which a stream says that it has come to its end."""

WHOLE = re.compile(rb".*(?:\n\n|\r\n\r\n)", re.DOTALL)
"""Events to the end of the last one that is complete."""

BYTES_PER_TOKEN = 4


class Meter:
    """What a streamed answer costs, read from the bytes that pass by."""

    def __init__(self) -> None:
        self.events = 0
        self.complete = False
        """Whether the stream came to its end."""
        self._partial = b""
        self._usage = b""
        self._counted: Usage | None = None

    def feed(self, chunk: bytes) -> None:
        """Look at a piece of the stream."""
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self.events += 1
                if b'"usage"' in line and b'"usage":null' not in line and b'"usage": null' not in line:
                    self._usage = line
            if line.startswith(END):
                self.complete = True

    def whole(self, answer: Any, size: int) -> None:
        """Look at an answer in one piece, of `size` bytes."""
        self._counted, self.events = used(answer), size // BYTES_PER_TOKEN

    def usage(self, body: Mapping[str, Any]) -> Usage:
        """As the server counted it; where it did not, or did not come to it, an event counts as a token."""
        if self._counted is not None:
            return self._counted
        try:
            counted = used(json.loads(self._usage.removeprefix(b"data:")))
        except ValueError:
            counted = None
        return counted or estimated(body, max(0, self.events - 1))


def used(data: Any) -> Usage | None:
    """The usage in an answer or an event, under the names of either API; None where there is none."""
    if not isinstance(data, Mapping):
        return None
    found = data.get("usage") or (data.get("response") or {}).get("usage")
    if isinstance(found, Mapping) and "input_tokens" in found:
        found = {"prompt_tokens": found["input_tokens"], "completion_tokens": found.get("output_tokens", 0)}
    usage = usage_of(found)
    return None if usage is None else usage + Usage(requests=1)


def estimated(body: Mapping[str, Any], completion: int) -> Usage:
    """The usage of a request whose server does not count."""
    prompt = estimate_prompt(body.get("messages") or str(body.get("prompt") or body.get("input") or ""))
    return Usage(1, prompt, 0, completion, estimated_tokens=prompt + completion)


def as_sent(content: bytes, body: Mapping[str, Any], sampler: Sampler) -> bytes:
    """The body for the model server: the client's own bytes, unless the model's name or defaults must be put in."""
    endpoint = sampler.endpoint
    missing = {key: value for key, value in endpoint.params.items() if key not in body}
    if body.get("model") == endpoint.model and not missing:
        return content
    return json.dumps({**missing, **body, "model": endpoint.model}).encode()


async def pass_through(
    sampler: Sampler, path: str, content: bytes, body: Mapping[str, Any], out: Out, book: Callable[[Usage], None]
) -> None:
    """Send the request on and its answer back, and `book` what it cost, also when the client leaves halfway.

    Raises an `EndpointError` where the server refuses, cannot be reached or breaks off. A connection that fails before
    anything came is tried once more where there is another replica; anything else is the client's to decide.
    """
    sent = as_sent(content, body, sampler)
    connection = sampler.connection
    affinity = connection.affinity(sent)

    async def relay(avoid: str | None = None) -> None:
        async with connection.exchange("policy", Ledger(), affinity, avoid, queued=False) as exchange:
            response = await connection.http.send("POST", exchange.url + path, sent)
            meter = Meter()
            try:
                kind = response.headers.get("content-type", "application/json").encode("latin-1")
                if kind.startswith(b"text/event-stream"):
                    await _relay_events(response, meter, out)
                else:
                    await _relay_whole(response, meter, out, kind)
            finally:
                book(meter.usage(body))

    try:
        await relay()
    except TransientError as error:
        if error.status is not None or out.status is not None or len(connection.pool.replicas) == 1:
            raise
        await relay(avoid=error.server)


async def _relay_events(response: httpx.Response, meter: Meter, out: Out) -> None:
    """Whole events only, so that an error can follow wherever the stream breaks off."""
    begun = b""
    async with aclosing(chunks(response)) as parts:
        await out.begin(response.status_code, EVENTS)
        async for part in parts:
            meter.feed(part)
            whole = WHOLE.match(begun := begun + part)
            if whole is not None:
                await out.write(whole[0])
                begun = begun[whole.end() :]
    if not meter.complete:
        raise TransientError("the stream ended before it was complete")
    await out.end(begun)


async def _relay_whole(response: httpx.Response, meter: Meter, out: Out, kind: bytes) -> None:
    answer = b"".join([part async for part in chunks(response)])
    try:
        meter.whole(json.loads(answer), len(answer))
    except ValueError as error:
        raise TransientError("the answer is not JSON") from error
    await out.whole(response.status_code, [(b"content-type", kind)], answer)
