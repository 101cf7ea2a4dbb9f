"""Sends a generation to the client at its pace, whole or in part, as the fault it meets demands."""

import asyncio
import json
import socket
import struct
from itertools import groupby

from aiohttp import web

from tests.support.faults import FaultKind
from tests.support.wire import Generation, Json

LOST_ON_THE_WAY = {FaultKind.TRUNCATED, FaultKind.DROPPED_MID_BODY, FaultKind.STREAM_CUT}


async def deliver(
    request: web.BaseRequest, work: Generation, kind: FaultKind | None, tokens_per_chunk: int
) -> web.StreamResponse | None:
    """Send the answer, to its end unless `kind` is `LOST_ON_THE_WAY`; None asks for the connection to be cut.

    Raises ConnectionError or CancelledError where the client leaves first.
    """
    if work.request.get("stream"):
        return await _deliver_events(request, work, kind, tokens_per_chunk)
    await asyncio.sleep(work.seconds)
    content = json.dumps(work.body()).encode()
    half = content[: len(content) // 2]
    if kind is FaultKind.DROPPED_MID_BODY:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(content)
        await response.prepare(request)
        await response.write(half)
        return None
    response = web.Response(body=half if kind in LOST_ON_THE_WAY else content, content_type="application/json")
    await response.prepare(request)
    await response.write_eof()
    return response


async def _deliver_events(
    request: web.BaseRequest, work: Generation, kind: FaultKind | None, tokens_per_chunk: int
) -> web.StreamResponse | None:
    events = work.events(tokens_per_chunk)
    kept = len(events) // 2 if kind in LOST_ON_THE_WAY else len(events)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for due, group in groupby(events[:kept], key=lambda event: event[0]):
        await asyncio.sleep(max(0.0, start + due - loop.time()))
        await response.write(b"".join(_event(chunk) for _, chunk in group))
    if kind is FaultKind.DROPPED_MID_BODY:
        return None
    if kind is FaultKind.TRUNCATED:
        torn = _event(events[kept][1])
        await response.write(torn[: len(torn) // 2])
    elif kind is not FaultKind.STREAM_CUT:
        await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _event(chunk: Json) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def cut_connection(request: web.BaseRequest, *, reset: bool) -> None:
    """Close the client's connection after what is already written, or at once by a TCP reset."""
    if request.transport is None:
        return
    if reset:
        # Lingering for zero seconds makes the kernel send RST in place of FIN.
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    else:
        request.transport.close()
