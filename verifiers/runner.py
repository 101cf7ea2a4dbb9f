"""Runs programs in processes of their own, a few at a time.

This protects against accidents: endless loops, memory, floods of output, left processes. It does not protect
against malice: the program has the user's rights and can find the tests in its own memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

HARNESS = Path(__file__).with_name("harness.py")
START_UP = 30.0  # seconds that a process may need for itself on a busy machine, before it counts as broken


class Outcome(TypedDict):
    """What one test said."""

    kind: str
    feedback: str


class Report(TypedDict):
    """What became of one run of a program."""

    outcomes: list[Outcome]
    exit: int | None
    signal: str | None
    timed_out: bool
    cpu: float
    stdout: str
    stderr: str


class ProgramRunner:
    """At most one program for each core that this process may use; get it with `session.shared.get(ProgramRunner)`."""

    def __init__(self) -> None:
        affinity = getattr(os, "sched_getaffinity", None)
        self._room = asyncio.Semaphore(len(affinity(0)) if affinity else os.cpu_count() or 1)

    async def run(
        self, program: str, runs: Sequence[Mapping[str, Any]], *, timeout: float, memory: int, output: int
    ) -> list[Report]:
        """One report for each of `runs`, fewer when one exceeds `timeout` seconds (then it is the last).

        A run is `{"input": text}` for a program that reads its standard input, or the fields of a `TestSuite`.
        `memory` and `output` are bytes. Cancelling kills whatever runs. Raises `RuntimeError` when the machinery,
        not the program, fails.
        """
        packages = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
        job = json.dumps(
            {
                "program": program,
                "runs": runs,
                "timeout": timeout,
                "memory": memory,
                "output": output,
                "path": packages,
            }
        )
        async with self._room:
            folder = tempfile.mkdtemp(prefix="tts-program-")
            try:
                return await self._harness(job.encode(), folder, START_UP + timeout * len(runs))
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _harness(self, job: bytes, folder: str, patience: float) -> list[Report]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-X", "utf8", str(HARNESS)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={},
            cwd=folder,
            start_new_session=True,
        )
        answer = errors = b""
        try:
            async with asyncio.timeout(patience):
                answer, errors = await process.communicate(job)
        except TimeoutError:
            errors = b"no answer in time"
        finally:
            if not answer:  # else it has killed its whole group itself
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if answer:
            return json.loads(answer)
        if process.returncode and process.returncode < 0 and not errors:
            name = signal.Signals(-process.returncode).name  # by the program's own hand: it was told of no other
            return [Report(outcomes=[], exit=None, signal=name, timed_out=False, cpu=0.0, stdout="", stderr="")]
        raise RuntimeError(f"the program could not be run: {errors.decode(errors='replace')[-300:]}")
