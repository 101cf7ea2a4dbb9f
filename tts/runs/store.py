"""What a run stores: every answer before it is used, and every finished cell with its candidates and charges."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from bisect import bisect_left
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tts.lacks import lack_of
from tts.resources import SampleStore
from tts.runs.addresses import Addresses
from tts.runs.columns import Columns
from tts.runs.damage import CHECKED, check, damaged, seal, version
from tts.runs.database import Database
from tts.text import well_formed
from tts.types import USAGE_FIELDS, Candidate, Charge, Result, Sample, Usage, Verdict, total

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS samples (  -- answers by content address and occurrence number
    key BLOB NOT NULL, occurrence INTEGER NOT NULL, data TEXT NOT NULL, checksum INTEGER);
CREATE UNIQUE INDEX IF NOT EXISTS sample_address ON samples (key, occurrence);

CREATE TABLE IF NOT EXISTS cells (  -- one strategy on one problem with one model and seed
    id INTEGER PRIMARY KEY,
    problem TEXT NOT NULL, strategy TEXT NOT NULL, model TEXT NOT NULL, seed INTEGER NOT NULL,
    ended TEXT NOT NULL, selected INTEGER, oracle INTEGER NOT NULL, seconds REAL NOT NULL,
    spent TEXT NOT NULL, reused TEXT NOT NULL, wasted TEXT NOT NULL, failures TEXT NOT NULL, checksum INTEGER,
    UNIQUE (problem, strategy, model, seed));

CREATE TABLE IF NOT EXISTS candidates (  -- position: order of spawning within the cell, from 0
    cell INTEGER NOT NULL REFERENCES cells (id) ON DELETE CASCADE, position INTEGER NOT NULL,
    arrived INTEGER NOT NULL, elapsed REAL NOT NULL, score REAL, passed INTEGER, correct INTEGER,
    content TEXT NOT NULL, details TEXT NOT NULL, checksum INTEGER,
    PRIMARY KEY (cell, position)) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS charges (  -- what the cell would have cost alone; position p: the first candidate, in
    -- spawned order, that descends from it; ~p (-1 - p): none does, and it stands at p (see Track.cost)
    cell INTEGER NOT NULL REFERENCES cells (id) ON DELETE CASCADE, position INTEGER,
    role TEXT NOT NULL, started REAL NOT NULL, {", ".join(f"{name} REAL NOT NULL" for name in USAGE_FIELDS)},
    checksum INTEGER);
CREATE INDEX IF NOT EXISTS charge_cell ON charges (cell);

CREATE TABLE IF NOT EXISTS columns (  -- the same candidates and charges as `tts.runs.columns.Columns`
    cell INTEGER PRIMARY KEY REFERENCES cells (id) ON DELETE CASCADE,
    numbers BLOB NOT NULL, charges BLOB NOT NULL, told TEXT NOT NULL, checksum INTEGER);
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One square of the grid: a strategy on a problem with a model and a seed."""

    problem: str
    strategy: str
    model: str
    seed: int


