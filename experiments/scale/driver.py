"""Problems a second that one driver hands out and stores, with 64 workers: `python experiments/scale/driver.py [N]`.

The driver, its messages (packed and unpacked) and the SQLite file are real; workers answer at once, in this process, so
that CPU time a problem is the driver's own and the messages'. Each problem brings one stored answer and one result.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Self

from tts import Example, Experiment, MockModel, Problem, Task
from tts.cluster.driver import Driver
from tts.cluster.messages import Facts, Inbox, Outbox, pack, unpack
from tts.runs.runner import GridRow, RowRunner
from tts.runs.store import Cell
from tts.types import Candidate, Charge, Result, Sample, Usage
from tts.verifiers.numeric_answer import NumericAnswer

PROBLEMS, ROOM = 20_000, 8


class Plain(Task):
    """Problems that nobody solves."""

    def examples(self) -> Iterator[Example]:
        truth = NumericAnswer(reference="7")
        for i in range(PROBLEMS):
            yield Example(Problem.from_prompt(f"What is {i} + 1?", id=str(i)), truth=truth)


class Prompt:
    """A worker that has drawn and graded everything it is given at once."""

    def __init__(self) -> None:
        self._calls = 0

    async def start(self, hello: bytes) -> bytes:
        from importlib.metadata import version

        return pack(Facts("here", "", 0, version("ttscale"), True))

    async def exchange(self, inbox: bytes) -> bytes:
        told: Inbox = unpack(inbox)
        out = Outbox(room=ROOM, stopped=told.stop)
        for number, row in told.rows:
            charge = Charge(f"{row.example.problem.id}", "policy", Usage(1, 20, 0, 30), 0.0)
            sample = Sample("Answer: 7", "stop", (charge,))
            candidate = Candidate(
                id=0, content="Answer: 7", spawned=(0,), samples=(sample,), charges=frozenset([charge])
            )
            result = Result(
                problem=row.example.problem.id,
                strategy=row.strategies[0].spec,
                candidates=(candidate,),
                selected=candidate,
                ended="complete",
                spent={"policy": charge.usage},
                needed={"policy": charge.usage},
            )
            cell = Cell(row.example.problem.id, row.strategies[0].spec, row.model, row.seed)
            calls: list[tuple[str, tuple[Any, ...]]] = [
                ("get", (cell.problem.encode(), [0])),
                ("put", (cell.problem.encode(), sample)),
                ("finish", (cell, result, {0: True})),
            ]
            for method, args in calls:
                self._calls += 1
                out.calls.append((self._calls, method, args))
            out.done.append(number)
        if not told.rows:
            await asyncio.sleep(0.05)
        return pack(out)

    def tell(self, inbox: bytes) -> None:
        unpack(inbox)

    def kill(self) -> None: ...


class Prompts:
    """So many of them."""

    def __init__(self, size: int) -> None:
        self._size = size

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def places(self) -> Sequence[Hashable]:
        return range(self._size)

    async def lives(self, node_id: str) -> bool:
        return True

    def hire(self, place: Hashable) -> Prompt:
        return Prompt()

    def cores(self, place: Hashable) -> int:
        return 1

    async def run(self, runner: RowRunner, rows: Sequence[GridRow]) -> None:
        cpu, began = process_time(), perf_counter()
        await Driver(runner, rows, self).run()
        cpu, seconds = process_time() - cpu, perf_counter() - began
        each = 1e6 * cpu / len(rows)
        print(f"{self._size} workers, {len(rows)} problems: {len(rows) / seconds:,.0f}/s, {each:.0f} us CPU each")


async def main() -> None:
    for size in map(int, sys.argv[1:] or ["64"]):
        with tempfile.TemporaryDirectory() as folder:
            models = MockModel(lambda request: "7")
            grid = Experiment.parse({"task": Plain(), "strategies": "single", "models": models})
            await grid.run(Path(folder) / "run", executor=Prompts(size))


if __name__ == "__main__":
    asyncio.run(main())
