"""Requests to a plain model: the bytes pass through unchanged, and only their cost is read."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from time import time
from typing import Any
from uuid import uuid4

import httpx

from tts.accounts import Grant, Ledger
from tts.concurrency import now
from tts.errors import EndpointError, TransientError
from tts.gateway.admission import quota_spent
from tts.gateway.exchange import EVENTS, APIError, ResponseWriter
from tts.gateway.routing import GatewayRequest
from tts.gateway.schemas import Table
from tts.sampler import Sampler
from tts.sampler.client import HttpClient
from tts.sampler.parameters import LENGTHS, merged, token_limit
from tts.sampler.protocol import (
    bytes_of,
    decoded,
    estimate_prompt,
    estimate_tokens,
    event_of,
    json_of,
    raise_told,
    usage_of,
)
from tts.sampler.sse import ServerEvent
from tts.types import Charge, Usage, sum_usage

ENDS = ("response.completed", "response.incomplete", "response.failed", "error")
"""Events with which a stream of the Responses API says that it is complete; others end with `[DONE]`."""

FINISHED = re.compile(rb'"finish_reason":\s*"')
"""In an event after which a choice has nothing more to say; inside a text the quotes would be escaped."""

COMMENTS_ALONE = 10.0
"""Seconds for which comments with which a stream begins are held back: an error after them then has a status."""

SMALL = 2**17
"""Bytes that are parsed and written at once; more would hold up the event loop."""

BYTES_PER_TOKEN = 4

LONGEST_ANSWER = 32_768
"""Tokens reserved for an answer, and its limit, where neither the request nor the server says how long it may be."""


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
        if len(data) <= SMALL and FINISHED.search(data):
            with suppress(ValueError, AttributeError, TypeError):
                choices = json.loads(data)["choices"]
                self._finished.update(one.get("index", 0) for one in choices if one.get("finish_reason"))

    def whole(self, answer: bytes) -> None:
        """Look at an answer in one piece. Raises `ValueError` if it is not JSON, as far as it is read."""
        self._tokens = len(answer) // BYTES_PER_TOKEN
        if len(answer) <= SMALL:
            self._counted = reported_usage(json_of(decoded(answer)))
        elif answer.strip()[:1] + answer.strip()[-1:] != b"{}":
            raise ValueError("it is no JSON object")
        else:
            self._counted = reported_usage(_last_usage(answer))

    def usage(self, body: Mapping[str, Any]) -> Usage:
        """The usage that the server reported; an estimate if there was none, or the stream broke off before it."""
        counted = self._counted
        if counted is None:
            event = self._usage
            with suppress(ValueError):
                counted = reported_usage(json_of(decoded(event)) if len(event) <= SMALL else _last_usage(event))
        if counted is not None:
            return counted
        prompt = estimate_prompt(body.get("messages") or str(body.get("prompt") or body.get("input") or ""))
        completion = max(0, self._tokens - 1)
        return Usage(1, prompt, 0, completion, estimated_tokens=prompt + completion)


def _last_usage(text: bytes) -> dict[str, Any]:
    """The usage that stands last in a text too long to be parsed. Raises `ValueError` if there is none."""
    _, key, rest = text.rpartition(b'"usage"')
    after = rest.lstrip(b" \t\r\n:")[:SMALL].decode(errors="replace")
    return {"usage": json.JSONDecoder().raw_decode(after)[0]} if key else {}


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
    connection = sampler.connection
    async with _within_quota(request, sampler) as length:
        sent = await _rewritten(request.content, body, {"model": endpoint.model, **length}, endpoint.params)
        affinity = connection.affinity(sent)

        async def relay(avoid: str | None = None) -> None:
            async with connection.exchange("policy", Ledger(), affinity, avoid, queued=False) as exchange:
                response = await connection.http.send("POST", exchange.url, f"/{request.kind}", sent)
                meter = Meter(_choices(body))
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


async def _rewritten(content: bytes, body: Table, changes: Table, defaults: Table) -> bytes:
    """The body with `changes`, and with the `defaults` that it does not set: as it was written if that is nothing new.

    A default length gives way to the client's, under whatever name.
    """
    sized = not body.keys().isdisjoint(LENGTHS)
    missing = {name: value for name, value in defaults.items() if name not in body and not (sized and name in LENGTHS)}
    whole = {**missing, **body, **changes}
    if whole == body:
        return content
    if len(content) <= SMALL:
        return bytes_of(whole)
    return await asyncio.to_thread(bytes_of, whole, large=True)


@asynccontextmanager
async def _within_quota(request: GatewayRequest, sampler: Sampler) -> AsyncIterator[Table]:
    """Reserves what the request may cost of its key's day, and settles what it did cost; gives the length to be sent.

    The length is the client's own where there is room for it. Raises `APIError` (429) where there is none for a token.
    """
    quota, body = request.caller.quota, request.body
    if quota is None:
        yield {}
        return
    await sampler.identify()
    endpoint = sampler.endpoint
    prompt = estimate_prompt(_prompt_of(body)) + estimate_tokens(json.dumps(body.get("tools") or ""))
    choices = _choices(body)
    name = "max_output_tokens" if request.kind == "responses" else token_limit(merged(endpoint.params, body))
    asked = min((body[one] for one in (name, *LENGTHS) if _is_number(body.get(one))), default=endpoint.params.get(name))
    context = sampler.context_length
    most = asked or context or LONGEST_ANSWER
    tokens, money = quota.room
    left = tokens - prompt
    if (per_token := endpoint.money(Usage(completion_tokens=1))) > 0:
        left = min(left, (money - endpoint.money(Usage(prompt_tokens=prompt))) / per_token)
    length = int(min(most, left // choices))
    if length < 1:
        if quota.reserved.samples:
            message = "what is left of this key's day is reserved by its other requests"
            raise APIError(429, message, "rate_limit_exceeded", None, 1)
        raise quota_spent("what is left of this key's day is not enough for this request", time())
    if length < most and context is not None:  # the server refuses a length beyond its context
        length = max(1, min(length, context - len(request.content)))
    price = endpoint.money(Usage(1, prompt, 0, choices * length))
    grant = Grant(choices, 1, prompt, choices * length, price, length)
    await quota.hold(grant)
    try:
        yield {} if length == most and (asked or context) else {name: length}
    finally:
        quota.spend(sum_usage(request.spent.values()).total_tokens, request.money)
        quota.release(grant)


def _prompt_of(body: Mapping[str, Any]) -> Any:
    for name in ("messages", "prompt", "input"):
        if value := body.get(name):
            return value if isinstance(value, str | list) else json.dumps(value)
    return ""


def _choices(body: Mapping[str, Any]) -> int:
    """How many answers the server writes for one request."""
    prompts = body.get("prompt")
    several = len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1
    return several * max(int(body[one]) if _is_number(body.get(one)) else 1 for one in ("n", "best_of"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


async def _relay_events(
    http: HttpClient, response: httpx.Response, meter: Meter, out: ResponseWriter, flows: Callable[[], None]
) -> None:
    """Passes on whole events only, so that an error can follow wherever the stream breaks off.

    The response begins with the first event: what goes wrong before it has a status of its own.
    """
    reader, began = http.reader(), now()
    held: list[ServerEvent] = []
    async with aclosing(http.parts(response)) as parts:
        async for part in parts:
            flows()
            for event in reader.feed(part):
                held.append(event)
                meter.feed(event)
                if len(event.raw) > SMALL:  # each step with it takes a while
                    await asyncio.sleep(0)
            first = next((event for event in held if event.data), None)
            if not held or (out.status is None and first is None and now() - began < COMMENTS_ALONE):
                continue
            if out.status is None:
                if first is not None:
                    _check_first(first)
                await out.start(response.status_code, EVENTS)
            await out.write(b"".join(event.raw for event in held))
            held.clear()
    last = reader.rest()
    meter.feed(last)
    if not meter.complete:
        raise TransientError("the stream broke off")
    if out.status is None:
        await out.start(response.status_code, EVENTS)
    await out.end(b"".join(event.raw for event in held) + last.raw)


def _check_first(event: ServerEvent) -> None:
    """Raise `APIError` if a stream's first event is an error, with the words and the status that it has."""
    data = event.data or b""
    if len(data) > SMALL or not (event.kind == "error" or b'"error"' in data):
        return
    try:
        told = event_of(event) or {}
        if "choices" not in told and not str(told.get("type", "")).startswith("response."):
            raise_told(told)
    except EndpointError as error:
        if error.body:  # else it is unreadable, and for the client to judge
            raise APIError(error.status or 502, "", original=error.body.encode()) from error


async def _relay_whole(answer: bytes, status: int, meter: Meter, out: ResponseWriter, kind: bytes) -> None:
    try:
        meter.whole(answer)
    except ValueError as error:
        raise TransientError("the answer is not JSON") from error
    await out.whole(status, [(b"content-type", kind)], answer)
