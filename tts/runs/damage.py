"""Whether a run's file is as it was written: SQLite itself notices a changed bit only where it breaks the structure."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tts.errors import StoreError
from tts.types import USAGE_FIELDS

CHECKED = {
    "samples": "key, occurrence, data",
    "cells": "id, problem, strategy, model, seed, ended, selected, oracle, seconds, spent, reused, wasted, failures",
    "candidates": "cell, position, arrived, elapsed, score, passed, correct, content, details",
    "charges": f"cell, position, role, started, {', '.join(USAGE_FIELDS)}",
    "columns": "cell, numbers, charges, told",
}
"""The columns of each table that a row's checksum is over (`checksum` in SQL)."""


def damaged(path: Path, what: object) -> StoreError:
    """The error for a file of which `what` is not as it was written."""
    return StoreError(f"{path} is damaged: {what}. Restore a copy, or start again with another --out")


LARGE = 64 << 20
"""Bytes of a file from which it is sealed: below, asking every row takes no time."""
_SUM = """
import sys, zlib
found = 0
with open(sys.argv[1], "rb") as file:
    while part := file.read(1 << 20):
        found = zlib.crc32(part, found)
print(found)
"""


def seal(path: Path) -> None:
    """Write beside a file that its writer has closed the checksum of the whole, by which `check` takes no time.

    A seal younger than the file is left as it is: nothing was written.
    """
    with suppress(OSError):
        before, found = _seal_of(path), path.stat()
        if found.st_size >= LARGE and not (before.exists() and before.stat().st_mtime_ns > found.st_mtime_ns):
            _seal_of(path).write_text(_sum(path))


def _sealed(path: Path) -> bool:
    """Whether every byte is as its last writer left it, and nothing waits in a log to be added."""
    try:
        log = path.with_name(f"{path.name}-wal")
        return not (log.exists() and log.stat().st_size) and _seal_of(path).read_text() == _sum(path)
    except OSError:
        return False


def _seal_of(path: Path) -> Path:
    return path.with_suffix(".seal")


def _sum(path: Path) -> str:
    """The CRC of a file, read in another process: closing it in this one would undo SQLite's locks on it here."""
    return subprocess.run([sys.executable, "-ISc", _SUM, path], stdout=subprocess.PIPE, text=True).stdout


def version(db: sqlite3.Connection) -> int:
    """A number that changes when another connection writes into the file."""
    return db.execute("PRAGMA data_version").fetchone()[0]


def check(db: sqlite3.Connection, path: Path) -> int:
    """The `version` of a sound file. Raises `StoreError` if it is damaged, or any row is not as it was written."""
    if _sealed(path):
        return version(db)
    try:
        (said,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if said != "ok":
            raise damaged(path, said)
        there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in there & CHECKED.keys():
            query = f"SELECT 1 FROM {table} WHERE NOT intact(checksum, {CHECKED[table]}) LIMIT 1"
            if db.execute(query).fetchone():
                raise damaged(path, f"a row of {table} has changed since it was written")
        return version(db)
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter of a message that quotes a damaged schema
        raise damaged(path, error) from None
