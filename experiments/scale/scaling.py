"""Verifications a second with more and more workers: `python experiments/scale/scaling.py sleep|busy [WORKERS ...]`.

A worker verifies one answer at a time, as if it had one core: it sleeps (scheduling alone, beyond this machine's cores)
or computes. Counted is the time in which all workers are at work, from their own clocks: neither their start nor the
end, when some have nothing left.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from tts import Candidate, Example, Experiment, MockModel, Problem, Run, Task, Verdict, Verifier, registry
from tts.session import Session
from tts.verifiers.numeric_answer import NumericAnswer

SECONDS = 0.25
"""Of one verification, asleep or of CPU time."""
EACH = 120
"""Answers for each worker."""
CORE = dict[str, Lock]()
"""The one of a worker, made there: a lock cannot travel."""


class OneCore(Verifier):
    """Accepts everything, and says who has looked at it and when."""

    busy: bool = False
    """Whether it computes or only sleeps."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        return await asyncio.to_thread(self._work)

    def _work(self) -> Verdict:
        with CORE.setdefault("one", Lock()):
            began, computed = time.time(), time.process_time()
            if self.busy:
                while time.process_time() - computed < SECONDS:
                    pass
            else:
                time.sleep(SECONDS)
            return Verdict(1.0, True, f"{os.getpid()} {began} {time.time()}")


class Plain(Task):
    """As many problems as are needed."""

    problems: int = 0
    """How many."""

    def examples(self) -> Iterator[Example]:
        for i in range(self.problems):
            yield Example(Problem.from_prompt(f"What is {i} + 1?", id=str(i)), truth=NumericAnswer(reference="7"))


async def rate(kind: str, workers: int) -> float:
    """Verifications a second, while all workers are at work."""
    table = {
        "task": Plain(problems=EACH * workers),
        "strategies": "best_of_n:n=1",
        "verifier": OneCore(busy=kind == "busy"),
    }
    grid = Experiment.parse(table | {"models": MockModel(lambda request: "Answer: 7", max_concurrency=8 * workers)})
    with tempfile.TemporaryDirectory() as folder:
        run: Run = await grid.run(Path(folder) / "run", executor=f"ray:workers={workers},num_cpus=0.1")
        (track,) = run.tracks
        verdicts = [one.verdict.feedback for row in track.rows for one in track.candidates(row) if one.verdict]
    times = defaultdict[str, list[tuple[float, float]]](list)
    for pid, began, ended in map(str.split, verdicts):
        times[pid].append((float(began), float(ended)))
    assert len(times) == workers, "EACH is too small: the first workers have done it all"
    first = max(min(began for began, _ in one) for one in times.values())
    last = min(max(ended for _, ended in one) for one in times.values())
    return sum(first < ended <= last for one in times.values() for _, ended in one) / (last - first)


async def main() -> None:
    registry.register("verifiers", OneCore)
    kind, *sizes = sys.argv[1:]
    one = None
    for workers in map(int, sizes or ["1", "2", "4", "8"]):
        found = await rate(kind, workers)
        one = one or found / workers
        print(
            f"{kind}: {workers} workers: {found:.2f}/s, {found / workers / one:.2f} of the first's for each", flush=True
        )


if __name__ == "__main__":
    asyncio.run(main())
