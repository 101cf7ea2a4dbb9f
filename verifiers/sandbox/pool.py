"""The pool: runs jobs on warm workers, as many programs at once as there are cores.

While they run, the process of the next program is prepared and waits for its turn, so that no core is ever idle.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property
from pathlib import Path

from tts.verifiers.sandbox.running import Cores, RunningProgram, run_cases, usable_cores
from tts.verifiers.sandbox.types import LANGUAGES, CaseResult, Job, JobResult, Language, SandboxError
from tts.verifiers.sandbox.worker import Ladder, Worker, WorkerDied

ATTEMPTS = 2  # at a job whose zygote dies
SELDOM = 64  # programs that mostly wait, at once

MUCH = 1 << 16  # characters of output, to compare on the event loop
COMPLAINT = 1000  # characters of a compiler's messages that are kept


class Sandbox:
    """Runs untrusted programs; get it with `session.resources.get(Sandbox)`.

    `workers` programs run at once (by default as many as this process has cores). `without` names layers of isolation
    not to use, to try what the others provide.
    """

    def __init__(self, workers: int | None = None, *, without: Collection[str] = ()) -> None:
        self.workers: int = workers or usable_cores()
        self._places = asyncio.Semaphore(self.workers + 1)
        self._cores = Cores(self.workers)
        self.core: Callable[[], AbstractAsyncContextManager[None]] = self._cores.one
        """A core, for a call of a program that has none of its own."""
        self._seldom = asyncio.Semaphore(SELDOM)
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._ladder = Ladder(without)
        self._closed = False

    @cached_property
    def version(self) -> str:
        """Changes whenever the sandbox's code or the interpreter does."""
        digest = hashlib.sha256(sys.version.encode())
        for file in sorted(Path(__file__).parent.rglob("*.py")):
            digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    async def run(self, job: Job) -> JobResult:
        """Run a job. Raises `SandboxError` where programs cannot be isolated; cancelling kills the program at once."""
        for attempt in range(ATTEMPTS):
            try:
                async with self._places, self._worker(job) as worker:
                    result = await run_job(worker, job)
            except WorkerDied as error:
                result = JobResult(CaseResult("infra", error=str(error)), (), 0.0, "")
            if attempt + 1 == ATTEMPTS or not _failed(result):
                return result
        raise AssertionError

    @asynccontextmanager
    async def open(
        self, job: Job, *, remote: RunningProgram | None = None, seldom: bool = False
    ) -> AsyncIterator[RunningProgram]:
        """The job's program, kept open for calls; its limits apply to its whole life.

        `remote` is an open program that this one calls directly, over a descriptor of its own; the two share a slot,
        since one of them always waits. One that is called `seldom` holds none: its owner takes a `core` for each call.
        """
        if seldom:
            async with self._seldom, self._open(job, seldom=True) as program:
                yield program
        elif remote is None:
            async with self._places, self._open(job) as program:
                yield program
        else:
            async with self._open(job, remote.hand_over()) as program:
                yield program

    @asynccontextmanager
    async def _open(
        self, job: Job, remote: int | None = None, *, seldom: bool = False
    ) -> AsyncIterator[RunningProgram]:
        async with self._worker(job) as worker:
            opened = RunningProgram(worker, job.limits, remote=remote)
            async with opened.running(core=remote is None and not seldom) as program:
                await program.load(job.program)
                yield program

    @asynccontextmanager
    async def _worker(self, job: Job) -> AsyncIterator[Worker]:
        prepared = job.preload, job.warm_up
        worker = next((w for w in reversed(self._idle) if (w.preload, w.warm_up) == prepared and w.alive), None)
        if worker is not None:
            self._idle.remove(worker)
        else:
            worker = await self._ladder.climb(*prepared)
            worker.core = self._cores.one
            self._all.add(worker)
        try:
            if job.isolation == "required" and not worker.strong:
                raise self._ladder.refusal()
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
        self._closed = True
        self._drop(list(self._all))


def _failed(result: JobResult) -> bool:
    return any(case.status == "infra" for case in (result.loaded, *result.cases))


# -- jobs ----------------------------------------------------------------------------------------------------------


