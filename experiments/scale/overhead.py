"""CPU time of a sample through an executor: `python experiments/scale/overhead.py [SPEC ...]`, mock model, seeded."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from tts import Example, Experiment, MockModel, Problem, Task
from tts.runs.progress import Progress
from tts.runs.store import Cell
from tts.types import Result
from tts.verifiers.numeric_answer import NumericAnswer

PROBLEMS, SAMPLES = 300, 16


class Plain(Task):
    """Problems that a mock answers."""

    def examples(self) -> Iterator[Example]:
        for i in range(PROBLEMS):
            problem = Problem.from_prompt(f"What is {i} + 1?", id=str(i), answer="numeric_answer")
            yield Example(problem, truth=NumericAnswer(reference=str(i + 1)))


def cpu_seconds() -> dict[str, float]:
    """Of this process, of Ray's workers that descend from it, and of Ray's own processes."""
    told, tick = {"driver": 0.0, "workers": 0.0, "ray": 0.0}, os.sysconf("SC_CLK_TCK")
    parents, spent, names = {}, {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(folder.name)], spent[int(folder.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / tick
    for pid in parents:
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid():
            kind = "driver" if pid == above else "workers" if b"ray::ClusterWorker" in names[pid] else "ray"
            told[kind] += spent[pid]
    return told


class AtEnd(Progress):
    """Reads the clocks when the last cell is stored, while all processes live."""

    def __init__(self, ended: dict[str, float]) -> None:
        self._ended, self._done = ended, 0

    def cell(self, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
        self._done += 1
        if self._done == PROBLEMS:
            self._ended.update(cpu_seconds())


async def measure(spec: str) -> None:
    """Run the same grid with `spec`, and with twice as many samples: the difference is free of start-up."""
    found = []
    for samples in (SAMPLES, 3 * SAMPLES):
        endpoint = MockModel(lambda request: "Answer: 7", max_concurrency=64, max_n=1)
        judge = "numeric_answer:reference=7"
        table = {"task": Plain(), "strategies": f"best_of_n:n={samples}", "models": endpoint, "verifier": judge}
        grid = Experiment.parse(table)
        before, began = cpu_seconds(), perf_counter()
        ended: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            await grid.run(Path(folder) / "run", executor=spec, progress=AtEnd(ended))
        found.append(({key: ended[key] - before[key] for key in ended}, perf_counter() - began))
        await asyncio.sleep(1)
    drawn = 2 * SAMPLES * PROBLEMS
    each = {key: 1000 * (found[1][0][key] - found[0][0][key]) / drawn for key in found[0][0]}
    print(
        spec, "ms CPU a sample:", {key: round(value, 3) for key, value in each.items()}, f"sum {sum(each.values()):.2f}"
    )


async def main() -> None:
    for spec in sys.argv[1:] or ["local", "ray:workers=1", "ray:workers=2"]:
        await measure(spec)


if __name__ == "__main__":
    asyncio.run(main())
