"""The paper's tables (arXiv 2512.03534) beside what runs found.

python experiments/pris/table.py [RUN...] [--x total_tokens]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tts.curves import mean_interval
from tts.runs import Run
from tts.runs.run import Track

PAPER = {
    "images, VQAScore, FLUX.1-dev, N=20": (0.718, 0.783, 0.854),
    "the same after prompt expansion": (0.769, 0.829, 0.853),
    "images, DA-Score (not selected by)": (0.681, 0.682, 0.707),
    "video, VBench-2 control and creativity, Wan 1.3B": (51.57, 57.73, 65.45),
    "video, VBench-2 control and creativity, Wan 14B": (53.66, 58.51, 68.85),
    "video, VBench-2 commonsense and physics, Wan 1.3B": (63.22, 62.61, 66.07),
    "video, VBench-2 commonsense and physics, Wan 14B": (63.45, 66.14, 69.98),
}
"""Base, best-of-N, redesign."""
ABLATION = {"images": (0.783, 0.853, 0.854), "video": (0.711, 0.619, 0.754)}
"""Best-of-N, rewriting per sample, redesign for common failures."""
SELECTION = {"element checks": 0.763, "decomposed yes/no questions": 0.700, "VideoAlign": 0.693}
"""Accuracy of selecting the video that people find to match, 410 prompts."""


def paper_tables() -> list[Table]:
    """The published figures."""
    main = Table("published", "base", "best of N", "redesign")
    for name, values in PAPER.items():
        main.add_row(name, *map(str, values))
    ablation = Table("published ablation", "best of N", "per sample", "common failures")
    for name, values in ABLATION.items():
        ablation.add_row(name, *map(str, values))
    selection = Table("published verifiers", "selection accuracy")
    for name, value in SELECTION.items():
        selection.add_row(name, str(value))
    return [main, ablation, selection]


def run_table(tracks: list[tuple[str, Track]], x: str) -> Table:
    """What runs found: means over problems, with 95 % intervals."""
    table = Table("run", "strategy", "selected right, %", "elements met by the selected, %", "candidates", x)
    for label, track in tracks:
        table.add_row(label, f"{track.strategy} · {track.model}", *measured(track, x))
    return table


def measured(track: Track, x: str) -> list[str]:
    """The cells of a track; an unselected problem is a failure."""
    right, met = [], []
    for row, flags in zip(track.rows, track.correct, strict=True):
        if row.selected is None:
            right.append(0.0)
            continue
        right.append(flags[row.selected])
        verdict = track.candidates(row)[row.selected].verdict
        elements = verdict.details.get("elements") if verdict is not None else None
        if elements:
            met.append(np.mean([element["met"] for element in elements]))
    sizes = [len(flags) for flags in track.correct]
    costs = [cost[-1] for cost in track.cost(x) if len(cost)]
    return [with_interval(right), with_interval(met), f"{np.mean(sizes):.1f}", f"{np.mean(costs):,.0f}"]


def with_interval(values: list[float]) -> str:
    """Mean and interval, in percent, of what is known."""
    known = np.array([value for value in values if not np.isnan(value)])
    if len(known) < 2:
        return f"{100 * known.mean():.1f}" if len(known) else "unknown"
    found = mean_interval(known[:, np.newaxis])
    return f"{100 * found.mean[0]:.1f} ({100 * found.low[0]:.1f} to {100 * found.high[0]:.1f})"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--x", default="total_tokens", help="measure of compute, as in tts report")
    options = parser.parse_args()
    console = Console(width=160)
    for table in paper_tables():
        console.print(table)
    tracks = [(path.name, track) for path in options.runs for track in Run(path).tracks]
    if tracks:
        console.print(run_table(tracks, options.x))


if __name__ == "__main__":
    main()
