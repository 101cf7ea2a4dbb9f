"""Our runner, through the verifier and with all of its isolation.

`phases` tells where the CPU time went: the judge is this process (extract, plan, exchange values, compare), the warm
interpreters fork and make namespaces, and the programs confine themselves, run and encode what they return. As in
`tts run`, the garbage collector is told to look seldom for cycles.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from _load import load, measured, report

from tts.cycles import look_past_what_is_there
from tts.resources import Resources
from tts.session import Session
from tts.tasks.humaneval import HumanEval, HumanEvalPlus
from tts.types import Verdict


def below(process: int) -> Iterator[int]:
    """All processes that descend from one."""
    for names in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for name in map(int, names.read_text().split()):
                yield name
                yield from below(name)


def interpreters() -> float:
    """CPU seconds of the warm interpreters so far, without the programs that they waited for."""
    ticks = 0
    for process in below(os.getpid()):
        with suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


async def main() -> None:
    job, _ = load()
    task = (HumanEvalPlus if job["plus"] else HumanEval)(path=Path(job["data"]))
    examples = {example.problem.id: example for example in task.examples()}
    async with Resources() as resources:

        async def judged(id: str, program: str) -> Verdict:
            example = examples[id]
            session = Session(example.problem, {}, resources=resources)
            stop = job.get("fast", False)
            truth = example.truth.model_copy(update={"timeout": job["limit"], "stop_at_failure": stop})
            return await session.verify(session.candidate(program), truth)

        if job["plus"]:  # the reference's values are kept on disk: computed before, as the peers do
            first = dict(reversed(job["programs"]))
            await asyncio.gather(*(judged(id, program + "\n# first\n") for id, program in first.items()))
        look_past_what_is_there()
        before = interpreters()
        with measured() as spent:
            verdicts = await asyncio.gather(*(judged(id, program) for id, program in job["programs"]))
        forking = interpreters() - before
    programs = sum(verdict.cpu_seconds for verdict in verdicts)  # no child of this process has them
    spent["phases"] = {"judge": spent["cpu_seconds"], "interpreters": round(forking, 3), "programs": round(programs, 3)}
    spent["cpu_seconds"] += forking + programs
    report([verdict.passed is True for verdict in verdicts], spent)


asyncio.run(main())
