"""What happens to a run's file is noticed: bits that flip, a directory that is deleted."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from zlib import crc32

import pytest

from tests.support.double import ModelDouble
from tts import Endpoint, Experiment
from tts.errors import ConfigError, StoreError, TTSError
from tts.runs import Run, damage
from tts.runs.analysis import summary
from tts.runs.damage import CHECKED
from tts.runs.progress import Progress

GRID = {"strategies": ["self_consistency:n=4"]}


def content(run: Run) -> object:
    rows = [list(run.export()), run.db.execute("SELECT key, occurrence, data FROM samples ORDER BY 1, 2").fetchall()]
    return repr((rows, summary(run)))


async def test_no_flipped_bit_changes_what_is_read_in_silence(task: str, endpoint: Endpoint, tmp_path: Path) -> None:
    run = await Experiment.parse({"task": task, "models": endpoint, "limit": 6, **GRID}).run(tmp_path / "run")
    run.db.close()
    path = tmp_path / "run" / "run.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA journal_mode=DELETE")
    whole, before = path.read_bytes(), content(Run(tmp_path / "run"))
    generator, noticed = random.Random(0), 0
    for _ in range(300):
        place, bit = generator.randrange(len(whole)), generator.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        try:
            damaged = Run(tmp_path / "run")
            assert content(damaged) == before, f"bit {bit} of byte {place}"
            damaged.db.close()
        except TTSError:
            noticed += 1
    assert noticed > 100


async def test_a_damaged_answer_is_not_resumed_from(task: str, endpoint: Endpoint, tmp_path: Path) -> None:
    experiment = Experiment.parse({"task": task, "models": endpoint, "limit": 2, **GRID})
    await experiment.run(tmp_path / "run")
    with closing(sqlite3.connect(tmp_path / "run" / "run.sqlite", isolation_level=None)) as db:
        db.execute("UPDATE samples SET data = replace(data, 'Answer: ', 'Answer: 1')")
    with pytest.raises(StoreError, match="a row of samples has changed"):
        await experiment.run(tmp_path / "run", resume=True)


async def test_a_file_cut_in_two_and_a_record_that_is_none_are_told_as_damaged(
    task: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    experiment = Experiment.parse({"task": task, "models": endpoint, "limit": 2, **GRID})
    (await experiment.run(tmp_path / "run")).db.close()
    path = tmp_path / "run" / "run.sqlite"
    path.write_bytes(path.read_bytes()[:5000])
    for left in path.parent.glob("run.sqlite-*"):
        left.unlink()
    with pytest.raises(StoreError, match=r"is damaged: .* Restore a copy"):
        await experiment.run(tmp_path / "run", resume=True)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json is damaged"):
        Run(tmp_path / "run")


async def test_a_deleted_directory_ends_the_run_at_the_next_answer(
    task: str, double: ModelDouble, endpoint: Endpoint, tmp_path: Path
) -> None:
    double.latency = 0.05
    narrow = endpoint.model_copy(update={"max_concurrency": 2})
    running = asyncio.create_task(Experiment.parse({"task": task, "models": narrow, **GRID}).run(tmp_path / "run"))
    while double.stats.served < 4:
        await asyncio.sleep(0.01)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(StoreError, match="deleted or replaced"):
        await running
    assert double.stats.served < 12


async def test_a_file_with_the_checksums_of_before_is_read_and_its_damage_noticed(
    task: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    run = await Experiment.parse({"task": task, "models": endpoint, "limit": 2, **GRID}).run(tmp_path / "run")
    before = content(run)
    run.db.close()
    with closing(sqlite3.connect(tmp_path / "run" / "run.sqlite", isolation_level=None)) as db:
        db.create_function("before", -1, lambda *values: crc32(repr(values).encode()), deterministic=True)
        for table, columns in CHECKED.items():
            db.execute(f"UPDATE {table} SET checksum = before({columns})")
    assert content(Run(tmp_path / "run")) == before
    with closing(sqlite3.connect(tmp_path / "run" / "run.sqlite", isolation_level=None)) as db:
        db.execute("UPDATE charges SET completion_tokens = completion_tokens + 1")
    with pytest.raises(StoreError, match="a row of charges has changed"):
        Run(tmp_path / "run")


@pytest.mark.parametrize("when", ["before", "during"])
async def test_what_others_wrote_into_a_file_is_not_sealed(
    task: str, endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(damage, "LARGE", 0)
    grid = Experiment.parse({"task": task, "models": endpoint, "limit": 2, **GRID})
    (await grid.run(tmp_path / "run")).db.close()
    path = tmp_path / "run" / "run.sqlite"

    class Interfering(Progress):
        def begin(self, *_: object, **__: object) -> None:
            if when == "during":
                interfere()

    def interfere() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("UPDATE charges SET completion_tokens = completion_tokens + 1")

    if when == "before":
        interfere()
    larger = grid.model_copy(update={"limit": 4})
    for _ in range(2):  # what is refused once is refused again
        with pytest.raises(StoreError, match="a row of charges has changed"):
            await larger.run(tmp_path / "run", resume=True, progress=Interfering())
        with pytest.raises(StoreError, match="a row of charges has changed"):
            Run(tmp_path / "run")
