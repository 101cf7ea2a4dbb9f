"""Staged search over pictures beside linear search, in the drawing world: a server that draws from the picture before.

python -m experiments.staged.drawing [--problems 200] [--sigma 0.1] [--out drawing.json] [--plot drawing.svg]

Scenes of six things are drawn in six pictures: all things at once, or one more in each. Right is the share of the
things that are in the last picture of the film selected, by its pixels; whoever guides the search sees that share with
noise. Compute is counted in pictures, those of pruned branches included, and beside that in the pixels of a model that
draws coarse pictures first, where picture k of 6 costs (k/6)^2 of the last. Intervals are 95 %, over scenes; all
strategies draw the same scenes, so that differences are paired.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
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
    "the same by the last rating": {28: f"tree_of_frames:n=28,keep=[4],stages=[2,{FRAMES}],aggregate=last"},
    "a stage for each picture": {10: "tree_of_frames:n=10,keep=[4],stages=[2,3,4,5,6],aggregate=last"},
    "staged_resampling": {n: f"staged_resampling:n={n},embed=true" for n in (1, 2, 4)},
    "by likeness alone": {2: "staged_resampling:n=2,embed=true,resample_from=1"},
    "by merit alone": {2: "staged_resampling:n=2,resample_from=0"},
}
PIXELS = np.square(np.arange(1, FRAMES + 1) / FRAMES)
"""What each picture of a film costs, of the last, where they become finer."""


LEAST = ("equal", "three times", "equal pixels")
"""Beside how many films of linear search a strategy is set: of as many pictures, thrice as many, or as many pixels."""


def drawn(painter: Painter) -> NDArray[np.float64]:
    """How many first, second, ... pictures the server was asked for since it was last asked this."""
    told = [(int(re.findall(r"picture (\d+) of", body["prompt"])[0]), body.get("n", 1)) for body in painter.requests]
    painter.requests.clear()
    counts = Counter[int]()
    for number, n in told:
        counts[number] += n
    return np.array([counts[number] for number in range(1, FRAMES + 1)], dtype=float)


def correlations(ratings: NDArray[np.float64], finals: NDArray[np.float64]) -> list[dict[str, list[float]]]:
    """For each picture of a film, how its rating's rank goes with that of what becomes of it; mean over scenes."""
    found: list[list[float]] = [[] for _ in range(FRAMES)]
    for films, shares in zip(ratings, finals, strict=True):
        for frame, values in enumerate(films.T):
            if np.ptp(values) and np.ptp(shares):
                found[frame].append(float(np.corrcoef(mean_ranks(values), mean_ranks(shares))[0, 1]))
    return [as_dict(mean_interval(np.array(values)[:, np.newaxis], low=-1)) for values in found]


async def played(habits: Mapping[str, float], problems: list[Problem], sigma: float, seed: int) -> dict[str, Any]:
    """For each strategy what is right of each scene, and how many of each picture of a film that took."""
    with tempfile.TemporaryDirectory() as place:
        folder, painter = Path(place), Painter(seed=seed, **habits)  # type: ignore[arg-type]
        verifier = Measured(folder=folder, sigma=sigma)
        async with drawing_world(painter, Vision()) as models:

            async def run(spec: str, problem: Problem) -> tuple[Result, list[float]]:
                strategy = make("strategies", spec).model_copy(update={"images": True, "depth": FRAMES})
                result = await solve(problem, strategy, models, verifier=verifier, folder=folder, stop_early=False)
                assert not result.failures, result.failures
                asked = drawn(painter)
                assert sum(len(candidate.notes["tree"]) for candidate in result.candidates) == asked.sum()
                return result, asked.tolist()

            found: dict[str, Any] = {"finals": [], "chosen": [], "ratings": []}
            for problem in problems:
                ordered = sorted((await run(LINEAR, problem))[0].candidates, key=lambda candidate: candidate.spawned)
                scores = [candidate.verdict.score or 0.0 for candidate in ordered if candidate.verdict]
                finals = [accuracy(problem, candidate, folder) for candidate in ordered]
                found["finals"].append(finals)
                found["chosen"].append([finals[int(np.argmax(scores[:k]))] for k in range(1, FILMS + 1)])
                found["ratings"].append([[record["reward"] for record in one.notes["tree"]] for one in ordered])
                for spec in (spec for specs in FAMILIES.values() for spec in specs.values()):
                    result, asked = await run(spec, problem)
                    row = found.setdefault(spec, {"shares": [], "asked": []})
                    row["shares"].append(accuracy(problem, result.selected, folder))
                    row["asked"].append(asked)
    return found


