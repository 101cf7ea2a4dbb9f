"""The store's thread: what fails, fails for whom it concerns, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import gc
import shutil
import sqlite3
from contextlib import closing
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
    async with asyncio.timeout(120):
        results = await asyncio.gather(*(database.run(insert(i)) for i in range(3)), return_exceptions=True)
        await database.aclose()
    assert all(isinstance(result, StoreError) for result in results)


async def test_what_comes_while_it_closes_is_told_so(tmp_path: Path) -> None:
    database = Database(tmp_path / "db.sqlite", SCHEMA)
    await database.run(insert(0))
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        group.create_task(database.aclose())
        await asyncio.sleep(0)
        with pytest.raises(StoreError, match="is closed"):
            await database.run(insert(1))


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


async def test_any_error_in_the_thread_reaches_every_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("tts.runs.database._commit", fail)
    async with asyncio.timeout(120):
        async with Database(tmp_path / "db.sqlite", SCHEMA) as database:
            with pytest.raises(StoreError, match="MemoryError: no room"):
                await database.run(insert(1))
        with pytest.raises(StoreError, match="closed"):
            await database.run(insert(1))


async def test_an_error_while_opening_reaches_every_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tts.runs.database.connect", lambda path: 1 / 0)
    async with asyncio.timeout(120), Database(tmp_path / "db.sqlite", SCHEMA) as database:
        with pytest.raises(StoreError, match="ZeroDivisionError"):
            await database.run(insert(1))


async def test_a_lock_that_lasts_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tts.runs.database.LOCK_SECONDS", 0.2)
    path = tmp_path / "db.sqlite"
    async with Database(path, SCHEMA) as database:
        await database.run(insert(1))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match=rf"{path}: another program has had it locked for 0\.2 s"):
                await database.run(insert(2))
            other.execute("ROLLBACK")
        assert await database.run(insert(3)) == 2


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_taken_away_is_noticed_at_the_next_write(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "run" / "db.sqlite"
    path.parent.mkdir()
    async with Database(path, SCHEMA) as database:
        await database.run(insert(1))
        shutil.rmtree(path.parent)
        if replaced:
            path.parent.mkdir()
            path.touch()
        with pytest.raises(StoreError, match="deleted or replaced"):
            await database.run(insert(2))


async def test_writers_that_are_gone_when_the_disk_is_full_leave_no_noise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()  # what tests before it have left
    caplog.clear()
    async with Database(tmp_path / "db.sqlite", SCHEMA) as database:
        await database.run(insert(0))
        await database.run(lambda db: db.execute("PRAGMA max_page_count = 2") and None)
        flood = [(i,) for i in range(10_000)]
        jobs = [
            database.run(lambda db: db.executemany("INSERT INTO kept VALUES (?)", flood) and None) for _ in range(50)
        ]
        with pytest.raises(StoreError, match="full"):
            await jobs[-1]
        del jobs
        gc.collect()
        await asyncio.sleep(0)
    assert "never retrieved" not in caplog.text
