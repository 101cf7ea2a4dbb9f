"""Repeated sampling, IdeaSearch and PlanSearch with the lab models: the run, its table and its figures.

    python -m experiments.plansearch.lab --out runs/plansearch-lab

An interrupted run continues. Accuracy is read off where a problem's answers and all that they descend from have cost no
more than so many completion tokens, for the three methods alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tts import Experiment
from tts.cli.common import console
from tts.curves import Curve, mean_interval, paired_difference, plot_curves
from tts.runs import Run
from tts.runs.analysis import track_curves
from tts.runs.config import load
from tts.runs.run import Track
from tts.studies import write_figure
from tts.studies.diversity import common_k, diversity, diversity_table, draw_diversities

BUDGETS = (250, 500, 1000, 2000, 4000)
"""Completion tokens for a problem."""

NAMES = {"repeated_sampling": "repeated sampling", "idea_search": "idea search", "plan_search": "plan search"}

Floats = NDArray[np.float64]


def within(track: Track, budget: float) -> dict[str, Floats]:
    """For each problem: whether any, and whether the selected, of the first answers within `budget` is right."""
    covered, selected = [], []
    for row, correct, cost in zip(track.rows, track.correct, track.cost("completion_tokens"), strict=True):
        count = int(np.searchsorted(cost, budget, side="right"))
        chosen = track.method.select(track.candidates(row)[:count])
        covered.append(float(correct[:count].any()))
        selected.append(0.0 if chosen is None else correct[chosen.spawned[0]])
    order = np.argsort([row.problem for row in track.rows])
    return {"coverage": np.array(covered)[order], "selected": np.array(selected)[order]}


def rows(run: Run) -> Iterator[dict[str, Any]]:
    """Every method with every model at every budget, and its paired difference to repeated sampling."""
    baseline: dict[tuple[str, float], dict[str, Floats]] = {}
    for track in run.tracks:
        name = NAMES[track.method.name]
        spent = [cost[-1] if len(cost) else 0.0 for cost in track.cost("completion_tokens")]
        for budget in BUDGETS:
            found = within(track, budget)
            reference = baseline.setdefault((track.model, budget), found)
            row: dict[str, Any] = {"model": track.model, "method": name, "budget": budget}
            row["exhausted"] = float(np.mean(np.array(spent) < budget))
            for key, values in found.items():
                once = mean_interval(values[:, None])
                apart = paired_difference(values[:, None], reference[key][:, None])
                row[key] = [float(part[0]) for part in (once.mean, once.low, once.high)]
                row[f"{key} difference"] = [float(part[0]) for part in (apart.mean, apart.low, apart.high)]
            yield row


def named_curves(run: Run, model: str) -> Iterator[Curve]:
    """Coverage and selected accuracy of the three methods over completion tokens."""
    for track in run.tracks:
        if track.model == model:
            for curve in track_curves(track):
                kind = "coverage" if curve.label.endswith("coverage") else "selected"
                yield replace(curve, label=f"{NAMES[track.method.name]}, {kind}")


def markdown(found: list[dict[str, Any]]) -> str:
    """The rows as a table, in percent; differences in points."""
    lines = [
        "| model | tokens | method | coverage | over repeated sampling | selected | over repeated sampling |",
        "|---|--:|---|---|---|---|---|",
    ]
    for row in sorted(found, key=lambda row: (row["model"], row["budget"])):
        first = row["method"] == NAMES["repeated_sampling"]
        cells = [row["model"], f"{row['budget']:,}", row["method"]]
        for key in ("coverage", "selected"):
            cells += [_percent(row[key]), "" if first else _percent(row[f"{key} difference"], "+.1f")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(values: list[float], form: str = ".1f") -> str:
    mean, low, high = (f"{100 * value:{form}}" for value in values)
    return f"{mean} ({low} to {high})"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("lab_code.toml"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--problems", type=int, help="(default: the configuration's)")
    options = parser.parse_args()
    table = load(options.config, {"limit": options.problems} if options.problems else None)
    run = await Experiment.parse(table).run(options.out, resume=True)
    found = list(rows(run))
    k = common_k(run.tracks)
    different = [
        {"run": str(run.path), "label": f"{NAMES[track.method.name]}, {track.model}", **diversity(track, k=k)}
        for track in run.tracks
    ]
    console().print(diversity_table(different))
    write_figure(draw_diversities(different), options.out / "gain.svg")
    for model in dict.fromkeys(track.model for track in run.tracks):
        plot_curves(list(named_curves(run, model)), options.out / f"{model}.svg")
    (options.out / "lab.json").write_text(json.dumps({"rows": found, "diversity": different}, indent=1))
    (options.out / "lab.md").write_text(markdown(found) + "\n")
    print(markdown(found))


if __name__ == "__main__":
    asyncio.run(main())
