"""Server-sent events, read to the letter of the standard (WHATWG HTML, section 9.2.6), in time linear in their size."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from typing import NamedTuple

from tts.errors import RequestRejected
from tts.sampler.redaction import Redactor, SecretScan

LINE_END = re.compile(rb"\r\n?|\n")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
STEP = 1 << 12
"""Bytes of a stream that are read in one turn of the loop: they may be hundreds of events."""


class ServerEvent(NamedTuple):
    """One event: what stood before a blank line."""

    kind: str
    """Its field `event`; empty where it has none."""
    data: bytes | None
    """Its `data` lines, joined by line feeds; None where it has none, as a comment that keeps the stream open."""
    raw: bytes
    """All of its bytes, the blank line included: joined together, they are the stream."""


async def in_steps(parts: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The stream of `parts` in pieces, between which others get their turn."""
    async for part in parts:
        for start in range(0, len(part), STEP):
            if start:
                await asyncio.sleep(0)
            yield part[start : start + STEP]


class EventReader:
    """Events from the bytes of a stream, however they are cut into chunks."""

    def __init__(self, limit: int, hide: Redactor) -> None:
        """Events have the secrets of `hide` replaced. One of more than `limit` bytes raises `RequestRejected`."""
        self._limit = limit
        self._hide = hide
        self._scan = SecretScan(hide)
        self._begun = False
        self._said = False
        self._after_return = False
        self._line: list[bytes] = []
        self._raw: list[bytes] = []
        self._size = 0
        self._data: list[bytes] = []
        self._kind = ""

    def rest(self) -> ServerEvent:
        """At the end of a stream, the event that has not ended, as far as it came. The standard leaves it out."""
        whole = b"".join(self._raw)
        last = next(self.feed(b"\n\n"), ServerEvent("", None, b""))
        return last._replace(raw=self._hide(whole))

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events that `chunk` completes."""
        start = 0  # of the line
        kept = 0  # how much of the chunk is in an event that has ended
        if self._after_return and chunk.startswith(b"\n"):  # the other half of a line's end
            start = 1
        if chunk:
            self._after_return = chunk.endswith(b"\r")
        for end in LINE_END.finditer(chunk, start):
            self._line.append(chunk[start : end.start()])
            start = end.end()
            line = self._line[0] if len(self._line) == 1 else b"".join(self._line)
            self._line.clear()
            if not self._begun:
                self._begun, line = True, line.removeprefix(BYTE_ORDER_MARK)
            if line:
                self._take(line)
                continue
            if not self._said:  # a further blank line ends nothing: it goes with the next event
                continue
            self._add(chunk[kept:start])
            yield self._end()
            kept = start
        self._line.append(chunk[start:])
        self._add(chunk[kept:])

    def _add(self, piece: bytes) -> None:
        self._raw.append(piece)
        self._scan.feed(piece)
        self._size += len(piece)
        if self._size > self._limit:
            raise RequestRejected(f"an event of the stream has more than {self._limit:,} bytes (max_answer_bytes)")

    def _take(self, line: bytes) -> None:
        self._said = True
        if line.startswith(b"data:"):
            self._data.append(line[6 if line[5:6] == b" " else 5 :])  # cut once: it may be large
        elif line == b"data":
            self._data.append(b"")
        elif line == b"event" or line.startswith(b"event:"):
            self._kind = line[6:].removeprefix(b" ").decode(errors="replace")

    def _end(self) -> ServerEvent:
        data, kind = b"\n".join(self._data) if self._data else None, self._kind
        if self._scan.found:
            data, kind = data and self._hide(data), self._hide(kind)
        event = ServerEvent(kind, data, self._scan.clean(b"".join(self._raw)))
        self._raw.clear()
        self._data.clear()
        self._kind, self._size, self._said = "", 0, False
        return event
