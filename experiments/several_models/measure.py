"""Cost and accuracy of cascades and of routers over two models, against either alone and an oracle router.

    python -m experiments.several_models.measure experiments/several_models/lab.toml --out runs/several

Each model answers every problem with the configuration's strategy, once over the problems of `calibrate` and once over
those of `task`. Who is asked at every target is decided by the calibration alone and replayed on the others; at one
target it is also run, and must come out as replayed. Writes `several.json` and `several.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tts.cli.calibrate import _by_strategy, write_profile
from tts.curves import mean_interval, paired_difference
from tts.runs import Experiment
from tts.runs.config import load
from tts.runs.estimates import final_accuracies
from tts.strategies.cascade import PolicyCascade
from tts.strategies.route import Route
from tts.strategies.routing import Floats, Profile
from tts.strategies.routing import load as load_profile

COLUMNS = (0, 1)
Pair = tuple[Floats, Floats]
"""Which problems are solved, and what each costs."""
ROUTES = Route.model_fields["by"].annotation
TARGETS = 7
"""Costs between that of the small and that of the large model, at which is decided."""


def ways(known: Profile, path: Path, cost: float) -> dict[str, PolicyCascade | Route]:
    """The strategies to compare, for a mean cost; a cascade by what the verifier refuses costs what it costs."""
    inner: dict[str, Any] = {"strategy": known.strategy}
    aimed = {**inner, "calibration": path, "cost": cost}
    votes = np.isfinite(known.agreement).any()
    cascade = PolicyCascade(**aimed, by="agreement") if votes else PolicyCascade(**inner)
    return {f"cascade, {cascade.by}": cascade, **{f"route, {by}": Route(**aimed, by=by) for by in get_args(ROUTES)}}


def replayed(way: PolicyCascade | Route, known: Profile, other: Profile) -> Pair:
    """What it gets of the problems of `other` when `known` decides."""
    rows = np.arange(len(other.texts))
    if isinstance(way, Route):
        value = way.expects(known, other.texts) - way.decide(known, COLUMNS) * known.cost.mean(axis=0)
        pick = np.argmax(value, axis=1)
        return other.solved[rows, pick], other.cost[rows, pick]
    if way.needs_calibration:
        end = np.argmax(other.agreement >= way.decide(known, COLUMNS), axis=1)
    else:
        end = np.where(other.score[:, 0] == -np.inf, 1, 0)
    return other.solved[rows, end], other.cost.cumsum(axis=1)[rows, end]


def row(name: str, solved: Floats, cost: Floats, small: Pair, large: Pair) -> dict[str, Any]:
    """Accuracy with its interval, cost, and how much more accurate than a coin that costs the same; 95 %."""
    found = mean_interval(solved[:, np.newaxis])
    share = (cost.mean() - small[1].mean()) / (large[1].mean() - small[1].mean())
    mix = share * large[0] + (1 - share) * small[0]
    over = paired_difference(solved[:, np.newaxis], mix[:, np.newaxis]) if 0 <= share <= 1 else None
    return {
        "name": name,
        "cost": float(cost.mean()),
        "accuracy": float(solved.mean()),
        "low": float(found.low[0]),
        "high": float(found.high[0]),
        "over_mix": over and [float(getattr(over, part)[0]) for part in ("mean", "low", "high")],
    }


async def stored(table: dict[str, Any], out: Path) -> tuple[Profile, Path]:
    """The profile of both models over the problems of the task."""
    run = await Experiment.parse(table).run(out, resume=True)
    path = out.with_suffix(".json")
    path.unlink(missing_ok=True)
    print(write_profile(run, path, _by_strategy(run, None)), flush=True)
    return load_profile(path), path


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs=2, metavar=("CALIBRATE", "TASK"), help="others than the configuration's")
    options = parser.parse_args()
    table, out = load(options.config), options.out
    calibrate, task = options.tasks or (table["calibrate"], table["task"])
    del table["calibrate"]
    known, path = await stored({**table, "task": calibrate}, out / "calibrate")
    table["task"] = task
    other, _ = await stored(table, out / "test")
    small, large = ((other.solved[:, column], other.cost[:, column]) for column in COLUMNS)
    best = np.where(other.solved[:, 0] > 0, 0, np.where(other.solved[:, 1] > 0, 1, 0))
    rows = [row(name, *found, small, large) for name, found in (("always small", small), ("always large", large))]
    ends = np.arange(len(best))
    rows.append(row("oracle router", other.solved[ends, best], other.cost[ends, best], small, large))
    low, high = known.cost.mean(axis=0)
    for cost in np.linspace(low, high, TARGETS + 2)[1:-1]:
        for name, way in ways(known, path, float(cost)).items():
            found = row(name, *replayed(way, known, other), small, large)
            if found not in rows:
                rows.append(found)
    live = dict(islice(ways(known, path, float((low + high) / 2)).items(), 2))
    run = await Experiment.parse({**table, "strategies": list(live.values())}).run(out / "test", resume=True)
    for track, (name, way) in zip(run.tracks[2:], live.items(), strict=True):
        solved, cost = replayed(way, known, other)
        spent = np.array([part[-1] for part in track.cost(known.measure)])
        assert np.isclose(np.mean(spent), cost.mean()), (name, spent.mean(), cost.mean())
        print(f"{name}, run: {np.mean(final_accuracies(track)):.3f}, replayed: {solved.mean():.3f}")
    lines = [
        f"| | {known.measure} a problem | accuracy | 95 % | over a random mix of equal cost |",
        "|---|--:|--:|--:|--:|",
    ]
    for one in rows:
        mix = one["over_mix"]
        over = "" if mix is None else f"{100 * mix[0]:+.1f} ({100 * mix[1]:+.1f} to {100 * mix[2]:+.1f})"
        interval = f"{100 * one['low']:.1f} to {100 * one['high']:.1f}"
        lines.append(f"| {one['name']} | {one['cost']:.3g} | {100 * one['accuracy']:.1f} | {interval} | {over} |")
    (out / "several.json").write_text(json.dumps(rows, indent=1))
    (out / "several.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    asyncio.run(main())
