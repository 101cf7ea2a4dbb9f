"""The paper's headline table (Wang et al. 2024, arXiv 2409.03733, table 1) beside what runs found.

python experiments/plansearch/table.py RUN... [--benchmark HumanEval+] [--k 200]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tts.curves import filtered_pass_at_k, mean_interval, pass_at_k
from tts.runs import Run
from tts.runs.run import Track

PAPER = {
    ("GPT-4o-mini", "LiveCodeBench"): (39.0, 53.3, 59.4, 64.9),
    ("GPT-4o", "LiveCodeBench"): (41.3, 60.6, 70.4, 73.0),
    ("DeepSeek-Coder-V2", "LiveCodeBench"): (41.4, 53.2, 65.9, 70.3),
    ("Claude-3.5-Sonnet", "LiveCodeBench"): (40.3, 55.6, 70.2, 77.0),
    ("o1-mini", "LiveCodeBench"): (69.5, 90.8, 91.2, 91.3),
    ("GPT-4o-mini", "HumanEval+"): (83.7, 95.0, 97.5, 98.2),
    ("GPT-4o", "HumanEval+"): (86.4, 98.2, 97.6, 99.5),
    ("DeepSeek-Coder-V2", "HumanEval+"): (82.8, 91.4, 97.2, 99.3),
    ("Claude-3.5-Sonnet", "HumanEval+"): (81.6, 88.9, 95.6, 98.5),
    ("GPT-4o-mini", "MBPP+"): (73.5, 83.8, 87.3, 91.0),
    ("GPT-4o", "MBPP+"): (77.2, 87.4, 89.3, 92.2),
    ("DeepSeek-Coder-V2", "MBPP+"): (76.3, 81.9, 89.1, 92.6),
    ("Claude-3.5-Sonnet", "MBPP+"): (77.1, 83.0, 87.8, 93.7),
}
"""Percent: repeated sampling at 1 and 200, IdeaSearch at 200, PlanSearch at 200."""


def paper_table(benchmark: str | None) -> Table:
    """The published figures."""
    table = Table(title="Published, %", title_justify="left")
    for name in ("model", "benchmark", "repeated@1", "repeated@200", "idea@200", "plan@200"):
        table.add_column(name, justify="left" if name in ("model", "benchmark") else "right")
    for (model, bench), values in PAPER.items():
        if benchmark in (None, bench):
            table.add_row(model, bench, *(f"{value:.1f}" for value in values))
    return table


def run_table(tracks: list[tuple[str, Track]], k: int) -> Table:
    """What runs found: 95 % intervals over problems in brackets."""
    table = Table(title="Measured, %", title_justify="left")
    columns = (
        "run",
        "strategy",
        "pass@1",
        f"pass@{k}",
        "public tests first: @1",
        "@20",
        "selected",
        "programs",
        "tokens spent",
    )
    for name in columns:
        table.add_column(name, justify="left" if name in ("run", "strategy") else "right")
    for label, track in tracks:
        table.add_row(label, f"{track.strategy} · {track.model}", *measured(track, k))
    return table


def measured(track: Track, k: int) -> list[str]:
    """The cells of a track. A problem with fewer than k candidates has as many as it has; the rest are failures."""
    problems = [
        (flags, passed, flags[row.selected] if row.selected is not None else 0.0)
        for row, flags, passed in zip(track.rows, track.correct, track.passed, strict=True)
        if not np.isnan(flags).any()
    ]
    n = np.array([len(flags) for flags, _, _ in problems])
    c = np.array([flags.sum() for flags, _, _ in problems])
    some = n > 0
    once = np.where(some, c / np.maximum(n, 1), 0.0)
    often = np.array([pass_at_k(m, r, min(k, m)) if m else 0.0 for m, r in zip(n, c, strict=True)])
    accepted = np.array([(passed == 1).sum() for _, passed, _ in problems])
    both = np.array([flags[passed == 1].sum() for flags, passed, _ in problems])
    filtered = filtered_pass_at_k(accepted, both, [1, 20])
    chosen = np.array([right for _, _, right in problems])
    columns = (once, often, filtered[:, 0], filtered[:, 1], chosen)
    return [*map(with_interval, columns), f"{n.mean():,.0f}", f"{track.usage().completion_tokens:,.0f}"]


def with_interval(values: np.ndarray) -> str:
    """Mean over problems and its interval, in percent."""
    if len(values) < 2:
        return f"{100 * values.mean():.1f}"
    interval = mean_interval(values[:, np.newaxis])
    return f"{100 * interval.mean[0]:.1f} ({100 * interval.low[0]:.1f} to {100 * interval.high[0]:.1f})"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--benchmark", choices=sorted({bench for _, bench in PAPER}), help="show these rows alone")
    parser.add_argument("--k", type=int, default=200)
    options = parser.parse_args()
    tracks = [(path.name, track) for path in options.runs for track in Run(path).tracks]
    console = Console(width=200)
    console.print(paper_table(options.benchmark))
    console.print(run_table(tracks, options.k))


if __name__ == "__main__":
    main()
