"""Redesign beside its baselines on programs with vague specifications, by a model that comes with the library.

python -m experiments.pris.lab [--limit 60] [--out runs/pris-lab] [--plot lab.svg] [--found lab.json]

Right is what passes the hidden tests. The candidates are judged by the examples that they are shown. Intervals are
95 %, over problems; tokens are all that was read and written, by whoever wrote or rewrote. A run in --out that was
interrupted, or that is there already, is continued.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments.pris.shown import compared, draw, table
from tts.runs import Experiment, Run
from tts.runs.config import load
from tts.runs.run import Track
from tts.strategies.prompt_redesign import PromptRedesign

CONFIG = Path(__file__).with_name("lab_code.toml")
MEASURE = "right programs selected"


def name_of(strategy: object) -> str:
    """What a strategy of the run is called."""
    assert isinstance(strategy, PromptRedesign)
    if not strategy.rounds:
        return "expansion, best of N" if strategy.expand else "best of N"
    if strategy.per_sample:
        return "rewriting per sample"
    return "redesign" if strategy.variants == 2 else f"redesign, {strategy.variants} rewritings"


def prefixes(track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Whether the selected one is right, and the tokens so far, both problems x candidates; what was lost adds none."""
    shares, tokens = [], []
    rows = zip(track.rows, track.correct, track.cost("total_tokens"), strict=True)
    for row, flags, cost in sorted(rows, key=lambda one: one[0].problem):
        candidates = track.candidates(row)
        chosen = [track.method.select(candidates[: k + 1]) for k in range(len(candidates))]
        right = [0.0 if one is None else flags[one.spawned[0]] for one in chosen]
        missing = (0, track.method.n - len(right))  # type: ignore[attr-defined]
        shares.append(np.pad(right, missing, mode="edge"))
        tokens.append(np.pad(cost, missing, mode="edge"))
    return np.array(shares), np.array(tokens)


def run(limit: int | None, out: Path) -> Run:
    """The run of `lab_code.toml` in the directory `out`."""
    settings = load(CONFIG, {} if limit is None else {"limit": limit})
    return asyncio.run(Experiment.parse(settings).run(out, resume=out.exists()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="problems")
    parser.add_argument("--out", type=Path, default=Path("runs/pris-lab"), help="the run's directory")
    parser.add_argument("--plot", type=Path, help="draw the curves: .png or .svg")
    parser.add_argument("--found", type=Path, help="write what was found as JSON")
    options = parser.parse_args()
    tracks = {name_of(track.method): prefixes(track) for track in run(options.limit, options.out).tracks}
    found = compared({name: t[0] for name, t in tracks.items()}, {name: t[1] for name, t in tracks.items()})
    problems = len(next(iter(tracks.values()))[0])
    Console(width=140).print(table(f"{problems} programs", MEASURE, found))
    if options.plot:
        draw({"programs": found}, MEASURE, options.plot)
    if options.found:
        options.found.write_text(json.dumps({"problems": problems, **found}) + "\n")


if __name__ == "__main__":
    main()