async def run_job(worker: Worker, job: Job) -> JobResult:
    """Run all of a job: its cases in one process, then its scripts one after the other."""
    if job.language != "python":
        return await run_language(worker, job)
    loaded, cases, cpu = CaseResult("ok"), [], 0.0
    if job.cases or not job.scripts:
        loaded, cases, cpu = await run_cases(worker, job)
    if job.scripts and loaded.status == "ok":
        runs, more = await run_scripts(worker, job)
        cases, cpu = cases + runs, cpu + more
    return JobResult(loaded, tuple(cases), cpu, worker.isolation)


async def run_scripts(worker: Worker, job: Job) -> tuple[list[CaseResult], float]:
    """The program as `__main__`, anew for each standard input."""
    if job.starting == "processes" and not worker.layers.get("namespaces"):
        raise SandboxError("programs that start others can only be run where namespaces are available")
    results: list[CaseResult] = []
    for index, given in enumerate(job.scripts):
        started = RunningProgram(worker, job.limits, scripted=True)
        async with started.running(starting=job.starting, file=len(given) * 4) as program:
            await program.send({"script": job.program, "stdin": given})
            said = await program.answer()
            await program.over()
        results.append(_script_result(program, said))
        if await _stops(job, index, results[-1]):
            break
    return results, sum(one.cpu_seconds for one in results)


async def _stops(job: Job, index: int, result: CaseResult) -> bool:
    if job.stop_at_failure is None:
        return False
    if len(result.stdout) < MUCH:
        return job.stop_at_failure(index, result)
    return await asyncio.to_thread(job.stop_at_failure, index, result)


def _script_result(program: RunningProgram, said: CaseResult) -> CaseResult:
    """How a script that has ended fared: its exit status decides, its last words explain."""
    assert program.fate is not None
    status, error = program.fate.status, program.fate.error
    if status == "crashed" and error == "exited with status 0":
        status, error = "ok", ""
    elif status == "crashed" and said.status in ("error", "memory"):
        status, error = said.status, said.error
    elif status == "crashed" and error.startswith("exited"):
        status, error = "error", f"SystemExit: {error.rpartition(' ')[2]}"
    return CaseResult(status, (), program.stdout.decode("utf-8", "replace"), error, program.cpu_seconds)


async def run_language(worker: Worker, job: Job) -> JobResult:
    """Compile once, then run the result for each standard input, all in one private folder."""
    language = LANGUAGES.get(job.language)
    if language is None or not language.available:
        raise SandboxError(f"no toolchain for {job.language!r}; known are {', '.join(LANGUAGES)}: install one")
    if not worker.layers.get("namespaces"):
        raise SandboxError(f"programs in {job.language} can only be run where namespaces are available")
    loaded, cpu = CaseResult("ok"), 0.0
    files = {language.file: job.program}
    fresh = True
    if language.compile:
        loaded = await _command(worker, job, language, language.compile, files, "", "processes", fresh)
        cpu, files, fresh = loaded.cpu_seconds, {}, False
    results: list[CaseResult] = []
    for index, given in enumerate(job.scripts if loaded.status == "ok" else ()):
        results.append(await _command(worker, job, language, language.run, files, given, "exec", fresh))
        cpu += results[-1].cpu_seconds
        if await _stops(job, index, results[-1]):
            break
    return JobResult(loaded, tuple(results), cpu, worker.isolation)


async def _command(
    worker: Worker,
    job: Job,
    language: Language,
    command: Sequence[str],
    files: dict[str, str],
    given: str,
    starting: str,
    fresh: bool,
) -> CaseResult:
    """One command of a toolchain."""
    program = RunningProgram(worker, job.limits, scripted=True, speaks=False)
    memory = (job.limits.memory_mb + (language.memory_mb or 0)) << 20
    async with program.running(starting=starting, fresh=fresh, memory=memory, file=len(given) * 4):
        await program.send({"run": command, "files": files, "stdin": given})
        await program.over()
    complaint = program.words.decode("utf-8", "replace")[:COMPLAINT]
    return _script_result(program, CaseResult("error", error=complaint) if complaint else CaseResult("ok"))
