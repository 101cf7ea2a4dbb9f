"""What every peer's client shares: the load and the clock. Only the standard library: peers lack the rest."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MESSAGES = [{"role": "user", "content": "What is six times seven? End with `Answer: `."}]
SINGLES, SINGLES_IN_FLIGHT = 1600, 64
PROMPTS, SAMPLES_EACH = 200, 8
BEST_OF = 64
BRANCHES, BRANCH_WIDTH, BRANCH_STEPS = 64, 4, 8


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Fill in `wall_seconds` and `cpu_seconds` (of this process and its children) at the end of the block."""
    spent: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time() + _children()
    yield spent
    spent["wall_seconds"] = round(time.perf_counter() - wall, 4)
    spent["cpu_seconds"] = round(time.process_time() + _children() - cpu, 4)


def _children() -> float:
    """CPU seconds of the processes that this one has started and that still run."""
    ticks = 0
    for names in Path("/proc/self/task").glob("*/children"):
        for name in names.read_text().split():
            ticks += sum(map(int, Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def report(client: str, samples: int, spent: dict[str, float]) -> None:
    """Print one JSON line: the client, its samples and what they cost."""
    print(json.dumps({"client": client, "samples": samples, **spent}), flush=True)


def chance(text: str) -> float:
    """A reward from 0 to 1 that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=4).digest(), "big") / 2**32
