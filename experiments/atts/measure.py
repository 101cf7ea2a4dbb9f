"""Measures ATTS beside its synchronous baseline and either model alone, on the servers of a configuration.

    python -m experiments.atts.measure experiments/atts/math500.toml --out runs/atts-math500

Each strategy has a run directory of its own, so that none is quicker for the answers of another, and all have the
same problems, budget per round and, where `params.seed` is set, seeds. `--one-at-a-time` solves one problem after
another: then it is latency that is compared, else throughput. An interrupted measurement continues, but what was
resumed is left out of the times.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from tts import Experiment
from tts.curves import plot_timeline, utilisation, waiting
from tts.experiment import Run
from tts.experiment.analysis import calls, summary, track_curves
from tts.experiment.config import load

CONTROLS = {"target": "draft", "draft": "target"}


def strategies(samples: int, *, chunk: int, whole: int, rate: float, more: str) -> Iterator[tuple[str, str]]:
    """Name and spec of everything that is compared; `whole` tokens are the most of a sample."""
    rounds = -(-whole // chunk)
    common = f"n={samples},rounds={rounds},draft_tokens={chunk},target_tokens={chunk},rejection_rate={rate}"
    yield "atts", f"atts:{common}{',' + more if more else ''}"
    yield "atts_sync", f"atts_sync:{common}"
    for role, other in CONTROLS.items():
        yield f"{role} alone", f"atts:n={samples},rounds=1,{role}_tokens={whole},{other}_tokens=0"


async def measure(table: dict[str, Any], spec: str, out: Path, *, one_at_a_time: bool) -> dict[str, Any]:
    """Run one strategy and read off what is compared."""
    resumed = (out / "run.sqlite").exists()
    begin = monotonic()
    if one_at_a_time:
        run = await _one_at_a_time(table, spec, out)
    else:
        run = await Experiment.parse({**table, "strategies": [spec]}).run(out, resume=True)
    seconds = monotonic() - begin
    return {"strategy": spec, "seconds": None if resumed else round(seconds, 2), **read_off(run)}


async def _one_at_a_time(table: dict[str, Any], spec: str, out: Path) -> Run:
    """Grow the run problem by problem: what is finished is kept."""
    size = len(list(Experiment.parse({**table, "strategies": [spec]}).task.examples()))
    run = None
    for limit in range(1, min(size, table.get("limit") or size) + 1):
        run = await Experiment.parse({**table, "limit": limit, "strategies": [spec]}).run(out, resume=True)
    assert run is not None
    return run


def read_off(run: Run) -> dict[str, Any]:
    """Accuracy with its interval, cost by role, and how the time was used."""
    [track], [row] = run.tracks, summary(run)
    curves = track_curves(track, "samples")
    points = {
        f"{curve.estimator}, k={curve.k[i]}": [round(float(v[i]), 4) for v in (curve.y, curve.low, curve.high)]
        for curve in curves
        for i in {0, len(curve.k) - 1}
    }
    every = calls(track)
    turns = [turn for cell in track.rows for one in track.candidates(cell) for turn in one.notes.get("turns", ())]
    return {
        "accuracy": [row["accuracy"], row["low"], row["high"]],
        "points": points,
        "tokens": {role: usage.completion_tokens for role, usage in track.by_role().items()},
        "prompt_tokens": {role: usage.prompt_tokens for role, usage in track.by_role().items()},
        "rejected": sum(turn["rejected"] for turn in turns) / len(turns) if turns else None,
        "utilisation": utilisation(every),
        "waiting": waiting(every)[1],
        "failures": sum(len(cell.failures) for cell in track.rows),
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--chunk", type=int, default=500)
    parser.add_argument("--whole", type=int, default=8192)
    parser.add_argument("--rate", type=float, default=0.4)
    parser.add_argument("--more", default="by=turn", help="further parameters of atts")
    parser.add_argument("--one-at-a-time", action="store_true")
    parser.add_argument("--full", action="store_true", help="draw all samples, also when the vote is settled")
    options = parser.parse_args()
    table = {**load(options.config), "stop_early": not options.full}
    found, schedules = [], {}
    for samples in options.samples:
        settings = {"chunk": options.chunk, "whole": options.whole, "rate": options.rate, "more": options.more}
        for name, spec in strategies(samples, **settings):
            out = options.out / f"{name.replace(' ', '-')}-{samples}"
            row = await measure(table, spec, out, one_at_a_time=options.one_at_a_time)
            found.append({"name": name, "samples": samples, **row})
            [track] = Run(out).tracks
            schedules[f"{name}, {samples} samples"] = calls(track, track.rows[0].problem)
            tokens = ", ".join(f"{role} {count:,.0f}" for role, count in row["tokens"].items())
            print(f"{samples:3d} {name:12} {row['seconds']} s, accuracy {row['accuracy'][0]}, tokens: {tokens}")
            (options.out / "measured.json").write_text(json.dumps(found, indent=1))
    shown = {name: calls_ for name, calls_ in schedules.items() if name.startswith("atts")}
    plot_timeline(dict(list(shown.items())[:4]), options.out / "timeline.png")


if __name__ == "__main__":
    asyncio.run(main())
