"""What a lab model solves of the held-out problems, by runs of the library on the .toml files in this folder."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tts.resources import Resources
from tts.runs import Experiment
from tts.runs.analysis import curves
from tts.runs.config import load
from tts.session import Session
from tts.tasks import Example


def evaluate(config: Path, out: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Run the grid of the file `config` into the folder `out`: `{curve: {estimator: {k: accuracy}}}`."""
    run = asyncio.run(Experiment.parse(load(config)).run(out, resume=True))
    found: dict[str, dict[str, dict[int, float]]] = {}
    for curve in curves(run):
        values = {int(k): round(float(y), 4) for k, y in zip(curve.k, curve.y, strict=True)}
        found.setdefault(curve.label, {})[curve.estimator] = values
    return found


def prompt_of(example: Example) -> str:
    """The user's message of a lab problem."""
    (message,) = example.problem.messages
    return message["content"] if isinstance(message, dict) else message


async def graded(example: Example, text: str, resources: Resources) -> bool:
    """Whether the text solves the problem."""
    session = Session(example.problem, {}, resources=resources)
    return bool((await example.truth.verify(example.problem, session.candidate(text), session)).passed)