class AnswerStore(SampleStore, Protocol):
    """What keeps the results of a run: its `Store`, wherever that is."""

    async def finish(self, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
        """Store a finished cell, whole or not at all; `correct` is the truth of each candidate by id."""
        ...


class Store(Database):
    """The writing side of a run's SQLite file; `tts.runs.Run` reads it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, SCHEMA)
        query = "SELECT DISTINCT key FROM samples"
        self._before = self.run(lambda db: Addresses(key for (key,) in db.execute(query)))
        self._since = Addresses()
        self._sound: int | None = None

    async def check(self) -> None:
        """Raise `StoreError` if the file is damaged. One that nobody else writes from then on is sealed when closed."""
        self._sound = await self.run(lambda db: check(db, self._path))

    async def aclose(self) -> None:
        """Finish what is queued, close the file, and seal it if every row is known to be as it was written."""
        last = self.run(version)
        await super().aclose()
        if self._sound is not None and not last.exception() and last.result() == self._sound:
            await asyncio.to_thread(seal, self._path)

    async def get(self, key: bytes, occurrences: Sequence[int]) -> dict[int, Sample]:
        """The stored samples among `occurrences` of the address `key`, a digest of 16 bytes."""
        before = self._before.result() if self._before.done() else await asyncio.shield(self._before)
        if key not in before and key not in self._since:
            return {}
        low, high = min(occurrences), max(occurrences)
        query = f"""SELECT occurrence, data, intact(checksum, {CHECKED["samples"]}) FROM samples
                    WHERE key = ? AND occurrence BETWEEN ? AND ?"""
        found = await self.run(lambda db: db.execute(query, (key, low, high)).fetchall())
        if not all(whole for _, _, whole in found):
            raise damaged(self._path, "a stored answer has changed since it was written")
        rows, wanted = [row[:2] for row in found], set(occurrences)
        return {number: _load_sample(number, data) for number, data in rows if number in wanted}

    def put(self, key: bytes, sample: Sample) -> Awaitable[None]:
        """Store `sample`; it is safe once the result is awaited."""
        self._since.add(key)
        row = {"key": key, "index": sample.index, "data": _dump_sample(sample)}

        def insert(db: sqlite3.Connection) -> None:
            checksum = "checksum(:key, :index, :data)"
            db.execute(f"INSERT OR REPLACE INTO samples VALUES (:key, :index, :data, {checksum})", row)

        return self.run(insert)

    async def used(self) -> bool:
        """Whether anything is stored already."""
        query = "SELECT EXISTS (SELECT 1 FROM samples) OR EXISTS (SELECT 1 FROM cells)"
        return bool((await self.run(lambda db: db.execute(query).fetchone()))[0])

    async def finished(self) -> set[Cell]:
        """The cells that need no more work: finished, without failures."""
        query = "SELECT problem, strategy, model, seed FROM cells WHERE failures = '[]'"
        return {Cell(*row) for row in await self.run(lambda db: db.execute(query).fetchall())}

    async def finish(self, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
        """Store a finished cell, whole or not at all; `correct` is the truth of each candidate by id."""
        await self.run(lambda db: _write_cell(db, cell, result, correct))


def _write_cell(db: sqlite3.Connection, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
    place = (cell.problem, cell.strategy, cell.model, cell.seed)
    where = "WHERE (problem, strategy, model, seed) = (?,?,?,?)"
    before = db.execute(f"SELECT wasted FROM cells {where}", place).fetchone()
    wasted = dict(result.wasted)
    for role, usage in json.loads(before[0] if before else "{}").items():  # an earlier attempt at the same cell
        wasted[role] = wasted.get(role, Usage()) + Usage(**usage)
    db.execute(f"DELETE FROM cells {where}", place)  # and its candidates and charges
    ordered = sorted(result.candidates, key=lambda candidate: candidate.spawned)
    positions = {candidate.id: position for position, candidate in enumerate(ordered)}
    accounts = [
        json.dumps({role: usage.as_dict() for role, usage in account.items()})
        for account in (result.spent, result.reused, wasted)
    ]
    selected = positions[result.selected.id] if result.selected else None
    row = (*place, result.ended, selected, result.oracle, result.seconds, *accounts, _json(result.failures))
    number = db.execute(f"INSERT INTO cells VALUES (NULL{', ?' * len(row)}, NULL)", row).lastrowid
    seen: set[Charge] = set()
    verified: set[Charge] = set()
    kept, rows = [], []
    for position, candidate in enumerate(ordered):
        verifying = (candidate.verdict.charges if candidate.verdict else frozenset()) - verified
        kept.append(_candidate_row(number, position, candidate, correct.get(candidate.id), total(verifying)))
        rows += [_charge_row(number, position, charge) for charge in candidate.charges - seen]
        verified |= verifying
        seen |= candidate.charges
    db.executemany("INSERT INTO candidates VALUES (?,?,?,?,?,?,?,?,?,NULL)", kept)
    spawned = [candidate.spawned for candidate in ordered]
    last = len(ordered) - 1
    for charge in result.loose:
        position = last if charge.place is None else min(bisect_left(spawned, charge.place), last)
        rows.append(_charge_row(number, ~position if ordered else None, charge))
    db.executemany(f"INSERT INTO charges VALUES (?,?,?,?{',?' * len(USAGE_FIELDS)}, NULL)", rows)
    columns = Columns.of((row[3:] for row in kept), (row[1:3] + row[4:] for row in rows))
    db.execute("INSERT OR REPLACE INTO columns VALUES (?,?,?,?, NULL)", (number, *columns.pack()))
    for table in ("cells", "candidates", "charges", "columns"):  # over what is stored now
        column = "id" if table == "cells" else "cell"
        db.execute(f"UPDATE {table} SET checksum = checksum({CHECKED[table]}) WHERE {column} = ?", (number,))


def _charge_row(cell: int | None, position: int | None, charge: Charge) -> tuple[Any, ...]:
    usage = [getattr(charge.usage, name) for name in USAGE_FIELDS]
    return (cell, position, charge.role, charge.started, *usage)


def _candidate_row(
    cell: int | None, position: int, candidate: Candidate, correct: bool | None, verifying: Usage
) -> tuple[Any, ...]:
    verdict = candidate.verdict or Verdict(None)
    details = {
        "id": candidate.id,
        "parents": candidate.parents,
        "notes": dict(candidate.notes),
        "feedback": verdict.feedback,
        "verdict": dict(verdict.details),
        "scale": verdict.scale,
        "verifying": verifying.as_dict(),  # without what an earlier candidate's verdict is charged for
        "finish_reason": candidate.samples[-1].finish_reason if candidate.samples else None,
        "tool_calls": candidate.tool_calls,
        "lack": lack_of(candidate),
        "graded": dict(candidate.graded),
    }
    told = {name: value for name, value in details.items() if value not in ("", (), {}, None)}
    score, passed, content = verdict.score, verdict.passed, well_formed(candidate.content)
    return (cell, position, candidate.arrived, candidate.elapsed, score, passed, correct, content, _json(told))


def _json(data: Any) -> str:
    """`data` as JSON that SQLite reads too: without NaN, Infinity and halves of characters."""
    try:
        text = json.dumps(data, default=str, allow_nan=False)
    except ValueError:
        text = json.dumps(json.loads(json.dumps(data, default=str), parse_constant=lambda name: None))
    return json.dumps(well_formed(json.loads(text))) if "\\ud" in text else text


_SAMPLE_FIELDS = (
    "finish_reason", "role", "model", "reasoning", "tool_calls", "token_ids", "logprobs", "confidences", "top_logprobs",
    "batched", "again",
)  # fmt: skip


def _dump_sample(sample: Sample) -> str:
    kept = {name: value for name in _SAMPLE_FIELDS if (value := getattr(sample, name)) or value is False}
    charges = [(c.id, c.role, c.started, c.usage.as_dict()) for c in sample.charges]
    return json.dumps({"text": sample.text, "charges": charges, **kept})


def _load_sample(index: int, data: str) -> Sample:
    fields = json.loads(data)
    charges = tuple(Charge(i, role, Usage(**usage), started) for i, role, started, usage in fields.pop("charges"))
    for name in ("tool_calls", "token_ids", "logprobs", "confidences"):
        if name in fields:
            fields[name] = tuple(fields[name])
    return Sample(index=index, charges=charges, **fields)
