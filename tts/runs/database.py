"""SQLite on a thread of its own, and the lock that gives a run directory one writer."""

from __future__ import annotations

import asyncio
import fcntl
import marshal
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Self, TypeVar
from zlib import crc32

from tts.errors import ConfigError, RunLocked, StoreError
from tts.runs.damage import damaged

T = TypeVar("T")
_Job = tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]

BATCH = 512
"""The most jobs that are committed together."""
LOCK_SECONDS = 30.0
"""How long to wait for another program that has locked the file."""


class Database:
    """Runs functions on a connection in a thread, in order; jobs that wait together are committed together.

    A job's result is returned after its transaction is committed, so what a caller has seen survives a kill of the
    process (WAL with synchronous=NORMAL; a power cut may lose the last moments).
    """

    def __init__(self, path: Path, schema: str) -> None:
        self._path, self._schema = path, schema
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._thread = Thread(target=self._work, name="tts-store", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Queue `function(connection)`; the future has its result once it is committed.

        Raises `StoreError` if the file cannot be written, or is not where it was any more.
        """
        done: asyncio.Future[T] = self._loop.create_future()
        if self._thread.is_alive() and not self._closed:
            self._jobs.put((function, done))
        else:
            _settle([(done, None, StoreError(f"{self._path} is closed"))])
        return done

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Finish what is queued and close the file."""
        self._closed = True  # what came behind would wait for ever
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.sleep(0)  # for the outcomes: Python 3.14 may come here before them

    def _work(self) -> None:
        connection, broken, file = None, None, None
        try:
            connection = connect(self._path)
            connection.executescript(self._schema)
            file = _identity(self._path)
        except Exception as error:
            broken = error
        open_ = True
        while open_:
            jobs = [self._jobs.get()]
            while not self._jobs.empty() and len(jobs) < BATCH:
                jobs.append(self._jobs.get())
            open_ = None not in jobs
            batch = [job for job in jobs if job is not None]
            outcomes: list[_Outcome]
            try:
                if connection is None or broken is not None:
                    raise broken or sqlite3.OperationalError("no connection")
                if _identity(self._path) != file:
                    raise StoreError(f"{self._path} was deleted or replaced while it was written; choose another --out")
                outcomes = _commit(connection, batch)
            except Exception as error:  # whatever it is, nobody may wait for ever
                outcomes = [(done, None, self._failure(error)) for _, done in batch]
            self._loop.call_soon_threadsafe(_settle, outcomes)
        if connection is not None:
            connection.close()

    def _failure(self, error: Exception) -> StoreError:
        if isinstance(error, StoreError):
            return StoreError(str(error))
        if type(error) is sqlite3.DatabaseError:
            return damaged(self._path, error)
        words = str(error) if isinstance(error, sqlite3.Error) else f"{type(error).__name__}: {error}"
        if "locked" in words:
            words = f"another program has had it locked for {LOCK_SECONDS:g} s; close that program"
        failure = StoreError(f"cannot write {self._path}: {words}. What is stored is safe; --resume")
        failure.__cause__ = error
        return failure


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is at `path`; None: none is."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


_Outcome = tuple[asyncio.Future[Any], Any, BaseException | None]


def _commit(connection: sqlite3.Connection, jobs: list[_Job]) -> list[_Outcome]:
    """Run `jobs` in one transaction. Raises `sqlite3.Error` if it cannot be committed, as when the disk is full.

    The transaction takes the write lock at once, so that waiting for another program fails no single job.
    """
    outcomes: list[_Outcome] = []
    try:
        connection.execute("BEGIN IMMEDIATE")
        for function, done in jobs:
            connection.execute("SAVEPOINT job")  # a job that fails undoes none of the others
            try:
                outcomes.append((done, function(connection), None))
            except Exception as error:
                if not connection.in_transaction or type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):
                    raise  # not the job's fault: the disk is full, or the file is damaged
                connection.execute("ROLLBACK TO job")
                outcomes.append((done, None, error))
            connection.execute("RELEASE job")
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return outcomes


def _settle(outcomes: list[_Outcome]) -> None:
    for done, result, error in outcomes:
        if done.cancelled():
            continue
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)
            done.exception()  # a caller that was cancelled meanwhile does not ask for it


class _Reader(sqlite3.Connection):
    """A connection that whoever drops it last closes, in whichever thread that is."""

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # it was never open
            self.close()


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection with the settings that all users of the file share."""
    if not read_only and not path.exists():
        with suppress(OSError):  # which SQLite will say better
            path.touch(0o600)  # answers are nobody else's business; SQLite gives its other files the same mode
    uri = path.absolute().as_uri() + ("?mode=ro" if read_only else "")
    kind = _Reader if read_only else sqlite3.Connection
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=LOCK_SECONDS, factory=kind, check_same_thread=not read_only
    )
    connection.text_factory = lambda data: data.decode(errors="replace")  # `json_extract` gives halves of characters
    connection.create_function("checksum", -1, _checksum, deterministic=True)
    connection.create_function("intact", -1, _intact, deterministic=True)
    if not read_only:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
    return connection


def _checksum(*values: Any) -> int:
    return crc32(marshal.dumps(values, 2))  # as old a format as that knows no references, so that equal is equal


def _intact(stored: int | None, *values: Any) -> bool:
    """Whether `values` are those of which the checksum is `stored`, be it the one that was used before."""
    return stored == _checksum(*values) or stored == crc32(repr(values).encode())


class Lock:
    """The sole right to write into a run directory, released at the latest when the process ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(f"cannot write into {directory}: {error.strerror}; choose another --out") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._file, 32).decode() or "unknown"
            os.close(self._file)
            raise RunLocked(
                f"{directory} is being written by another process (pid {holder}); wait for it, or choose another --out"
            ) from None
        os.ftruncate(self._file, 0)
        os.write(self._file, str(os.getpid()).encode())

    def release(self) -> None:
        os.close(self._file)
