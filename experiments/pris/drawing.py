"""Prompt redesign beside its baselines in the drawing world: servers that draw and measure, without a GPU.

python -m experiments.pris.drawing [--problems 30] [--n 20] [--out drawing.json] [--plot drawing.svg]
       [--verifiers]

Two painters: one forgets what comes late in a prompt unless it is stressed, the other forgets independently. Accuracy
is the share of the requested things that are in the selected image by its pixels, for the first k candidates and for
all tokens that these descend from, rewriting and judging included. Intervals are 95 %, over problems.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.pris.shown import Found, as_dict, compared, draw, table, words
from tests.support.direct import DirectQuestions
from tests.support.painter import Painter
from tests.support.vision import Vision
from tests.support.world import accuracy, drawing_world, scenes
from tts.curves import mean_interval
from tts.prompting import problem_text
from tts.session import Session
from tts.solving import open_models, solve
from tts.strategies.prompt_redesign import PromptRedesign
from tts.studies.judging import auroc
from tts.types import Drawing, Problem, Result, total
from tts.verifiers.element_check import ElementCheck

MEASURE = "elements met by the selected"
WORLDS = {
    "common failures": lambda: Painter(fade=0.6, seed=1),
    "independent failures": lambda: Painter(keeps=0.5, obeys=None, seed=1),
}
RIVALS = {
    "element_check": (ElementCheck(), lambda: Vision(kindness=0.7)),
    "element_check, believing 10 % of what is not said": (ElementCheck(), lambda: Vision(kindness=0.7, credulity=0.1)),
    "element_check, believing 70 % of what is not said": (ElementCheck(), lambda: Vision(kindness=0.7, credulity=0.7)),
    "direct questions": (DirectQuestions(), lambda: Vision(kindness=0.7)),
}
STRATEGIES = {
    "best of N": {"rounds": 0},
    "expansion, best of N": {"rounds": 0, "expand": True},
    "rewriting per sample": {"per_sample": True},
    "redesign": {},
    "redesign, 2 rounds": {"rounds": 2},
}


def prefixes(
    strategy: PromptRedesign, problem: Problem, result: Result, folder: Path
) -> tuple[list[float], list[float]]:
    """Accuracy and tokens after each number of candidates."""
    ordered = sorted(result.candidates, key=lambda candidate: candidate.spawned)
    shares, tokens = [], []
    for k in range(1, len(ordered) + 1):
        shares.append(accuracy(problem, strategy.select(ordered[:k]), folder))
        paid = frozenset[Any]().union(*(candidate.charges for candidate in ordered[:k]))
        tokens.append(total(paid).total_tokens)
    return shares, tokens


async def curves(world: str, problems: list[Problem], n: int, folder: Path) -> Found:
    """Mean curves of every strategy, and their differences to best-of-N at the end."""
    shares: dict[str, np.ndarray] = {}
    tokens: dict[str, np.ndarray] = {}
    async with drawing_world(WORLDS[world](), Vision()) as models:
        for name, parameters in STRATEGIES.items():
            strategy = PromptRedesign(n=n, images=True, **parameters)
            found = []
            for problem in problems:
                result = await solve(problem, strategy, models, folder=folder, stop_early=False)
                assert len(result.candidates) == n, result.failures
                found.append(prefixes(strategy, problem, result, folder))
            shares[name], tokens[name] = (np.array(part) for part in zip(*found, strict=True))
    return compared(shares, tokens)


async def verifiers(problems: list[Problem], n: int, folder: Path) -> dict[str, Any]:
    """AUROC within problems and accuracy of selecting, by judges that like to say yes to what is not so."""
    found = {}
    for name, (verifier, judge) in RIVALS.items():
        areas, chosen = [], []
        async with drawing_world(WORLDS["independent failures"](), judge()) as models, open_models(models) as samplers:
            for problem in problems:
                session = Session(problem, samplers, folder=folder)
                drawing = Drawing(problem_text(problem))
                candidates = [candidate async for candidate in session.propose(drawing, n=n, role="image", seed=0)]
                shares = np.array([accuracy(problem, candidate, folder) for candidate in candidates])
                verdicts = await asyncio.gather(*(session.verify(candidate, verifier) for candidate in candidates))
                scores = np.array([verdict.score for verdict in verdicts], float)
                area = auroc(scores, (shares == shares.max()).astype(float))
                areas += [] if area is None else [area]
                chosen.append(shares[int(scores.argmax())])
        found[name] = {
            "auroc": as_dict(mean_interval(np.array(areas)[:, np.newaxis])),
            "accuracy of the selected": as_dict(mean_interval(np.array(chosen)[:, np.newaxis])),
        }
    return found


def show(found: dict[str, Any]) -> None:
    console = Console(width=140)
    for world in filter(found.get, WORLDS):
        console.print(table(world, MEASURE, found[world]))
    made = Table("verifier", "AUROC, %", "elements met by the selected, %", title="a judge that likes to say yes")
    for name, row in found["verifiers"].items():
        made.add_row(name, words(row["auroc"]), words(row["accuracy of the selected"]))
    console.print(made)


async def measure(count: int, n: int, worlds: Iterable[str]) -> dict[str, Any]:
    problems = scenes(count)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        found = {world: await curves(world, problems, n, folder) for world in worlds}
        return {"problems": count, "n": n, **found, "verifiers": await verifiers(problems, n, folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--verifiers", action="store_true", help="compare the verifiers alone")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--plot", type=Path, help="draw the curves: .png or .svg")
    options = parser.parse_args()
    found = asyncio.run(measure(options.problems, options.n, () if options.verifiers else WORLDS))
    show(found)
    if options.out:
        options.out.write_text(json.dumps(found) + "\n")
    if options.plot and not options.verifiers:
        draw({world: found[world] for world in WORLDS}, MEASURE, options.plot)


if __name__ == "__main__":
    main()
