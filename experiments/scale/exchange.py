"""What an exchange with a worker costs, and how large a stored sample is: `python experiments/scale/exchange.py`."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time

from tts import Example, Experiment, MockModel, Problem, Task
from tts.cluster import RayExecutor
from tts.cluster.fleet import import_ray
from tts.verifiers.numeric_answer import NumericAnswer

EXCHANGES, PROBLEMS, SAMPLES = 2000, 20, 64


class Echo:
    """Says at once what it hears."""

    async def exchange(self, inbox: bytes) -> bytes:
        return inbox


class Plain(Task):
    """Problems that a mock answers."""

    def examples(self) -> Iterator[Example]:
        for i in range(PROBLEMS):
            problem = Problem.from_prompt(f"What is {i} + 1?", id=str(i), answer="numeric_answer")
            yield Example(problem, truth=NumericAnswer(reference=str(i + 1)))


async def exchanges() -> None:
    async with RayExecutor():
        actor = import_ray().remote(Echo).options(max_concurrency=100).remote()
        await actor.exchange.remote(b"")
        cpu, began = process_time(), perf_counter()
        for _ in range(EXCHANGES):
            await actor.exchange.remote(b"x" * 2000)
        cpu, seconds = process_time() - cpu, perf_counter() - began
    print(f"an exchange: {1e3 * cpu / EXCHANGES:.3f} ms CPU of the driver, {1e3 * seconds / EXCHANGES:.3f} ms in all")


async def size() -> None:
    endpoint = MockModel(lambda request: "so " * 260 + "Answer: 7")
    strategy = f"self_consistency:n={SAMPLES},answer=numeric_answer"
    grid = Experiment.parse({"task": Plain(), "strategies": strategy, "models": endpoint})
    with tempfile.TemporaryDirectory() as folder:
        await grid.run(Path(folder) / "run")
        stored = (Path(folder) / "run" / "run.sqlite").stat().st_size
    print(f"a sample of 200 tokens: {stored / PROBLEMS / SAMPLES:,.0f} bytes")


if __name__ == "__main__":
    asyncio.run(exchanges())
    asyncio.run(size())
