"""Requests to a plain model: the bytes pass through unchanged, and only their cost is read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from time import time
from typing import Any
from uuid import uuid4

import httpx

from tts.accounts import Grant, Ledger
from tts.concurrency import now
from tts.errors import TransientError
from tts.gateway.admission import quota_spent
from tts.gateway.exchange import EVENTS, APIError, ResponseWriter
from tts.gateway.routing import GatewayRequest
from tts.gateway.schemas import Table
from tts.sampler import Sampler
from tts.sampler.connection import chunks
from tts.sampler.protocol import LENGTHS, estimate_prompt, estimate_tokens, merged, token_limit, usage_of
from tts.types import Charge, Usage, sum_usage

ENDS = ("response.completed", "response.incomplete", "response.failed", "error")
END = (b"data:[DONE]", b"data: [DONE]", *(f"event: {name}".encode() for name in ENDS))
"""How the line starts with which a stream says that it is complete."""

SMALL = 2**20
"""Bytes that are parsed and written at once; more would hold up the event loop."""

BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")
"""How an event ends."""

BYTES_PER_TOKEN = 4

LONGEST_ANSWER = 32_768
"""Tokens reserved for an answer, and its limit, where neither the request nor the server says how long it may be."""


class Meter:
    """What an answer costs, read from the bytes that pass by."""

    def __init__(self) -> None:
        self.complete = False
        """Whether the stream came to its end."""
        self._tokens = 0
        """An estimate: an event counts as a token."""
        self._usage = b""
        self._counted: Usage | None = None

    def feed(self, events: bytes) -> None:
        """Look at whole events."""
        for line in events.splitlines():
            if line.startswith(b"data:"):
                self._tokens += 1
                if b'"usage"' in line and b'"usage":null' not in line and b'"usage": null' not in line:
                    self._usage = line
            if line.startswith(END):
                self.complete = True

    def whole(self, answer: bytes) -> None:
        """Look at an answer in one piece. Raises `ValueError` if it is not JSON, as far as it is read."""
        self._tokens = len(answer) // BYTES_PER_TOKEN
        if len(answer) <= SMALL:
            self._counted = reported_usage(json.loads(answer))
        elif answer.strip()[:1] + answer.strip()[-1:] != b"{}":
            raise ValueError("it is no JSON object")
        else:
            self._counted = reported_usage(_last_usage(answer))

    def usage(self, body: Mapping[str, Any]) -> Usage:
        """The usage that the server reported; an estimate if there was none, or the stream broke off before it."""
        counted = self._counted
        if counted is None:
            event = self._usage.removeprefix(b"data:")
            with suppress(ValueError):
                counted = reported_usage(json.loads(event) if len(event) <= SMALL else _last_usage(event))
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
    if not isinstance(data, Mapping):
        return None
    found = data.get("usage") or (data.get("response") or {}).get("usage")
    if isinstance(found, Mapping) and "input_tokens" in found:
        found = {"prompt_tokens": found["input_tokens"], "completion_tokens": found.get("output_tokens", 0)}
    usage = usage_of(found)
    return None if usage is None else usage + Usage(requests=1)


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
                response = await connection.http.send("POST", f"{exchange.url}/{request.kind}", sent)
                meter = Meter()
                try:
                    kind = response.headers.get("content-type", "application/json").encode("latin-1")
                    if kind.startswith(b"text/event-stream"):
                        await _relay_events(response, meter, out)
                    else:
                        await _relay_whole(response, meter, out, kind)
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
        return json.dumps(whole).encode()
    return await asyncio.to_thread(lambda: "".join(json.JSONEncoder().iterencode(whole)).encode())


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


class Events:
    """Cuts a stream into whole events, in a time that is linear in its length however it arrives."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._end = b""
        """The last bytes, in which the end of an event may have begun."""

    def add(self, part: bytes) -> bytes:
        """The events that `part` completes, and all before them; empty if there is none."""
        seen = self._end + part
        end = max((found + len(mark) for mark in BLANK_LINES if (found := seen.rfind(mark)) >= 0), default=0)
        cut = end - len(self._end)
        self._end = seen[-3:]
        if cut <= 0:  # nothing, or what was there before ended already
            self._parts.append(part)
            return b""
        whole = b"".join([*self._parts, part[:cut]])
        self._parts = [part[cut:]]
        return whole

    def rest(self) -> bytes:
        """What is left when the stream has ended."""
        return b"".join(self._parts)


async def _relay_events(response: httpx.Response, meter: Meter, out: ResponseWriter) -> None:
    """Passes on whole events only, so that an error can follow wherever the stream breaks off."""
    events = Events()
    async with aclosing(chunks(response)) as parts:
        await out.start(response.status_code, EVENTS)
        async for part in parts:
            if whole := events.add(part):
                meter.feed(whole)
                await out.write(whole)
    meter.feed(events.rest())
    if not meter.complete:
        raise TransientError("the stream broke off")
    await out.end(events.rest())


async def _relay_whole(response: httpx.Response, meter: Meter, out: ResponseWriter, kind: bytes) -> None:
    answer = b"".join([part async for part in chunks(response)])
    try:
        meter.whole(answer)
    except ValueError as error:
        raise TransientError("the answer is not JSON") from error
    await out.whole(response.status_code, [(b"content-type", kind)], answer)
