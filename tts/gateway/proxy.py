"""Requests to a plain model: the bytes pass through unchanged, and only their cost is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any
from uuid import uuid4

import httpx

from tts.accounts import Ledger
from tts.concurrency import now
from tts.errors import TransientError
from tts.gateway.exchange import EVENTS, APIError, ResponseWriter
from tts.gateway.routing import GatewayRequest
from tts.sampler import Sampler
from tts.sampler.client import HttpClient
from tts.sampler.endpoint import joined
from tts.sampler.protocol import estimate_prompt, json_of, usage_of
from tts.sampler.sse import ServerEvent
from tts.types import Charge, Usage

ENDS = ("response.completed", "response.incomplete", "response.failed", "error")
"""Events with which a stream of the Responses API says that it is complete; others end with `[DONE]`."""

FINISHED = re.compile(rb'"finish_reason":\s*"')
"""In an event after which a choice has nothing more to say; inside a text the quotes would be escaped."""

BYTES_PER_TOKEN = 4


class Meter:
    """What an answer costs, read from the bytes that pass by."""

    def __init__(self, choices: int = 1) -> None:
        """`choices` are how many the client asked for."""
        self._choices = choices
        self._finished: set[int] = set()
        self._ended = False
        self._tokens = 0
        """An estimate: an event counts as a token."""
        self._usage = b""
        self._counted: Usage | None = None

    @property
    def complete(self) -> bool:
        """Whether the stream came to its end: it says so, or all choices have their finish reasons."""
        return self._ended or len(self._finished) >= self._choices

    def feed(self, event: ServerEvent) -> None:
        if event.kind in ENDS:
            self._ended = True
        if (data := event.data) is None:
            return
        self._tokens += 1
        if data.strip() == b"[DONE]":
            self._ended = True
        if b'"usage"' in data and b'"usage":null' not in data and b'"usage": null' not in data:
            self._usage = data
        if FINISHED.search(data):
            with suppress(ValueError, AttributeError, TypeError):
                choices = json.loads(data)["choices"]
                self._finished.update(one.get("index", 0) for one in choices if one.get("finish_reason"))

    def whole(self, answer: bytes) -> None:
        """Look at an answer in one piece. Raises `ValueError` if it is not JSON."""
        self._counted, self._tokens = reported_usage(json_of(answer)), len(answer) // BYTES_PER_TOKEN

    def usage(self, body: Mapping[str, Any]) -> Usage:
        """The usage that the server reported; an estimate if there was none, or the stream broke off before it."""
        counted = self._counted
        if counted is None:
            with suppress(ValueError):
                counted = reported_usage(json_of(self._usage))
        if counted is not None:
            return counted
        prompt = estimate_prompt(body.get("messages") or str(body.get("prompt") or body.get("input") or ""))
        completion = max(0, self._tokens - 1)
        return Usage(1, prompt, 0, completion, estimated_tokens=prompt + completion)


def reported_usage(data: Any) -> Usage | None:
    """The usage in an answer or event, under the names of either API; None if there is none."""
    for place in (data, data.get("response")) if isinstance(data, Mapping) else ():
        with suppress(TransientError):  # counts that cannot be are no counts
            if isinstance(place, Mapping) and (usage := usage_of(place.get("usage"))) is not None:
                return usage + Usage(requests=1)
    return None


async def pass_through(request: GatewayRequest, sampler: Sampler) -> None:
    """Send the request on and its answer back, and book what it cost, even if the client leaves halfway.

    Raises an `EndpointError` if the server refuses, cannot be reached or breaks off. If a connection fails before
    anything was received, another replica gets the request once; any other retry is up to the client.
    """
    began, out, body, endpoint = now(), request.out, request.body, sampler.endpoint
    missing = {key: value for key, value in endpoint.params.items() if key not in body}
    unchanged = body["model"] == endpoint.model and not missing
    sent = request.content if unchanged else json.dumps({**missing, **body, "model": endpoint.model}).encode()
    connection = sampler.connection
    affinity = connection.affinity(sent)

    async def relay(avoid: str | None = None) -> None:
        async with connection.exchange("policy", Ledger(), affinity, avoid, queued=False) as exchange:
            response = await connection.http.send("POST", joined(exchange.url, f"/{request.kind}"), sent)
            meter = Meter(body["n"] if isinstance(body.get("n"), int) else 1)
            try:
                kind = response.headers.get("content-type", "application/json").encode("latin-1")
                if kind.startswith(b"text/event-stream"):
                    await _relay_events(connection.http, response, meter, out, exchange.flows)
                else:
                    await _relay_whole(await connection.http.body(response), response.status_code, meter, out, kind)
            finally:
                usage = meter.usage(body) + Usage(seconds=now() - began)
                request.charges.add(Charge(uuid4().hex, "policy", usage, began))
                request.book("policy", usage, endpoint.money(usage))

    try:
        await relay()
    except TransientError as error:
        if error.status is not None or out.status is not None or len(connection.pool.replicas) == 1:
            raise
        await relay(avoid=error.server)


async def _relay_events(
    http: HttpClient, response: httpx.Response, meter: Meter, out: ResponseWriter, flows: Callable[[], None]
) -> None:
    """Passes on whole events only, so that an error can follow wherever the stream breaks off.

    The response begins with the first event: what goes wrong before it has a status of its own.
    """
    reader = http.reader()
    async with aclosing(http.parts(response)) as parts:
        async for part in parts:
            flows()
            events = list(reader.feed(part))
            for event in events:
                meter.feed(event)
            if events:
                if out.status is None:
                    _check_first(next((event.data for event in events if event.data), b""))
                    await out.start(response.status_code, EVENTS)
                await out.write(b"".join(event.raw for event in events))
    last = reader.rest()
    meter.feed(last)
    if not meter.complete:
        raise TransientError("the stream broke off")
    if out.status is None:
        await out.start(response.status_code, EVENTS)
    await out.end(last.raw)


def _check_first(data: bytes) -> None:
    """Raise `APIError` if the `data` of a stream's first event are an error, in the words of the server."""
    if b'"error"' not in data:
        return
    with suppress(ValueError):
        told = json.loads(data)
        error = told.get("error") if isinstance(told, dict) else None
        if error and "choices" not in told and not str(told.get("type", "")).startswith("response."):
            code = error.get("code") if isinstance(error, dict) else None
            status = code if isinstance(code, int) and 400 <= code < 600 else 502
            raise APIError(status, "", original=data.strip())


async def _relay_whole(answer: bytes, status: int, meter: Meter, out: ResponseWriter, kind: bytes) -> None:
    try:
        meter.whole(answer)
    except ValueError as error:
        raise TransientError("the answer is not JSON") from error
    await out.whole(status, [(b"content-type", kind)], answer)
