"""The store's thread: what fails, fails for whom it concerns, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from tts.errors import StoreError
from tts.runs.database import Database

SCHEMA = "CREATE TABLE IF NOT EXISTS kept (value INTEGER NOT NULL)"


def insert(value: int | None):
    def run(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO kept VALUES (?)", (value,))
        return db.execute("SELECT COUNT(*) FROM kept").fetchone()[0]

    return run


async def test_a_job_that_fails_takes_nothing_of_the_others_with_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "db.sqlite", SCHEMA)
    jobs = [database.run(insert(value)) for value in (1, None, 3)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    await database.aclose()
    assert results[0::2] == [1, 2]
    assert isinstance(results[1], sqlite3.IntegrityError)


async def test_a_file_that_is_no_database_is_reported_to_every_caller(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    path.write_text("this is no database, however one looks at it" * 100)
    database = Database(path, SCHEMA)
    async with asyncio.timeout(10):
        results = await asyncio.gather(*(database.run(insert(i)) for i in range(3)), return_exceptions=True)
        await database.aclose()
    assert all(isinstance(result, StoreError) for result in results)


async def test_a_full_disk_confirms_nothing_and_a_later_batch_goes_on(tmp_path: Path) -> None:
    database = Database(tmp_path / "db.sqlite", SCHEMA)
    await database.run(insert(0))
    pages = await database.run(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await database.run(lambda db: db.execute(f"PRAGMA max_page_count = {pages}") and None)

    def flood(db: sqlite3.Connection) -> None:
        db.executemany("INSERT INTO kept VALUES (?)", [(i,) for i in range(100_000)])

    with pytest.raises(StoreError, match="full"):
        await database.run(flood)
    await database.run(lambda db: db.execute("PRAGMA max_page_count = 1000000") and None)
    assert await database.run(insert(1)) == 2
    await database.aclose()
