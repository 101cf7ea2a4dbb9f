"""Staged search over pictures beside linear search, in the drawing world: a server that draws from the picture before.

python -m experiments.staged.drawing [--problems 200] [--sigma 0.1] [--out drawing.json] [--plot drawing.svg]

Scenes of six things are drawn in six pictures: all things at once, or one more in each. Right is the share of the
things that are in the last picture of the film selected, by its pixels; whoever guides the search sees that share with
noise. Compute is counted in pictures, those of pruned branches included. Intervals are 95 %, over scenes; all
strategies draw the same scenes, so that differences are paired.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.pris.shown import as_dict, words
from tests.support.painter import Painter
from tests.support.vision import Vision
from tests.support.world import Measured, accuracy, drawing_world, scenes
from tts.curves import mean_interval, mean_ranks, paired_difference
from tts.registry import make
from tts.solving import solve
from tts.types import Problem, Result

FRAMES, FILMS = 6, 28
WORLDS = {
    "all in the first picture": {"keeps": 0.6, "mends": 0.03, "holds": 0.97, "first": 1.0},
    "one thing more in each": {"keeps": 0.6, "mends": 0.05},
    "early pictures tell little": {"keeps": 0.5, "mends": 0.4, "holds": 0.9},
}
LINEAR = f"dvts:n={FILMS},width=1"
"""Films that know nothing of each other; their ratings on the way are kept, and decide nothing."""
FAMILIES = {
    "tree_of_frames": {
        n: f"tree_of_frames:n={n},keep=[{k}],stages=[2,{FRAMES}]" for n, k in ((7, 2), (14, 3), (28, 4))
    },
    "staged_resampling": {n: f"staged_resampling:n={n},embed=true" for n in (1, 2, 4)},
    "by likeness alone": {2: "staged_resampling:n=2,embed=true,resample_from=1"},
    "by merit alone": {2: "staged_resampling:n=2,resample_from=0"},
}


def pictures(result: Result) -> int:
    """Pictures drawn, as the tree tells."""
    return sum(len(candidate.notes["tree"]) for candidate in result.candidates)


def correlations(results: list[Result], finals: list[list[float]]) -> list[dict[str, list[float]]]:
    """For each picture of a film, how its rating's rank goes with that of what becomes of it; mean over scenes."""
    found: list[list[float]] = [[] for _ in range(FRAMES)]
    for result, shares in zip(results, finals, strict=True):
        ordered = sorted(result.candidates, key=lambda candidate: candidate.spawned)
        ratings = np.array([[record["reward"] for record in one.notes["tree"]] for one in ordered])
        for frame, values in enumerate(ratings.T):
            if np.ptp(values) and np.ptp(shares):
                both = np.corrcoef(mean_ranks(values), mean_ranks(np.array(shares)))
                found[frame].append(float(both[0, 1]))
    return [as_dict(mean_interval(np.array(values)[:, np.newaxis], low=-1)) for values in found]


