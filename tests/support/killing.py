"""Runs in a process of their own that are killed at any moment, and what is stored of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.double import ModelDouble
from tests.support.scripted import ScriptedServer

RUNNING = """
import asyncio, json, os, sys
import tts.report, tts.runs.runner, tts.tasks.jsonl, tts.tasks.repair_tasks
from tts import Experiment
for order in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(2, 1)
        table, out = json.loads(order)
        asyncio.run(Experiment.parse(table).run(out, resume=True))
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Forks a process for each experiment, one after the other, so that each need not import everything anew."""


class Child:
    """A run of the experiment `table` in `out`, in a process of its own."""

    def __init__(self, table: Mapping[str, Any], out: Path) -> None:
        self._server = _server()
        assert self._server.stdin
        print(json.dumps([table, str(out)]), file=self._server.stdin, flush=True)
        self._pid = self._said()
        self._ended = asyncio.create_task(asyncio.to_thread(self._said))

    def _said(self) -> int:
        assert self._server.stdout
        return int(self._server.stdout.readline())

    @property
    def returncode(self) -> int | None:
        """None: it goes on."""
        return self._ended.result() if self._ended.done() else None

    async def kill(self) -> None:
        """End it, if it has not ended."""
        if self.returncode is None:
            os.kill(self._pid, signal.SIGKILL)
        await self._ended


@cache
def _server() -> subprocess.Popen[str]:
    """It ends with this process."""
    command = [sys.executable, "-c", RUNNING]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


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
        child = Child(table, out)
        served = double.stats.served + int(rng.integers(*requests))
        while child.returncode is None and (double.stats.served < served or not stored(out)):
            await asyncio.sleep(0.001)
        assert not child.returncode
        await child.kill()
        await double.deserted()
        await double.idle()
        now = stored(out)
        assert survived.items() <= now.items(), "what was stored stays as it was"
        survived = now
    return survived


async def killed_midway(
    table: Mapping[str, Any], out: Path, server: ScriptedServer, *, kept: int, answered: int
) -> None:
    """Run the experiment `table` in `out`, and kill it once it has `kept` more answers of the policy.

    `server` answers it `answered` requests, so that it does not end before.
    """
    child = Child(table, out)
    until = answers(out) + kept
    with server.rationed(answered):
        while answers(out) < until:
            assert child.returncode is None
            await asyncio.sleep(0.005)
        await child.kill()
        await server.deserted()


def stored(out: Path) -> Stored:
    """The samples and scores of a run."""
    if not (out / "run.sqlite").exists():
        return {}
    with closing(sqlite3.connect(out / "run.sqlite")) as db:
        tables = db.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'samples'").fetchone()[0]
        rows = db.execute("SELECT key, occurrence, json_extract(data, '$.text') FROM samples") if tables else ()
        return {(key, occurrence): text for key, occurrence, text in rows}


def paid(out: Path) -> set[tuple[bytes, int]]:
    """The addresses of stored samples and scores; a remembered decision cost nothing."""
    if not stored(out):
        return set()
    with closing(sqlite3.connect(out / "run.sqlite")) as db:
        query = "SELECT key, occurrence FROM samples WHERE json_extract(data, '$.charges[0]') IS NOT NULL"
        return set(db.execute(query).fetchall())


def answers(out: Path) -> int:
    """How many answers of the policy a run has stored."""
    if not stored(out):
        return 0
    with closing(sqlite3.connect(out / "run.sqlite")) as db:
        query = "SELECT COUNT(*) FROM samples WHERE json_extract(data, '$.role') = 'policy'"
        return db.execute(query).fetchone()[0]
