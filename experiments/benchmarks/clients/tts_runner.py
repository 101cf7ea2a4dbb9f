"""One-sample problems of a mock model through the whole runner, everything stored. Argument: how many (2000)."""

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tts
from _measure import measured, report
from tts import registry
from tts.verifiers.exact_answer import ExactAnswer


class Echo(tts.Task):
    """Problems whose answer is 42."""

    count: int = 2000

    def examples(self) -> Iterator[tts.Example]:
        """As many as asked for."""
        for number in range(self.count):
            problem = tts.Problem.from_prompt(f"Problem {number}: six times seven?", id=str(number))
            yield tts.Example(problem, ExactAnswer(reference="42"))


async def main(count: int) -> None:
    registry.register("tasks", Echo)
    grid = tts.Experiment.parse(
        {"task": f"echo:count={count}", "models": tts.MockModel(lambda _: "Answer: 42"), "strategies": ["single"]}
    )
    with tempfile.TemporaryDirectory() as folder:
        with measured() as spent:
            run = await grid.run(Path(folder) / "run")
        assert len(run.tracks[0].rows) == count
    report("tts, mock model, whole runner", count, spent)


asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
