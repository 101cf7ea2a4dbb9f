"""Responses that clients may come back to: kept for each key apart, for a time, in a bounded room."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import time
from typing import Any, Self, TypeVar

from tts.concurrency import LARGE
from tts.errors import ConfigError, log
from tts.gateway.exchange import APIError, bad_request
from tts.gateway.settings import GatewayLimits
from tts.sampler.protocol import YIELDING, bytes_of
from tts.text import size_of

T = TypeVar("T")
Json = dict[str, Any]

SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    made REAL NOT NULL,
    size INTEGER NOT NULL,
    response BLOB NOT NULL,
    input BLOB NOT NULL,
    UNIQUE (owner, id)
) STRICT;
CREATE TABLE IF NOT EXISTS items (
    owner TEXT NOT NULL,
    item TEXT NOT NULL,
    number INTEGER NOT NULL REFERENCES responses ON DELETE CASCADE
) STRICT;
CREATE INDEX IF NOT EXISTS items_by_id ON items (owner, item);
CREATE INDEX IF NOT EXISTS items_by_response ON items (number);
"""
TRIM = """
DELETE FROM responses WHERE owner = :owner AND number NOT IN (
    SELECT number FROM (
        SELECT number, row_number() OVER newest AS place, sum(size) OVER newest AS total
        FROM responses WHERE owner = :owner WINDOW newest AS (ORDER BY number DESC)
    ) WHERE place <= :most AND total <= :bytes
)
"""


