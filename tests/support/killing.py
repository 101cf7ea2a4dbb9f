"""Runs in a process of their own that are killed at any moment, and what is stored of them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.double import ModelDouble
from tests.support.scripted import ScriptedServer

CHILD = """
import asyncio, json, sys
from tts import Experiment
asyncio.run(Experiment.parse(json.loads(sys.argv[1])).run(sys.argv[2], resume=True))
"""

Stored = dict[tuple[bytes, int], str]
"""Texts by address."""


async def killed(
    table: Mapping[str, Any], out: Path, double: ModelDouble, *, times: int, requests: tuple[int, int]
) -> Stored:
    """Run the experiment `table` in `out`, kill it `times` times after so many `requests` (least, most) to `double`
    and once something is stored.

    Returns what was stored in the end; what was stored at one time must be there, unchanged, at the next.
    """
    rng, survived = np.random.default_rng(0), Stored()
    for _ in range(times):
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, json.dumps(table), str(out))
        served = double.stats.served + int(rng.integers(*requests))
        while child.returncode is None and (double.stats.served < served or not stored(out)):
            await asyncio.sleep(0.001)
        assert not child.returncode
        await killed_now(child)
        await double.deserted()
        await double.idle()
        now = stored(out)
        assert survived.items() <= now.items(), "what was stored stays as it was"
        survived = now
    return survived


async def killed_now(child: asyncio.subprocess.Process) -> None:
    """End a process that may have ended."""
    if child.returncode is None:
        child.kill()
    await child.wait()


async def killed_midway(
    table: Mapping[str, Any], out: Path, server: ScriptedServer, *, kept: int, answered: int
) -> None:
    """Run the experiment `table` in `out`, and kill it once it has `kept` more answers of the policy.

    `server` answers it `answered` requests, so that it does not end before.
    """
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, json.dumps(table), str(out))
    until = answers(out) + kept
    with server.rationed(answered):
        while answers(out) < until:
            assert child.returncode is None
            await asyncio.sleep(0.005)
        await killed_now(child)
        await server.deserted()


def stored(out: Path) -> Stored:
    """The samples and scores of a run."""
    if not (out / "run.sqlite").exists():
        return {}
    with sqlite3.connect(out / "run.sqlite") as db:
        tables = db.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'samples'").fetchone()[0]
        rows = db.execute("SELECT key, occurrence, json_extract(data, '$.text') FROM samples") if tables else ()
        return {(key, occurrence): text for key, occurrence, text in rows}


def paid(out: Path) -> set[tuple[bytes, int]]:
    """The addresses of stored samples and scores; a remembered decision cost nothing."""
    if not stored(out):
        return set()
    with sqlite3.connect(out / "run.sqlite") as db:
        query = "SELECT key, occurrence FROM samples WHERE json_extract(data, '$.charges[0]') IS NOT NULL"
        return set(db.execute(query).fetchall())


def answers(out: Path) -> int:
    """How many answers of the policy a run has stored."""
    if not stored(out):
        return 0
    with sqlite3.connect(out / "run.sqlite") as db:
        query = "SELECT COUNT(*) FROM samples WHERE json_extract(data, '$.role') = 'policy'"
        return db.execute(query).fetchone()[0]
