"""Plain data inside a page: compressed, and split so that a browser unpacks only what is looked at."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import Any

from tts.studies.verifiers import plain

CHUNK = 200_000
"""Characters of JSON from which a chunk is closed."""


def packed(data: Any) -> str:
    """`data` as JSON, gzip and Base64: nothing in it can be taken for HTML."""
    return b64encode(gzip.compress(as_json(data).encode(), 6, mtime=0)).decode()


def chunks(items: Iterable[tuple[int, Any]]) -> Iterator[tuple[list[int], str]]:
    """Items by number, as packed objects `{number: item}` of about `CHUNK` characters, each with its numbers."""
    open_: dict[int, str] = {}
    size = 0
    for number, item in items:
        open_[number] = as_json(item)
        size += len(open_[number])
        if size >= CHUNK:
            yield list(open_), _closed(open_)
            open_, size = {}, 0
    if open_:
        yield list(open_), _closed(open_)


def _closed(items: dict[int, str]) -> str:
    text = ",".join(f'"{number}":{item}' for number, item in items.items())
    return b64encode(gzip.compress(f"{{{text}}}".encode(), 6, mtime=0)).decode()


def as_json(data: Any) -> str:
    """JSON as browsers read it, in ASCII: without NaN, which Python would write, and with lone surrogates escaped."""
    return json.dumps(plain(data), separators=(",", ":"), default=str)
