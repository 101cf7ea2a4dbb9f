"""Cost and accuracy of a cascade and of routers over two lab models, against either alone and an oracle router.

    python -m experiments.several_models.lab --out runs/several

Each model answers every problem with a vote of four, once over problems to calibrate with and once over others. Who is
asked at every target is decided by the calibration alone and replayed on the others; at one target it is also run, and
must come out as replayed. Writes `several.json` and `several.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from tts.strategies.self_consistency import SelfConsistency

INNER = SelfConsistency(n=4)
COLUMNS = (0, 1)
Pair = tuple[Floats, Floats]
"""Which problems are solved, and what each costs."""
TARGETS = 7
"""Costs between that of the small and that of the large model, at which is decided."""


def decided(known: Profile, other: Profile, path: Path, cost: float) -> Iterator[tuple[str, Floats, Floats]]:
    """For each way to decide: whether the problems of `other` are solved and what that costs, decided by `known`."""
    rows = np.arange(len(other.texts))
    cascade = PolicyCascade(strategy=INNER, by="agreement", calibration=path, cost=cost)
    end = np.argmax(other.agreement >= cascade.decide(known, COLUMNS), axis=1)
    yield "cascade", other.solved[rows, end], other.cost.cumsum(axis=1)[rows, end]
    for by in ("neighbours", "learned", "abilities"):
        route = Route(strategy=INNER, by=by, calibration=path, cost=cost)
        price = route.decide(known, COLUMNS)
        value = route.expects(known, other.texts) - price * known.cost.mean(axis=0)
        pick = np.argmax(value, axis=1)
        yield f"route, {by}", other.solved[rows, pick], other.cost[rows, pick]


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


async def stored(table: dict[str, Any], seed: int, out: Path) -> tuple[Profile, Path]:
    """The profile of both models over the problems of a seed."""
    run = await Experiment.parse({**table, "task": f"{table['task']},seed={seed}"}).run(
        out / f"seed{seed}", resume=True
    )
    path = out / f"seed{seed}.json"
    path.unlink(missing_ok=True)
    print(write_profile(run, path, _by_strategy(run, None)), flush=True)
    return load_profile(path), path


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", help="another than the configuration's")
    options = parser.parse_args()
    table, out = load(Path(__file__).with_name("lab.toml")), options.out
    table["task"] = options.task or table["task"]
    (known, path), (other, _) = [await stored(table, seed, out) for seed in (1, 2)]
    small, large = ((other.solved[:, column], other.cost[:, column]) for column in COLUMNS)
    best = np.where(other.solved[:, 0] > 0, 0, np.where(other.solved[:, 1] > 0, 1, 0))
    rows = [row(name, *found, small, large) for name, found in (("always small", small), ("always large", large))]
    ends = np.arange(len(best))
    rows.append(row("oracle router", other.solved[ends, best], other.cost[ends, best], small, large))
    low, high = known.cost.mean(axis=0)
    for cost in np.linspace(low, high, TARGETS + 2)[1:-1]:
        for name, solved, spent in decided(known, other, path, float(cost)):
            rows.append(row(name, solved, spent, small, large))
    at = float((low + high) / 2)
    specs = [
        PolicyCascade(strategy=INNER, by="agreement", calibration=path, cost=at),
        Route(strategy=INNER, calibration=path, cost=at),
    ]
    live = {**table, "task": f"{table['task']},seed=2", "strategies": specs}
    run = await Experiment.parse(live).run(out / "seed2", resume=True)
    replayed = {name: (solved, spent) for name, solved, spent in decided(known, other, path, at)}
    for track, name in zip(run.tracks[2:], ("cascade", "route, neighbours"), strict=True):
        spent = np.array([part[-1] for part in track.cost("flops")])
        assert np.isclose(np.mean(spent), replayed[name][1].mean()), (name, spent.mean(), replayed[name][1].mean())
        print(f"{name}, run: {np.mean(final_accuracies(track)):.3f}, replayed: {replayed[name][0].mean():.3f}")
    lines = ["| | FLOPs a problem | accuracy | 95 % | over a random mix of equal cost |", "|---|--:|--:|--:|--:|"]
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
