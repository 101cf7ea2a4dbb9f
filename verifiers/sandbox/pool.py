"""The pool: as many programs at once as there are cores, each in a warm worker.

While they run, the process of the next one is made ready and waits for its turn, so that no core has to wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path

from tts.verifiers.sandbox import execute
from tts.verifiers.sandbox.isolation import Ladder
from tts.verifiers.sandbox.jobs import CaseResult, Job, JobResult
from tts.verifiers.sandbox.programs import Program
from tts.verifiers.sandbox.runs import Run
from tts.verifiers.sandbox.worker import Worker, WorkerDied

ATTEMPTS = 2  # of a job whose zygote dies
PATIENCE = 0.5  # seconds that a program has its core to itself, while others wait


class Sandbox:
    """Runs untrusted programs; get it with `session.resources.get(Sandbox)`.

    `workers` programs run at once (by default as many as this process has cores). `without` names layers to do
    without, to see what the platform's lower rungs give.
    """

    def __init__(self, workers: int | None = None, *, without: Collection[str] = ()) -> None:
        self.workers = workers or usable_cores()
        self._places = asyncio.Semaphore(self.workers + 1)
        self._cores = asyncio.Semaphore(self.workers)
        self._sharing = 0
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._ladder = Ladder(without)
        self._closed = False

    @cached_property
    def version(self) -> str:
        """Changes whenever the runner's own code or the interpreter does."""
        digest = hashlib.sha256(sys.version.encode())
        for file in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    async def run(self, job: Job) -> JobResult:
        """Run a job. Raises `SandboxError` where programs cannot be isolated; cancelling kills the program at once."""
        for attempt in range(ATTEMPTS):
            try:
                async with self._places, self._worker(job) as worker:
                    result = await execute.run(worker, job)
            except WorkerDied as error:
                result = JobResult(CaseResult("infra", error=str(error)), (), 0.0, "")
            if attempt + 1 == ATTEMPTS or not _failed(result):
                return result
        raise AssertionError

    @asynccontextmanager
    async def open(self, job: Job, *, remote: Program | None = None) -> AsyncIterator[Program]:
        """The job's program, kept open for calls; its limits count over its whole life.

        `remote` is an open program that this one then calls by itself, over a descriptor of its own; they share the
        slot, since one of them waits.
        """
        if remote is None:
            async with self._places, self._open(job) as program:
                yield program
        else:
            async with self._open(job, remote.hand_over()) as program:
                yield program

    @asynccontextmanager
    async def _open(self, job: Job, remote: int | None = None) -> AsyncIterator[Program]:
        async with self._worker(job) as worker, Run(worker, job.limits, remote=remote).running() as run:
            program = Program(run)
            await program.load(job.program)
            yield program

    @asynccontextmanager
    async def _core(self) -> AsyncIterator[None]:
        """A core for one program. A slow one shares it after a while, so that quick ones need not wait for it."""
        shared = False

        def share() -> None:
            nonlocal shared
            if self._sharing < self.workers:
                shared, self._sharing = True, self._sharing + 1
                self._cores.release()

        await self._cores.acquire()
        timer = asyncio.get_running_loop().call_later(PATIENCE, share)
        try:
            yield
        finally:
            timer.cancel()
            if shared:
                self._sharing -= 1
            else:
                self._cores.release()

    @asynccontextmanager
    async def _worker(self, job: Job) -> AsyncIterator[Worker]:
        worker = next((w for w in reversed(self._idle) if w.preload == job.preload and w.alive), None)
        if worker is not None:
            self._idle.remove(worker)
        else:
            worker = await self._ladder.climb(job.preload)
            worker.core = self._core
            self._all.add(worker)
        try:
            self._ladder.check(worker, job.isolation)
            yield worker
        finally:
            if worker.alive and not worker.busy and not self._closed:
                self._idle.append(worker)
            else:
                self._drop([worker])
            if len(self._idle) > 2 * self.workers:
                self._drop([self._idle[0]])

    def _drop(self, workers: Iterable[Worker]) -> None:
        for worker in workers:
            worker.close()
            self._all.discard(worker)
            if worker in self._idle:
                self._idle.remove(worker)

    async def aclose(self) -> None:
        """End everything."""
        self._closed = True
        self._drop(list(self._all))


def _failed(result: JobResult) -> bool:
    return any(case.status == "infra" for case in (result.loaded, *result.cases))


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
