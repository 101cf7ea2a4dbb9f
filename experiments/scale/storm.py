"""How fast a storm of refusals calms down, in one process and on four workers: `python experiments/scale/storm.py`.

A server that has taken 64 requests at once suddenly takes 4 and refuses the rest with 429, with and without a pause
that it asks for. The driver, its workers and the server are in this process. Counted are refusals, the time until the
first ten answers in a row without one, and those after it, when the window only feels its way.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from time import monotonic
from typing import Any

from kill import experiment

from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tests.support.fleet import FleetExecutor
from tts import Experiment

BEFORE, AFTER = 64, 4


async def storm(workers: int, pause: float | None) -> str:
    """What a run of so many workers meets; 0: a run in this process."""
    refused, row, began, calm = 0, 0, 0.0, list[tuple[float, int]]()

    def fault(number: int, body: dict[str, Any]) -> Fault | None:
        nonlocal refused, row, began
        if number < 300:
            return None
        began = began or monotonic()
        if double.stats.running < AFTER:
            row += 1
            if row == 10:
                calm.append((monotonic() - began, refused))
            return None
        refused, row = refused + 1, 0
        return Fault(FaultKind.RATE_LIMITED, retry_after=pause)

    async with ModelDouble(answer=solvable({}, otherwise=0.4), latency=(0.02, 0.1), faults=fault) as double:
        with tempfile.TemporaryDirectory() as name:
            table = experiment(Path(name), double)
            table["models"]["m"]["max_concurrency"] = BEFORE
            executor = FleetExecutor(workers) if workers else "local"
            await Experiment.parse(table).run(Path(name) / "run", executor=executor)
    seconds, first = calm[0]
    asked = "no pause" if pause is None else f"a pause of {pause:g} s"
    return (
        f"{workers or 'no'} workers, {asked}: calm after {seconds:.2f} s and {first} refusals; {refused - first} later"
    )


async def main() -> None:
    for pause in (None, 0.5):
        for workers in (0, 1, 4):
            print(await storm(workers, pause), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
