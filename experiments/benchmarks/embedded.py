"""Generated tokens per second of the embedded engine beside real vLLM on the same weights: `embedded.py [MODEL]`.

TTS_VLLM_PYTHON names the interpreter that has vLLM. MODEL is a bundled model or a folder (default: lab-target). The
two take turns on the same machine, and each is at rest while the other is measured; the best of the rounds counts.
Prompts have 150 tokens, answers 100. `shared`: 64 samples of 8 prompts, 8 a request, as best-of-n asks for them. Both
are asked over the protocol: vLLM over HTTP, the engine through its in-process transport. Figures go to embedded.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from tts import Endpoint, LocalVLLM, Sampler
from tts.embedded.models import model_folder
from tts.embedded.weights import read_shape

PROMPT, ANSWER, ROUNDS = 150, 100, 3
CASES = {"1": (1, 1), "8": (8, 1), "64": (64, 1), "shared": (8, 8)}
"""By name: prompts at once, and samples of each."""


async def rate(sampler: Sampler, prompts: int, n: int, vocabulary: int, seed: int) -> float:
    """Generated tokens per second over all prompts, none of which was seen before."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(vocabulary // 2, vocabulary, (prompts, PROMPT)).tolist()

    async def draw(prompt: list[int]) -> float:
        params = {"max_tokens": ANSWER, "min_tokens": ANSWER, "ignore_eos": True, "temperature": 1.0}
        samples = [sample async for sample in sampler.sample(prompt, n, **params)]
        return sum(sample.charges[1].usage.completion_tokens for sample in samples)

    begin = perf_counter()
    tokens = sum(await asyncio.gather(*map(draw, ids)))
    return tokens / (perf_counter() - begin)


async def main(model: str = "lab-target") -> None:
    """Measure, print, write."""
    folder = model_folder(model)
    vocabulary, name = read_shape(folder).vocabulary, folder.name
    best: dict[str, dict[str, float]] = {case: {"embedded": 0.0, "vllm": 0.0} for case in CASES}
    async with LocalVLLM(folder, name=name) as server:
        here = Endpoint(model=name, base_url=f"embedded://{folder.resolve()}")
        there = Endpoint(model=name, base_url=server.base_url)
        async with Sampler(here) as embedded, Sampler(there) as vllm:
            for number in range(-1, ROUNDS):  # the first warms up
                for index, (case, (prompts, n)) in enumerate(CASES.items()):
                    for side, sampler in (("embedded", embedded), ("vllm", vllm)):
                        seen = await rate(sampler, prompts, n, vocabulary, 100 * number + index + 1000)
                        if number >= 0:
                            best[case][side] = max(best[case][side], seen)
                        print(f"round {number} {case:>6} {side:>8} {seen:8.0f} tokens/s", flush=True)
    figures = {
        "model": name,
        "bytes": (folder / "model.safetensors").stat().st_size,
        "cpus": len(os.sched_getaffinity(0)),
        "prompt_tokens": PROMPT,
        "answer_tokens": ANSWER,
        "tokens_per_second": {
            case: {side: round(value) for side, value in sides.items()} for case, sides in best.items()
        },
        "ratio": {case: round(sides["embedded"] / sides["vllm"], 2) for case, sides in best.items()},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


asyncio.run(main(*sys.argv[1:]))
