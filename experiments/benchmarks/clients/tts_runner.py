"""Problems of a mock model through the whole runner, everything stored; memory must not grow with the samples.

Arguments: problems (2000), samples of each (1).
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from _measure import measured, report

import tts
from tts import registry
from tts.runs.progress import Progress
from tts.verifiers.exact_answer import ExactAnswer


class Echo(tts.Task):
    """Problems whose answer is 42."""

    count: int = 2000

    def examples(self) -> Iterator[tts.Example]:
        """As many as asked for."""
        for number in range(self.count):
            problem = tts.Problem.from_prompt(f"Problem {number}: six times seven?", id=str(number))
            yield tts.Example(problem, ExactAnswer(reference="42"))


class Memory(Progress):
    """Resident memory after each problem, in MB."""

    def __init__(self) -> None:
        self.resident: list[float] = []

    def cell(self, cell: object, result: object, correct: object) -> None:
        """Note it."""
        self.resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6)


async def main(count: int, samples: int) -> None:
    registry.register("tasks", Echo)
    strategy = "single" if samples == 1 else f"best_of_n:n={samples},verifier=exact_answer(reference=42)"
    grid = tts.Experiment.parse(
        {"task": f"echo:count={count}", "models": tts.MockModel(lambda _: "Answer: 42"), "strategies": [strategy]}
    )
    memory = Memory()
    with tempfile.TemporaryDirectory() as folder:
        with measured() as spent:
            run = await grid.run(Path(folder) / "run", progress=memory)
        (stored,) = run.db.execute("SELECT COUNT(*) FROM samples").fetchone()
    assert (len(memory.resident), stored) == (count, count * samples)
    spent["resident_growth_mb"] = round(max(memory.resident) - memory.resident[count // 20], 1)
    report("tts, mock model, whole runner", stored, spent)


asyncio.run(main(*map(int, sys.argv[1:] or ["2000"]), *([] if len(sys.argv) > 2 else [1])))
