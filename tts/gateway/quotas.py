"""What each key has spent today: reserved before a request goes out, settled after it, and kept in a file.

The file is beside the gateway's settings. It is written before a model is asked, so that neither a restart nor a kill
gives a key its day anew; what was reserved when the process was killed counts as spent.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from time import time
from typing import Self

from tts.accounts import Grant, Quota
from tts.errors import ConfigError, StoreError, log

DAY = 86_400.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS spending (
    key TEXT PRIMARY KEY,
    day INTEGER NOT NULL,
    tokens REAL NOT NULL,
    money REAL NOT NULL,
    reserved_tokens REAL NOT NULL,
    reserved_money REAL NOT NULL
) STRICT
"""
SAVE = "INSERT OR REPLACE INTO spending VALUES (?, ?, ?, ?, ?, ?)"


class DailyQuota(Quota):
    """What one key may spend from midnight to midnight, UTC."""

    def __init__(self, name: str, tokens: float | None, money: float | None) -> None:
        super().__init__(tokens, money)
        self.name = name
        self.day: int = _today()
        self._file: QuotaFile | None = None

    @property
    def used_up(self) -> list[str]:
        self._roll()
        return super().used_up

    @property
    def room(self) -> tuple[float, float]:
        self._roll()
        return super().room

    async def hold(self, grant: Grant) -> bool:
        """Reserve `grant`, and return when that is on disk. Raises `StoreError` where it cannot be written."""
        await super().hold(grant)
        try:
            if self._file is not None:
                await self._file.saved(self)
        except BaseException:
            self.release(grant)
            raise
        return True

    def release(self, grant: Grant) -> None:
        super().release(grant)
        if self._file is not None:
            self._file.save(self)

    def spend(self, tokens: float, money: float) -> None:
        self._roll()
        super().spend(tokens, money)
        if self._file is not None:
            self._file.save(self)

    def keep_in(self, file: QuotaFile, day: int, tokens: float, money: float) -> None:
        """Go on from what `file` says, and keep it up to date."""
        self._file = file
        if day == self.day:
            self.spend(tokens, money)

    def row(self) -> tuple[str, int, float, float, float, float]:
        held = self.reserved
        return (self.name, self.day, *self.spent, held.prompt_tokens + held.completion_tokens, held.money)

    def _roll(self) -> None:
        if (today := _today()) != self.day:
            self.day, self.spent = today, (0.0, 0.0)


class QuotaFile:
    """The file that keeps quotas. An async context manager; it belongs to one gateway at a time.

    Those who wait for a write share it: while one is under way, what changes is written by the next.
    """

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` where the file cannot be used, or another gateway uses it."""
        self._changed: dict[str, DailyQuota] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._wanted = asyncio.Event()
        self._closing = False
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite's other files get the same mode
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=2, check_same_thread=False)
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.execute(SCHEMA)
            self._store([])
        except (OSError, sqlite3.Error) as error:
            words = error.strerror if isinstance(error, OSError) else str(error)
            hint = "; another gateway has it open" if "locked" in str(words) else ""
            raise ConfigError(f"cannot keep what keys spend in {path}: {words}{hint} (quotas = PATH)") from None
        query = "SELECT key, day, tokens + reserved_tokens, money + reserved_money FROM spending"
        self._before: dict[str, tuple[int, float, float]] = {row[0]: row[1:] for row in self._connection.execute(query)}

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._wanted.set()
        await self._writer
        await self._flush()
        self._connection.close()

    def resume(self, quota: DailyQuota) -> None:
        """Let a new quota go on from what the file said. What was reserved at a kill may have been spent."""
        quota.keep_in(self, *self._before.pop(quota.name, (quota.day, 0.0, 0.0)))

    def save(self, quota: DailyQuota) -> None:
        """Write what `quota` says, soon."""
        self._changed[quota.name] = quota
        self._wanted.set()

    async def saved(self, quota: DailyQuota) -> None:
        """Write what `quota` says, and return when it is on disk. Raises `StoreError` where that fails."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self.save(quota)
        await done

    async def _write(self) -> None:
        while not self._closing:
            await self._wanted.wait()
            self._wanted.clear()
            await self._flush()

    async def _flush(self) -> None:
        changed, self._changed, waiting, self._waiting = self._changed, {}, self._waiting, []
        failure: StoreError | None = None
        try:
            await asyncio.to_thread(self._store, [quota.row() for quota in changed.values()])
        except sqlite3.Error as error:
            log.error("what keys spend cannot be written: %s", error)
            self._changed = {**changed, **self._changed}  # with what changes next
            failure = StoreError("what keys spend cannot be written; the gateway's log says more")
        for done in waiting:
            if not done.done():
                done.set_result(None) if failure is None else done.set_exception(failure)

    def _store(self, rows: list[tuple[str, int, float, float, float, float]]) -> None:
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(SAVE, rows)


def _today() -> int:
    return int(time() // DAY)
