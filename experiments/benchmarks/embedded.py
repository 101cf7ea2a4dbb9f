"""Generated tokens per second of the embedded engine beside real vLLM on the same weights: `embedded.py [MODEL]`.

TTS_VLLM_PYTHON names the interpreter that has vLLM. MODEL is a bundled model or a folder (default: lab-target). The
two take turns on the same machine, and each is stopped while the other is measured; the best of the rounds counts.
Prompts have 150 tokens, answers 100. `shared`: 64 samples of 8 prompts, 8 a request, as best-of-n asks for them. Both
are asked over the protocol: vLLM over HTTP, the engine through its in-process transport. Beside the time that passed
stands the CPU time of all processes of a side, its client's included, which says the same on a machine that does other
work too; `taskset -c 0` gives both sides the same core. Figures go to embedded.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tts import Endpoint, LocalVLLM, Sampler
from tts.lab.engine.models import model_place, read_shape

PROMPT, ANSWER, ROUNDS = 150, 100, 3
CASES = {"1": (1, 1), "8": (8, 1), "64": (64, 1), "shared": (8, 8)}
"""By name: prompts at once, and samples of each."""

Rates = tuple[float, ...]


def processes(root: int) -> list[Path]:
    """The folders in /proc of all processes below `root`."""
    below, parents = {root}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[stat.parent] = int(stat.read_text().rpartition(")")[2].split()[1])
    while more := {int(path.name) for path, parent in parents.items() if parent in below} - below:
        below |= more
    return [path for path in parents if int(path.name) in below - {root}]


@contextmanager
def at_rest(server: int) -> Iterator[None]:
    """Hold the server's processes up: some of them look for work all the time."""
    held = [int(path.name) for path in processes(server)]
    try:
        for process in held:
            os.kill(process, signal.SIGSTOP)
        yield
    finally:
        for process in held:
            os.kill(process, signal.SIGCONT)


def cpu_seconds(server: int) -> float:
    """CPU time of this process and of all below `server`."""
    ticks = [(path / "stat").read_text().rpartition(")")[2].split()[11:13] for path in processes(server)]
    return time.process_time() + sum(int(tick) for pair in ticks for tick in pair) / os.sysconf("SC_CLK_TCK")


async def rate(sampler: Sampler, case: tuple[int, int], vocabulary: int, seed: int, server: int) -> Rates:
    """Generated tokens over all prompts, none of which was seen before, per second and per second of CPU time."""
    prompts, n = case
    rng = np.random.default_rng(seed)
    ids = rng.integers(vocabulary // 2, vocabulary, (prompts, PROMPT)).tolist()

    async def draw(prompt: list[int]) -> float:
        params = {"max_tokens": ANSWER, "min_tokens": ANSWER, "ignore_eos": True, "temperature": 1.0}
        samples = [sample async for sample in sampler.sample(prompt, n, **params)]
        return sum(sample.charges[1].usage.completion_tokens for sample in samples)

    begin, used = time.perf_counter(), cpu_seconds(server)
    tokens = sum(await asyncio.gather(*map(draw, ids)))
    return tokens / (time.perf_counter() - begin), tokens / (cpu_seconds(server) - used)


async def main(model: str = "lab-target") -> None:
    """Measure, print, write."""
    folder = model_place(model)
    vocabulary, name = read_shape(folder).vocabulary, folder.name
    best: dict[str, dict[str, Rates]] = {case: {"embedded": (0, 0), "vllm": (0, 0)} for case in CASES}
    async with LocalVLLM(folder, name=name) as server:
        here = Endpoint(model=name, base_url=f"embedded://{folder.resolve()}")
        there = Endpoint(model=name, base_url=server.base_url)
        async with Sampler(here) as embedded, Sampler(there) as vllm:
            for number in range(-1, ROUNDS):  # the first warms up
                for index, case in enumerate(CASES):
                    for side, sampler in (("embedded", embedded), ("vllm", vllm)):
                        seed = 100 * number + index + 1000
                        with at_rest(server.pid) if side == "embedded" else nullcontext():
                            seen = await rate(sampler, CASES[case], vocabulary, seed, server.pid)
                        if number >= 0:
                            best[case][side] = tuple(map(max, best[case][side], seen))
                        print(
                            f"round {number} {case:>6} {side:>8} {seen[0]:8.0f} tokens/s {seen[1]:8.0f} a CPU second",
                            flush=True,
                        )
    figures: dict[str, Any] = {
        "model": name,
        "bytes": (folder / "model.safetensors").stat().st_size,
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[1], 1),
        "prompt_tokens": PROMPT,
        "answer_tokens": ANSWER,
    }
    for at, what in enumerate(("tokens_per_second", "tokens_per_cpu_second")):
        figures[what] = {
            case: {side: round(seen[at]) for side, seen in sides.items()}
            | {"ratio": round(sides["embedded"][at] / sides["vllm"][at], 2)}
            for case, sides in best.items()
        }
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


asyncio.run(main(*sys.argv[1:]))
