"""Our runner, through the verifier and with all of its isolation."""

import asyncio
from pathlib import Path

from _load import load, measured, report

from tts.resources import Resources
from tts.session import Session
from tts.tasks.humaneval import HumanEval, HumanEvalPlus
from tts.types import Verdict


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
        with measured() as spent:
            verdicts = await asyncio.gather(*(judged(id, program) for id, program in job["programs"]))
    spent["cpu_seconds"] += sum(verdict.cpu_seconds for verdict in verdicts)  # no child of this process has them
    report([verdict.passed is True for verdict in verdicts], spent)


asyncio.run(main())
