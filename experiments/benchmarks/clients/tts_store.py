"""Samples kept one by one as a run keeps them; memory must not grow with them. Argument: how many (200,000)."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import time
from uuid import uuid4

from _measure import measured

from tts.runs.store import Store
from tts.types import Charge, Sample, Usage

TEXT = "Six times seven is forty-two, as six tens are sixty and the rest follows. " * 10 + "Answer: 42"


def sample(index: int) -> Sample:
    request = uuid4().hex
    prompt = Charge(request, "policy", Usage(1, 120), time())
    own = Charge(f"{request}.0", "policy", Usage(completion_tokens=200, seconds=1.5), time())
    return Sample(TEXT, "stop", (prompt, own), index, model="test-model")


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Store(Path(folder) / "run.sqlite") as store:

            async def work(numbers: Iterator[int]) -> None:
                for number in numbers:
                    await store.put(number.to_bytes(16, "big"), sample(0))

            async def put(numbers: Iterator[int]) -> None:
                await asyncio.gather(*(work(numbers) for _ in range(64)))

            await put(iter(range(1000)))
            begin = resident_mb()
            with measured() as spent:
                await put(iter(range(1000, 1000 + count)))
            grown = resident_mb() - begin
    print(json.dumps({"client": "tts store", "samples": count, **spent, "resident_growth_mb": round(grown, 1)}))


asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000))
