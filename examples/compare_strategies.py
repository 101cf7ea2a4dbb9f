"""Compares strategies on a model that solves each problem with a known probability; needs no server.

    python examples/compare_strategies.py [RUN_DIRECTORY]

`MockModel` stands where an `Endpoint` would. Everything else is as with a real model: the run is stored, resumes, and
`tts report RUN_DIRECTORY` shows it again.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from typing import Any

import tts
from tts import registry
from tts.curves import plot_curves
from tts.runs.analysis import curves
from tts.runs.progress import LiveProgress
from tts.verifiers.numeric_answer import NumericAnswer

SOLVED = [(i + 1) / 50 for i in range(40)]
"""Probability with which the model solves problem i: from 2 % to 80 %."""


class Sums(tts.Task):
    """Forty sums."""

    def examples(self) -> Iterator[tts.Example]:
        """What the solver sees, and the verifier that holds the truth."""
        for i in range(len(SOLVED)):
            problem = tts.Problem.from_prompt(f"#{i}: what is {i} + {i}?", id=f"sum/{i}", answer="numeric_answer")
            yield tts.Example(problem, NumericAnswer(reference=str(2 * i)))


def answer(request: dict[str, Any]) -> str:
    """The right sum with the problem's probability, else one that is off by up to five."""
    i = int(request["messages"][-1]["content"].split(":")[0].removeprefix("#"))
    error = 0 if random.random() < SOLVED[i] else random.choice([-5, -4, -3, -2, -1, 1, 2, 3, 4, 5])
    return f"Let me see.\nAnswer: {2 * i + error}"


async def main(out: str) -> None:
    """Run the grid, print and draw its curves."""
    registry.register("tasks", Sums)
    experiment = tts.Experiment.parse(
        {
            "task": "sums",
            "models": tts.MockModel(answer),
            "strategies": [
                "single",
                "self_consistency:n=64",
                "best_of_n:n=64,verifier=oracle",
                "first_pass:k=64,verifier=oracle",
            ],
        }
    )
    run = await experiment.run(out, resume=True, progress=LiveProgress())
    for curve in curves(run):
        points = "  ".join(f"{x:.0f} tokens {y:.0%}" for x, y in zip(curve.x, curve.y, strict=True))
        print(f"{curve.label}: {points}")
    plot_curves(curves(run), f"{out}/curves.png")
    print(f"wrote {out}/curves.png; more: tts report {out}")


asyncio.run(main(*sys.argv[1:2] or ["runs/compare"]))