async def world(habits: Mapping[str, float], problems: list[Problem], sigma: float, folder: Path) -> dict[str, Any]:
    """What every strategy selects of every scene, and at what cost."""
    verifier, painter = Measured(folder=folder, sigma=sigma), Painter(seed=1, **habits)  # type: ignore[arg-type]

    async def run(spec: str) -> list[Result]:
        strategy = make("strategies", spec).model_copy(update={"images": True, "depth": FRAMES})
        results = []
        for problem in problems:
            before = painter.drawn
            results.append(await solve(problem, strategy, models, verifier=verifier, folder=folder, stop_early=False))
            assert not results[-1].failures, results[-1].failures
            assert pictures(results[-1]) == painter.drawn - before
        return results

    async with drawing_world(painter, Vision()) as models:
        linear = await run(LINEAR)
        finals, chosen = [], []
        for problem, result in zip(problems, linear, strict=True):
            ordered = sorted(result.candidates, key=lambda candidate: candidate.spawned)
            scores = [candidate.verdict.score or 0.0 for candidate in ordered if candidate.verdict]
            finals.append([accuracy(problem, candidate, folder) for candidate in ordered])
            chosen.append([finals[-1][int(np.argmax(scores[:k]))] for k in range(1, FILMS + 1)])
        base = np.array(chosen)
        found: dict[str, Any] = {
            "linear": {"pictures": [FRAMES * k for k in range(1, FILMS + 1)], **as_dict(mean_interval(base))},
            "correlation with the end": correlations(linear, finals),
        }
        for family, specs in FAMILIES.items():
            for n, spec in specs.items():
                results = await run(spec)
                pairs = zip(problems, results, strict=True)
                shares = np.array([[accuracy(problem, result.selected, folder)] for problem, result in pairs])
                drawn = float(np.mean([pictures(result) for result in results]))
                row = {"spec": spec, "pictures": drawn, "share": as_dict(mean_interval(shares))}
                for name, factor in (("equal", 1), ("three times", 3)):
                    films = min(FILMS, max(1, round(factor * drawn / FRAMES)))
                    row[name] = {"films": films, **as_dict(paired_difference(shares, base[:, films - 1 : films]))}
                found.setdefault(family, {})[str(n)] = row
    return found


def show(found: Mapping[str, Any]) -> None:
    """The figures as tables."""
    console = Console(width=160)
    for name in WORLDS:
        heads = ("strategy", "pictures", "things drawn, %", "over linear, equal pictures", "over linear, three times")
        table = Table(*heads, title=name)
        linear = found[name]["linear"]
        for films in (1, 4, 8, 16, FILMS):
            upto = {part: linear[part][:films] for part in ("mean", "low", "high")}
            table.add_row(f"linear, {films} films", str(linear["pictures"][films - 1]), words(upto), "", "")
        for family in FAMILIES:
            for n, row in found[name][family].items():
                least = [f"{words(row[part])}, {row[part]['films']} films" for part in ("equal", "three times")]
                table.add_row(f"{family}, N = {n}", f"{row['pictures']:.0f}", words(row["share"]), *least)
        console.print(table)
        told = [f"{one['mean'][0]:.2f}" for one in found[name]["correlation with the end"]]
        console.print(f"rank correlation of a picture's rating with the share in the end: {', '.join(told)}\n")


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Share over pictures, a panel for each world."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(WORLDS), figsize=(12, 4), sharey=True, layout="constrained")
    for name, axes in zip(WORLDS, panels, strict=True):
        curves = {"linear": found[name]["linear"]}
        for family in ("tree_of_frames", "staged_resampling"):
            rows = found[name][family].values()
            curves[family] = {part: [row["share"][part][0] for row in rows] for part in ("mean", "low", "high")}
            curves[family]["pictures"] = [row["pictures"] for row in rows]
        for label, curve in curves.items():
            (line,) = axes.plot(curve["pictures"], curve["mean"], label=label, marker="." if label != "linear" else "")
            axes.fill_between(curve["pictures"], curve["low"], curve["high"], color=line.get_color(), alpha=0.12, lw=0)
        axes.set(title=name, xlabel="pictures drawn", ylabel="things in the last picture", xscale="log")
    panels[0].legend(fontsize=8)
    figure.savefig(path)


async def measure(count: int, sigma: float) -> dict[str, Any]:
    """Everything, in a folder that is gone afterwards."""
    problems = scenes(count)
    with tempfile.TemporaryDirectory() as place:
        found = {name: await world(habits, problems, sigma, Path(place)) for name, habits in WORLDS.items()}
    return {"problems": count, "sigma": sigma, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--sigma", type=float, default=0.1, help="noise of the ratings, in shares")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--plot", type=Path, help="draw the curves: .png or .svg")
    options = parser.parse_args()
    found = asyncio.run(measure(options.problems, options.sigma))
    show(found)
    if options.out:
        options.out.write_text(json.dumps(found) + "\n")
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