def compared(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """All strategies of a world beside linear search, from what was `played` of it."""

    def whole(*path: str) -> NDArray[np.float64]:
        return np.array([row for part in parts for row in reduce(lambda table, key: table[key], path, part)])

    base = whole("chosen")
    found: dict[str, Any] = {
        "linear": {"pictures": [FRAMES * k for k in range(1, FILMS + 1)], **as_dict(mean_interval(base))},
        "correlation with the end": correlations(whole("ratings"), whole("finals")),
    }
    for family, specs in FAMILIES.items():
        for n, spec in specs.items():
            shares, counts = whole(spec, "shares")[:, np.newaxis], whole(spec, "asked").mean(axis=0)
            row = {"spec": spec, "pictures": counts.sum(), "share": as_dict(mean_interval(shares))}
            films, in_pixels = counts.sum() / FRAMES, counts @ PIXELS / PIXELS.sum()
            for name, worth in (("equal", films), ("three times", 3 * films), ("equal pixels", in_pixels)):
                k = min(FILMS, max(1, round(worth)))
                row[name] = {"films": k, **as_dict(paired_difference(shares, base[:, k - 1 : k]))}
            found.setdefault(family, {})[str(n)] = row
    return found


def show(found: Mapping[str, Any]) -> None:
    """The figures as tables."""
    console = Console(width=160)
    for name in WORLDS:
        heads = ("strategy", "pictures", "things drawn, %", *(f"over linear, {part}" for part in LEAST))
        table = Table(*heads, title=name)
        linear = found[name]["linear"]
        for films in (1, 4, 8, 16, FILMS):
            upto = {part: linear[part][:films] for part in ("mean", "low", "high")}
            table.add_row(f"linear, {films} films", str(linear["pictures"][films - 1]), words(upto), "", "", "")
        for family in FAMILIES:
            for n, row in found[name][family].items():
                least = [f"{words(row[part])}, {row[part]['films']} films" for part in LEAST]
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


def measure(count: int, sigma: float, kept: Path | None = None) -> dict[str, Any]:
    """Everything, ten scenes at a time; what `kept` has already is not played again."""
    problems, parts = scenes(count), list[dict[str, dict[str, Any]]]()
    if kept is not None and kept.exists():
        parts = [json.loads(line) for line in kept.read_text().splitlines()]
    for place in range(len(parts), -(-count // 10)):
        some = problems[10 * place : 10 * (place + 1)]
        parts.append({name: asyncio.run(played(habits, some, sigma, place)) for name, habits in WORLDS.items()})
        if kept is not None:
            with kept.open("a") as file:
                file.write(json.dumps(parts[-1]) + "\n")
    return {"problems": count, "sigma": sigma, **{name: compared([part[name] for part in parts]) for name in WORLDS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--sigma", type=float, default=0.1, help="noise of the ratings, in shares")
    parser.add_argument("--kept", type=Path, help="keep what each ten scenes give, and go on from there")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--plot", type=Path, help="draw the curves: .png or .svg")
    options = parser.parse_args()
    found = measure(options.problems, options.sigma, options.kept)
    show(found)
    if options.out:
        options.out.write_text(json.dumps(found) + "\n")
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
