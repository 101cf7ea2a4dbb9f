"""Requests to a plain model: the bytes pass through unchanged, and only their cost is read.

Where its server does not speak the API that was asked, its chat answers are translated as they come.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from time import time
from typing import Any
from uuid import uuid4

from tts.accounts import Grant, Ledger, affordable
from tts.concurrency import LARGE, aside, now
from tts.errors import EndpointError, TransientError
from tts.gateway.admission import quota_spent
from tts.gateway.exchange import EVENTS, JSON, PASSED, APIError, bad_request
from tts.gateway.routing import SLOWER, GatewayRequest
from tts.gateway.schemas import Table
from tts.sampler import Sampler
from tts.sampler.client import HttpClient
from tts.sampler.parameters import LENGTHS, merged, token_limit
from tts.sampler.protocol import (
    LARGEST_COUNT,
    bytes_of,
    check_values,
    decoded,
    estimate_prompt,
    estimate_texts,
    event_of,
    json_of,
    raise_told,
    usage_of,
)
from tts.sampler.sse import ServerEvent, in_steps
from tts.sampler.transport import Reply
from tts.types import Charge, Usage

ENDS = ("response.completed", "response.incomplete", "response.failed", "error")
"""Events with which a stream of the Responses API says that it is complete; others end with `[DONE]`."""

KEPT = ("response.completed", "response.incomplete")
"""Events that have a response as it is kept."""

ABSENT = (404, 405, 501)
"""What servers say of a route that they do not have, and some of a model."""

FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
"""In an event after which a choice has nothing more to say; inside a text the quotes would be escaped."""

SAYING_NOTHING = 10.0
"""Seconds for which the events before the first token are held back, if they are few: an error after them then has a
status."""

SMALL = 2**17
"""Bytes that are parsed and written at once; more would hold up the event loop."""

BYTES_PER_TOKEN = 4

NAMES_OF_LENGTHS = (*LENGTHS, "max_output_tokens", "n_predict")
"""Fields with the most tokens of an answer, by any API, and by llama.cpp, whose own name goes before the others."""

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
        if data.strip() == b"[DONE]" or data.lstrip().startswith(b'{"error"'):
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
        elif answer.strip()[:1] + answer.strip()[-1:] not in (b"{}", b"[]"):
            raise ValueError("it is no JSON object")
        else:
            self._counted = reported_usage(_last_usage(answer))

    def usage(self, request: GatewayRequest) -> Usage:
        """The usage that the server reported; an estimate if there was none, or the stream broke off before it."""
        counted = self._counted
        if counted is None:
            event = self._usage
            with suppress(ValueError):
                counted = reported_usage(json_of(decoded(event)) if len(event) <= SMALL else _last_usage(event))
        if counted is not None:
            return counted
        if request.kind in PASSED:
            return _passed_usage(request)
        body = request.chat
        prompt = _estimate_read(body)
        completion = max(0, self._tokens - 1)
        return Usage(1, prompt, 0, completion, estimated_tokens=prompt + completion)


def _passed_usage(request: GatewayRequest) -> Usage:
    """What a request that generates nothing costs: tokenizers ask no model."""
    prompt = 0 if request.kind.endswith("tokenize") else len(request.content) // BYTES_PER_TOKEN
    return Usage(1, prompt, 0, 0, estimated_tokens=prompt)


def _last_usage(text: bytes) -> dict[str, Any]:
    """The usage that stands last in a text too long to be parsed. Raises `ValueError` if there is none."""
    _, key, rest = text.rpartition(b'"usage"')
    after = rest.lstrip(b" \t\r\n:")[:SMALL].decode(errors="replace")
    return {"usage": json.JSONDecoder().raw_decode(after)[0]} if key else {}


def reported_usage(data: Any) -> Usage | None:
    """The usage in an answer or event, under the names of either API; None if there is none."""
    for place in (data, data.get("response")) if isinstance(data, Mapping) else ():
        with suppress(TransientError):  # counts that cannot be are no counts
            if not isinstance(place, Mapping) or not isinstance(told := place.get("usage"), Mapping):
                continue
            if told.keys().isdisjoint(("prompt_tokens", "input_tokens")):  # what reads and does not write
                told = {"prompt_tokens": told.get("total_tokens")}
            if (usage := usage_of(told)) is not None:
                return usage + Usage(requests=1)
    return None


async def lacks(sampler: Sampler, path: str) -> bool:
    """Whether the server turns out to have no such route, by a request of our own that asks for nothing."""
    connection = sampler.connection
    try:
        async with connection.exchange("policy", Ledger(), 0, queued=False) as exchange:
            await connection.http.body(await connection.http.send("POST", exchange.url, path, b"{}"))
    except EndpointError as error:
        return error.status in ABSENT
    return False


async def pass_through(request: GatewayRequest, sampler: Sampler, path: str) -> None:
    """Send the request on to `path` and its answer back, and book what it cost, even if the client leaves halfway.

    Raises an `EndpointError` if the server refuses, cannot be reached or breaks off. If that fails before anything was
    received, in a way that another server may not, each other replica gets the request once; any other retry is up to
    the client.
    """
    began, out, body, endpoint = now(), request.out, request.chat, sampler.endpoint
    connection, limit = sampler.connection, endpoint.max_answer_bytes
    async with _within_quota(request, sampler) as length:
        sent = await _rewritten(request, {"model": endpoint.model, **length}, endpoint.params)
        affinity = connection.affinity(sent)

        async def relay(avoid: Sequence[str]) -> None:
            async with connection.exchange("policy", Ledger(), affinity, avoid, queued=False) as exchange:
                response = await connection.http.send("POST", exchange.url, path, sent)
                meter = Meter(_choices(body))
                try:
                    kind = response.headers.get("content-type", "application/json").encode(errors="surrogateescape")
                    if kind.startswith(b"text/event-stream"):
                        await _relay_events(connection.http, response, meter, request, exchange.flows, limit)
                    else:
                        answer = await connection.http.body(response)
                        await _relay_whole(answer, response.status, meter, request, kind, limit)
                finally:
                    usage = meter.usage(request) + Usage(seconds=now() - began)
                    request.charges.add(Charge(uuid4().hex, "policy", usage, began))
                    request.book("policy", usage, endpoint.money(usage))

        failed: list[str] = []
        soon: TransientError | None = None
        while True:
            try:
                return await relay(failed)
            except EndpointError as error:
                soon = error if isinstance(error, TransientError) else soon
                if out.status is not None or error.server is None or not connection.pool.others_may(error, failed):
                    raise soon or error  # noqa: B904 - one that may be well soon is asked again, whatever others lack
                failed.append(error.server)
                request.begin_anew()


async def _rewritten(request: GatewayRequest, changes: Table, defaults: Table) -> bytes:
    """The body with `changes`, and with the `defaults` that it does not set: as it was written if that is nothing new.

    A default length gives way to the client's, under whatever name.
    """
    content, body = request.content, request.chat
    if request.kind in PASSED:
        defaults = {}
    sized = not body.keys().isdisjoint(LENGTHS)
    missing = {name: value for name, value in defaults.items() if name not in body and not (sized and name in LENGTHS)}
    whole = {**missing, **body, **changes}
    if request.format is not None and "max_completion_tokens" in defaults and "max_tokens" in whole:
        whole["max_completion_tokens"] = whole.pop("max_tokens")  # the name that this server takes
    if whole == body and request.format is None:
        return content
    if len(content) <= SMALL:
        return bytes_of(whole)
    return await asyncio.to_thread(bytes_of, whole, large=True)


@asynccontextmanager
async def _within_quota(request: GatewayRequest, sampler: Sampler) -> AsyncIterator[Table]:
    """Reserves what the request may cost of its key's day, and settles what it did cost; gives the length to be sent.

    The length is the client's own where there is room for it. Raises `APIError` (429) where there is none for a token.
    """
    quota, body = request.caller.quota, request.chat
    if quota is None:
        yield {}
        return
    reads = request.kind in PASSED
    await sampler.identify()
    endpoint = sampler.endpoint
    if reads:
        prompt = int(_passed_usage(request).prompt_tokens)
    else:
        prompt = await aside(SLOWER * len(request.content), _estimate_read, body)
    choices = _choices(body)
    responds = request.kind == "responses" and request.format is None
    name = "max_output_tokens" if responds else token_limit(merged(endpoint.params, body))
    for one in ("n", "best_of", *NAMES_OF_LENGTHS):  # some servers read "5" and 5.0 as 5
        if not isinstance(given := body.get(one, 0), int | None) or abs(given or 0) > LARGEST_COUNT:
            raise bad_request(f"{one} must be a usual whole number, as this key has caps for a day", one)
    lengths = {one: body[one] for one in NAMES_OF_LENGTHS if body.get(one) is not None}
    asked = max(filter(_is_number, lengths.values()), default=endpoint.params.get(name))
    context = sampler.context_length
    most = asked or context or LONGEST_ANSWER
    while True:
        await quota.look()
        tokens, money = quota.room
        left = min(tokens - prompt, affordable(endpoint.money, money, prompt))
        length = int(min(most, left // choices))
        if length < 1:
            if quota.reserved.samples:
                message = "what is left of this key's day is reserved by its other requests"
                raise APIError(429, message, "rate_limit_exceeded", None, 1)
            raise quota_spent("what is left of this key's day is not enough for this request", time())
        if reads:
            length = 0
        elif length < most and context is not None:  # the server refuses a length beyond its context
            length = max(1, min(length, context - len(request.content)))
        price = endpoint.money(Usage(1, prompt, 0, choices * length))
        grant = Grant(choices, 1, prompt, choices * length, price, length)
        if await quota.hold(grant):
            break
    try:
        if lengths:
            yield {one: min(given, length) if _is_number(given) else length for one, given in lengths.items()}
        else:
            yield {} if reads or (length == most and (asked or context)) else {name: length}
    finally:
        quota.spend(*request.unsettled())
        quota.release(grant)


def _estimate_read(body: Mapping[str, Any]) -> int:
    """Tokens that the server reads of a request, where nobody has counted them yet."""
    prompt = next((value for name in ("messages", "prompt", "input") if (value := body.get(name))), "")
    beside = [body.get(name) for name in ("tools", "functions", "instructions", "documents")]
    begins = 1  # with a token of its own
    return begins + estimate_prompt(prompt if isinstance(prompt, str | list) else [prompt]) + estimate_texts(beside)


def _choices(body: Mapping[str, Any]) -> int:
    """How many answers the server writes for one request."""
    prompts = body.get("prompt")
    several = len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1
    return several * max(body[one] if _is_number(body.get(one)) else 1 for one in ("n", "best_of"))


def _is_number(value: Any) -> bool:
    return type(value) is int and value > 0


async def _relay_events(
    http: HttpClient,
    response: Reply,
    meter: Meter,
    request: GatewayRequest,
    flows: Callable[[], None],
    limit: int,
) -> None:
    """Passes on whole events only, so that an error can follow wherever the stream breaks off.

    The response begins with the first event: what goes wrong before it has a status of its own.
    """
    out, reader, began = request.out, http.reader(), now()
    held: list[ServerEvent] = []

    async def say(events: list[ServerEvent]) -> bytes:
        """What the client is told of `events`, once the response has begun."""
        opening = request.format.start() if request.format and out.status is None else b""
        said = opening + await _said(events, request, limit)
        if out.status is None:
            await out.start(response.status, EVENTS)
        return said

    async with aclosing(response) as parts, aclosing(in_steps(parts)) as pieces:
        async for piece in pieces:
            flows()
            for event in reader.feed(piece):
                held.append(event)
                meter.feed(event)
                if len(event.raw) > SMALL:  # each step with it takes a while
                    await asyncio.sleep(0)
            first = next((event for event in held if not _opens(event)), None)
            few = now() - began < SAYING_NOTHING and sum(len(event.raw) for event in held) < SMALL
            if not held or (out.status is None and first is None and few):
                continue
            if out.status is None and first is not None:
                _check_first(first)
            await out.write(await say(held))
            held.clear()
    last = reader.rest()
    meter.feed(last)
    if not meter.complete:
        raise TransientError("the stream broke off")
    said = await say([*held, last])
    if (form := request.format) is not None:
        said += form.finish(meter.usage(request), {})
        await request.keep(form.made)
    await out.end(said)


async def _said(events: list[ServerEvent], request: GatewayRequest, limit: int) -> bytes:
    """What the client is told of events: as they are, or translated."""
    form = request.format
    raw = b"".join(event.raw for event in events)
    if form is None:
        for event in events:
            if event.kind in KEPT and event.data and request.body.get("store") is not False:
                with suppress(ValueError, AttributeError):  # what is no response is the client's to judge
                    await request.keep((await aside(len(event.data), json_of, decoded(event.data))).get("response"))
        return raw

    def work() -> bytes:
        told = list[bytes]()
        for event in events:
            if event.data is None:
                told.append(form.alive if event.raw.strip() else b"")
            elif event.data.strip() != b"[DONE]":
                check_values(event.data, limit)
                said = event_of(event) or {}
                raise_told(said)
                told.append(form.feed(said))
        return b"".join(told)

    form.large = len(raw) > LARGE
    return await aside(len(raw), work)


def _opens(event: ServerEvent) -> bool:
    """Whether an event of a stream says nothing yet: a comment, or whose turn it is."""
    data = event.data
    if not data:
        return True
    if b'"role"' not in data or len(data) > SMALL:
        return False
    try:
        choices = json.loads(data)["choices"]
        said = [value for one in choices for name, value in one["delta"].items() if name != "role"]
        return not any(said) and not any(one.get("finish_reason") for one in choices)
    except (ValueError, AttributeError, KeyError, TypeError):
        return False


def _check_first(event: ServerEvent) -> None:
    """Raise `APIError` if the first event that says something is an error, with its words and its status."""
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


async def _relay_whole(
    answer: bytes, status: int, meter: Meter, request: GatewayRequest, kind: bytes, limit: int
) -> None:
    form, out = request.format, request.out
    try:
        meter.whole(answer)
        if form is None and request.kind == "responses" and request.body.get("store") is not False:
            await request.keep(await aside(len(answer), lambda: json_of(decoded(answer))))
    except ValueError as error:
        if request.kind not in PASSED:  # embeddings may be bare numbers
            raise TransientError("the answer is not JSON") from error
    if form is None:
        await out.whole(status, [(b"content-type", kind)], answer)
        return

    def work() -> bytes:
        check_values(answer, limit)
        try:
            said = json_of(decoded(answer))
        except ValueError as error:
            raise TransientError(f"unreadable answer: {error}") from error
        raise_told(said)
        if not isinstance(said, Mapping) or not said.get("choices"):
            raise TransientError("the answer has no choices")
        form.large, usage = len(answer) > LARGE, meter.usage(request)
        if request.chat.get("stream"):  # of a server that does not
            return form.start(usage) + form.feed(said) + form.finish(usage, {})
        form.feed(said)
        return form.written(usage, {})

    told = await aside(len(answer), work)
    await request.keep(form.made)
    await out.whole(status, EVENTS if request.chat.get("stream") else [JSON], told)
