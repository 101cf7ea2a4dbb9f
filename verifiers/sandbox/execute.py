"""A job on a worker: its cases in one process, or each in its own, or its scripts one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tts.verifiers.sandbox.jobs import CaseResult, Job, JobResult, SandboxError
from tts.verifiers.sandbox.languages import LANGUAGES, Language
from tts.verifiers.sandbox.programs import Program
from tts.verifiers.sandbox.runs import Run, order_of
from tts.verifiers.sandbox.worker import Worker

ERROR = 1000  # characters


async def run(worker: Worker, job: Job) -> JobResult:
    """Run all of a job."""
    if job.language != "python":
        return await run_language(worker, job)
    if job.isolate_cases and len(job.cases) > 1:
        return await run_isolated(worker, job)
    loaded, cases, cpu = CaseResult("ok"), [], 0.0
    if job.cases or not job.scripts:
        loaded, cases, cpu = await run_cases(worker, job)
    if job.scripts and loaded.status == "ok":
        runs, more = await run_scripts(worker, job)
        cases, cpu = cases + runs, cpu + more
    return JobResult(loaded, tuple(cases), cpu, worker.isolation)


async def run_cases(worker: Worker, job: Job) -> tuple[CaseResult, list[CaseResult], float]:
    """All cases in one process. Without a limit of their own they are streamed: sent at once, answered as they end."""
    streamed = job.limits.case_cpu_seconds is None
    cases: list[CaseResult] = []
    async with Run(worker, job.limits).running() as run:
        program = Program(run)
        if streamed:
            loading = {"load": job.program, "output": job.limits.output_kb * 1024}
            run.send(loading, *map(order_of, job.cases))
            run.no_more_orders()
            loaded = await run.answer()
        else:
            await program.load(job.program)
            loaded = program.loaded
        if loaded.status == "ok":
            for index, case in enumerate(job.cases):
                cases.append(await (run.answer() if streamed else program.case(case)))
                if stops(job, index, cases[-1]) or cases[-1].status not in ("ok", "error", "memory"):
                    break
    late = run.cpu_seconds > job.limits.cpu_seconds
    if late and cases and cases[-1].status == "ok":
        cases[-1] = replace(cases[-1], status="cpu", values=())
    elif late and loaded.status == "ok" and not cases:
        loaded = replace(loaded, status="cpu")
    return loaded, cases, run.cpu_seconds


async def run_isolated(worker: Worker, job: Job) -> JobResult:
    """Each case in a process of its own, which loads the program anew."""
    cases: list[CaseResult] = []
    loaded, cpu = CaseResult("ok"), 0.0
    for index, case in enumerate(job.cases):
        begun, results, used = await run_cases(worker, replace(job, cases=(case,), stop_at_failure=None))
        cpu += used
        loaded = begun if index == 0 else loaded
        if index == 0 and begun.status != "ok":
            break
        cases.append(results[0] if results else begun)
        if stops(job, index, cases[-1]):
            break
    return JobResult(loaded, tuple(cases), cpu, worker.isolation)


def stops(job: Job, index: int, result: CaseResult) -> bool:
    """Whether the judge has seen enough."""
    return job.stop_at_failure is not None and job.stop_at_failure(index, result)


# -- scripts -------------------------------------------------------------------------------------------------------


async def run_scripts(worker: Worker, job: Job) -> tuple[list[CaseResult], float]:
    """The program as `__main__`, anew for each standard input."""
    results: list[CaseResult] = []
    cpu = 0.0
    for index, given in enumerate(job.scripts):
        async with Run(worker, job.limits, scripted=True).running(file=len(given) * 4) as run:
            run.send({"script": job.program, "stdin": given})
            told = await run.answer()
            await run.over()
        results.append(script_result(run, told))
        cpu += run.cpu_seconds
        if stops(job, index, results[-1]):
            break
    return results, cpu


def script_result(run: Run, told: CaseResult) -> CaseResult:
    """What became of a script: its exit status decides, its last words explain."""
    assert run.fate is not None
    stdout = run.stdout.decode("utf-8", "replace")
    status, error = run.fate.status, run.fate.error
    if run.exit_zero:
        status, error = "ok", ""
    elif status == "crashed" and told.status in ("error", "memory"):
        status, error = told.status, told.error
    elif status == "crashed" and error.startswith("exited"):
        status, error = "error", f"SystemExit: {error.rpartition(' ')[2]}"
    return CaseResult(status, (), stdout, error, run.cpu_seconds)


# -- other languages -----------------------------------------------------------------------------------------------


async def run_language(worker: Worker, job: Job) -> JobResult:
    """Compile once, then run the result for each standard input, all in one private folder."""
    language = LANGUAGES.get(job.language)
    if language is None or not language.available:
        raise SandboxError(f"no toolchain for {job.language!r}; known are {', '.join(LANGUAGES)}: install one")
    if not worker.layers.get("namespaces"):
        raise SandboxError(f"programs in {job.language} can be run where there are namespaces alone")
    loaded, cpu = CaseResult("ok"), 0.0
    files = {language.file: job.program}
    fresh = True
    if language.compile:
        loaded, cpu = await run_command(worker, job, language, language.compile, files, "", "processes", fresh)
        files, fresh = {}, False
    results: list[CaseResult] = []
    for index, given in enumerate(job.scripts if loaded.status == "ok" else ()):
        result, used = await run_command(worker, job, language, language.run, files, given, "exec", fresh)
        results.append(result)
        cpu, fresh = cpu + used, fresh and not language.compile
        if stops(job, index, result):
            break
    return JobResult(loaded, tuple(results), cpu, worker.isolation)


async def run_command(
    worker: Worker,
    job: Job,
    language: Language,
    command: Sequence[str],
    files: dict[str, str],
    given: str,
    starting: str,
    fresh: bool,
) -> tuple[CaseResult, float]:
    """One command of a toolchain."""
    run = Run(worker, job.limits, scripted=True)
    run.speaks = False
    memory = (job.limits.memory_mb + (language.memory_mb or 0)) << 20
    async with run.running(starting=starting, fresh=fresh, memory=memory, file=len(given) * 4):
        run.send({"run": command, "files": files, "stdin": given})
        await run.over()
    told = CaseResult("error", error=run.words.decode("utf-8", "replace")[:ERROR])
    return script_result(run, told if told.error else CaseResult("ok")), run.cpu_seconds
