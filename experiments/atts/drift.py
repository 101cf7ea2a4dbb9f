"""Does the rejection rate hold over turns? Realised rates by turn under several ways of calibrating.

    python -m experiments.atts.drift experiments/atts/lab.toml --apart "lab_math:steps=[1,7],seed=1" \\
        --out runs/atts-drift --chunk 12 --rounds 8

The calibration files come from the problems of `--apart`, which are run first; the rates are those on the problems of
the configuration.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.atts.figures import draw_drift, percent
from tts import Experiment
from tts.cli.calibrate import write_calibration
from tts.runs import Run
from tts.runs.config import load
from tts.runs.run import Track

FEWEST = 100
"""Drafts of a turn from which on its rate is shown."""


async def drift(table: dict[str, Any], apart: str, out: Path, spec: str, rate: float) -> dict[str, Any]:
    """Rates by turn for every way of calibrating; `spec` is atts with all but these."""

    async def run(name: str, task: str, more: str) -> Run:
        grid = Experiment.parse({**table, "task": task, "strategies": [f"{spec}{more}"]})
        return await grid.run(out / name, resume=True)

    nominal = f",rejection_rate={rate}"
    files = {"first": ",rounds=1,rejection_rate=0", "every": f"{nominal},by=turn"}
    for name, more in files.items():
        made = await run(f"calibration-{name}", apart, more)
        if not (file := out / f"{name}.json").exists():
            write_calibration(made, file)
    ways = {
        "file of first turns": f"calibration={out / 'first.json'}",
        "file of every turn, by turn": f"calibration={out / 'every.json'},by=turn",
        "online": "",
        "online, by turn": "by=turn",
        "online, last 200": "window=200",
        "online, by question, 4 drafts ahead": "by=question,presample=4",
    }
    runs = {}
    for number, (name, way) in enumerate(ways.items()):
        [track] = (await run(f"way-{number}", table["task"], f"{nominal}{',' + way if way else ''}")).tracks
        runs[name] = rates(track)
        said = ", ".join(f"{turn['turn']}: {100 * turn['rate'][0]:.1f}" for turn in runs[name]["turns"])
        print(
            f"{name}: {percent(runs[name]['all'])}; by turn {said}; sd {runs[name]['between problems']:.3f}", flush=True
        )
    return {"nominal": rate, "spec": spec, "runs": runs}


def rates(track: Track) -> dict[str, Any]:
    """Share of the scored drafts that were rejected, with 95 % intervals over problems.

    Of all, and by turn; `between problems` is its standard deviation.
    """
    problems = [
        [(number, turn["rejected"]) for one in track.candidates(row) for number, turn in enumerate(one.notes["turns"])]
        for row in track.rows
    ]
    longest = max((number for drafts in problems for number, _ in drafts), default=0) + 1
    counts = np.zeros((len(problems), longest, 2))
    for i, drafts in enumerate(problems):
        for number, rejected in drafts:
            counts[i, number] += rejected, 1
    shown = [turn for turn in range(longest) if counts[:, turn, 1].sum() >= FEWEST]
    return {
        "drafts": int(counts[..., 1].sum()),
        "all": ratio(counts.sum(axis=1)),
        "between problems": float(np.nanstd(_shares(counts.sum(axis=1)))),
        "turns": [
            {"turn": turn, "drafts": int(counts[:, turn, 1].sum()), "rate": ratio(counts[:, turn])} for turn in shown
        ],
    }


def _shares(counts: np.ndarray) -> np.ndarray:
    return np.where(counts[:, 1] > 0, counts[:, 0] / np.maximum(counts[:, 1], 1), np.nan)


def ratio(counts: np.ndarray, resamples: int = 2000) -> list[float]:
    """Sum of the first column over that of the second, with percentiles over problems drawn anew."""
    drawn = np.random.default_rng(0).integers(len(counts), size=(resamples, len(counts)))
    sums = counts[drawn].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1), [0.025, 0.975])
    rejected, scored = counts.sum(axis=0)
    return [float(rejected / scored), float(low), float(high)]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--apart", required=True, help="spec of the task with the problems to calibrate with")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rate", type=float, default=0.4)
    options = parser.parse_args()
    spec = (
        f"atts:n={options.samples},draft_tokens={options.chunk},target_tokens={options.chunk},rounds={options.rounds}"
    )
    found = await drift(load(options.config), options.apart, options.out, spec, options.rate)
    (options.out / "drift.json").write_text(json.dumps(found, indent=1))
    draw_drift(found, options.out / "drift.svg")


if __name__ == "__main__":
    asyncio.run(main())
