"""Whether a run's file is as it was written: SQLite itself notices a changed bit only where it breaks the structure."""

from __future__ import annotations

import sqlite3
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


def check(db: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreError` if the file is damaged, or any row is not as it was written."""
    try:
        (said,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if said != "ok":
            raise damaged(path, said)
        there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in there & CHECKED.keys():
            query = f"SELECT 1 FROM {table} WHERE NOT intact(checksum, {CHECKED[table]}) LIMIT 1"
            if db.execute(query).fetchone():
                raise damaged(path, f"a row of {table} has changed since it was written")
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter of a message that quotes a damaged schema
        raise damaged(path, error) from None