class ResponseStore:
    """What each key's responses said, and what they answered. An async context manager.

    Several processes may share its file. Raises `ConfigError` where that cannot be used.
    """

    def __init__(self, path: Path | None, limits: GatewayLimits) -> None:
        """Without a `path`, they are kept until the gateway stops, in a temporary file."""
        self._path = path
        self.limits: GatewayLimits = limits
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        try:
            if self._path is not None:
                self._path.touch(0o600)
            path = self._path or ""
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)
            for pragma in ("journal_mode=WAL", "synchronous=OFF", "foreign_keys=ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"cannot keep responses in {self._path}: {error} (responses = PATH)") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._aside(self._connection.close)

    async def keep(self, owner: str, response: Mapping[str, Any], items: str | Sequence[Json]) -> bool:
        """Remember a response to `items`, for as long as there is room; whether that was possible."""

        def work() -> bool:
            given = [{"role": "user", "content": items}] if isinstance(items, str) else [*items]
            said, asked = bytes_of(response, large=True), bytes_of(given, large=True)
            size = len(said) + len(asked)
            if size > self.limits.stored_bytes or not self.limits.stored_responses:
                return False
            known = [*given, *response.get("output", ())]
            ids = {one["id"] for one in known if isinstance(one, dict) and isinstance(one.get("id"), str)}
            with self._connection as db:
                db.execute("BEGIN IMMEDIATE")
                db.execute("DELETE FROM responses WHERE made < ?", (time() - self.limits.stored_seconds,))
                row = (owner, str(response["id"]), time(), size, said, asked)
                made = db.execute("INSERT OR REPLACE INTO responses VALUES (NULL, ?, ?, ?, ?, ?, ?)", row)
                db.executemany("INSERT INTO items VALUES (?, ?, ?)", [(owner, one, made.lastrowid) for one in ids])
                room = {"most": self.limits.stored_responses, "bytes": self.limits.stored_bytes}
                db.execute(TRIM, {"owner": owner, **room})
            return True

        try:
            return await self._aside(work)
        except sqlite3.Error as error:
            log.error("a response cannot be kept: %s", error)
            return False

    async def find(self, owner: str, name: str) -> bytes:
        """The response called `name`, in JSON. Raises `APIError` (404) if this owner has none."""
        return (await self._aside(self._read, BY_NAME, owner, name) or _missing(name))[0]

    async def page(self, owner: str, name: str, asked: Mapping[str, str]) -> bytes:
        """A page of the items that the response called `name` answers, by a query's `limit`, `order` and `after`.

        Raises as `find` does, and `APIError` (400) for a query that cannot be.
        """

        def work() -> bytes | None:
            row = self._read(BY_NAME, owner, name)
            return None if row is None else bytes_of(_page(_listed(_loads(row[1]), name), asked), large=True)

        return await self._aside(work) or _missing(name)

    async def delete(self, owner: str, name: str) -> None:
        """Forget it. Raises as `find` does."""

        def work() -> int:
            row = (owner, name, time() - self.limits.stored_seconds)
            return self._connection.execute(
                "DELETE FROM responses WHERE owner = ? AND id = ? AND made >= ?", row
            ).rowcount

        if not await self._aside(work):
            _missing(name)

    async def whole(self, owner: str, body: Json) -> Json:
        """The body with all that its `previous_response_id` and its references stand for as its input.

        Raises `APIError`: 404 for what this owner does not have, 413 where it is more than a request may have, however
        often an item is named.
        """
        given, previous = body.get("input"), body.get("previous_response_id")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        if not isinstance(items, list) or (previous is None and not any(map(_is_reference, items))):
            return body
        before = [] if previous is None else await self._aside(self._conversation, owner, str(previous))
        names = [str(one.get("id")) if _is_reference(one) else None for one in items]
        known = await self._aside(self._items, owner, {name for name in names if name is not None})
        most = self.limits.body_bytes
        sizes = {name: size_of(item, most) for name, item in known.items()}
        if sum(sizes[name] for name in names if name is not None) > most:
            raise too_large(most)
        named = [one if name is None else known[name] for one, name in zip(items, names, strict=True)]
        return {**body, "input": [*before, *named]}

    def _conversation(self, owner: str, name: str) -> list[Json]:
        """What the response called `name` answers, and what it says."""
        row = self._read(BY_NAME, owner, name)
        if row is None:
            message = f"previous_response_id: there is no response '{name[:200]}' here, or no longer"
            raise APIError(404, message, "previous_response_not_found", "previous_response_id")
        return [*_loads(row[1]), *_loads(row[0]).get("output", ())]

    def _items(self, owner: str, names: Iterable[str]) -> dict[str, Json]:
        """The items of these names; a response that has several of them is read once."""
        found: dict[str, Json] = {}
        places = defaultdict[int, set[str]](set)
        for name in names:
            places[(self._read(PLACE, owner, name) or _missing(name, "input"))[0]].add(name)
        for place, wanted in places.items():
            response, given = self._connection.execute(BY_PLACE, (place,)).fetchone()
            items = [*_loads(given), *_loads(response).get("output", ())]
            named = (one for one in items if isinstance(one, dict) and isinstance(one.get("id"), str))
            found |= {one["id"]: one for one in named if one["id"] in wanted}
        return found

    def _read(self, query: str, owner: str, name: str) -> Any:
        return self._connection.execute(query, (owner, name, time() - self.limits.stored_seconds)).fetchone()

    async def _aside(self, work: Callable[..., T], *args: Any) -> T:
        def locked() -> T:
            with self._lock:
                return work(*args)

        return await asyncio.to_thread(locked)


BY_NAME = "SELECT response, input FROM responses WHERE owner = ? AND id = ? AND made >= ?"
BY_PLACE = "SELECT response, input FROM responses WHERE number = ?"
PLACE = """
SELECT number FROM responses JOIN items USING (number)
WHERE items.owner = ? AND item = ? AND made >= ? ORDER BY number DESC LIMIT 1
"""


def _loads(data: bytes) -> Any:
    return json.loads(data, **(YIELDING if len(data) > LARGE else {}))


def too_large(most: int) -> APIError:
    """The error for a request that is too large with what it goes on from."""
    message = f"previous_response_id: a request may have at most {most} bytes, what it goes on from included"
    return APIError(413, message, "request_too_large")


def _is_reference(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "item_reference"


def _missing(name: str, param: str | None = None) -> Any:
    raise APIError(404, f"there is nothing called '{name[:200]}' here, or no longer", "not_found", param)


def _listed(items: Sequence[Any], response: str) -> list[Json]:
    """The input items of a response as they are listed: each with an id, texts as parts."""
    named, run = list[Json](), response.rpartition("_")[2]
    for place, one in enumerate(items):
        item = {"id": f"in_{place}_{run}", "type": "message", "status": "completed", **one}
        if isinstance(item.get("content"), str) and item["type"] == "message":
            kind = "output_text" if item.get("role") == "assistant" else "input_text"
            item["content"] = [{"type": kind, "text": item["content"]}]
        named.append(item)
    return named


def _page(items: list[Json], asked: Mapping[str, str]) -> Json:
    limit, order, after = asked.get("limit", "20"), asked.get("order", "desc"), asked.get("after")
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= 100:
        raise bad_request("limit must be a number from 1 to 100", "limit")
    if order not in ("asc", "desc"):
        raise bad_request("order must be asc or desc", "order")
    items = items if order == "asc" else items[::-1]
    ids = [item["id"] for item in items]
    if after is not None:
        if after not in ids:
            raise bad_request(f"after: there is no item '{after[:200]}'", "after")
        items = items[ids.index(after) + 1 :]
    data = items[: int(limit)]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, **ends, "has_more": len(items) > len(data)}
