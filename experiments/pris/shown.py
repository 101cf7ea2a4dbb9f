"""What was found in a world, as a table and as curves: strategies by name, each with its intervals over problems."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.table import Table

from tts.curves import Interval, mean_interval, paired_difference

Found = Mapping[str, Mapping[str, Any]]
"""By strategy: `accuracy` after each number of candidates, mean `tokens` there, and at the end `over best of N`."""
BASE = "best of N"


def compared(shares: Mapping[str, ArrayLike], tokens: Mapping[str, ArrayLike]) -> Found:
    """Accuracy and tokens of each strategy, both problems x candidates, with its interval and paired with the first."""
    base = np.asarray(shares[BASE])[:, -1:]
    return {
        name: {
            "accuracy": as_dict(mean_interval(values)),
            "tokens": np.asarray(tokens[name]).mean(axis=0).tolist(),
            "over best of N": as_dict(paired_difference(np.asarray(values)[:, -1:], base)),
        }
        for name, values in shares.items()
    }


def as_dict(interval: Interval) -> dict[str, list[float]]:
    return {part: getattr(interval, part).tolist() for part in ("mean", "low", "high")}


def words(interval: Mapping[str, list[float]]) -> str:
    """The last of the values, in percent."""
    mean, low, high = (100 * interval[part][-1] for part in ("mean", "low", "high"))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def table(title: str, measure: str, found: Found) -> Table:
    """What was reached with all candidates."""
    made = Table("strategy", f"{measure}, %", "over best of N, points", "tokens", title=title)
    for name, row in found.items():
        made.add_row(name, words(row["accuracy"]), words(row["over best of N"]), f"{row['tokens'][-1]:,.0f}")
    return made


def draw(worlds: Mapping[str, Found], measure: str, path: Path) -> None:
    """The curves over candidates and over tokens, a row for each world."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (11, 4 * len(worlds))
    figure, rows = pyplot.subplots(len(worlds), 2, figsize=size, sharey="row", layout="constrained", squeeze=False)
    for (world, found), row in zip(worlds.items(), rows, strict=True):
        for axes, compute in zip(row, ("candidates", "tokens"), strict=True):
            for name, curve in found.items():
                shares = curve["accuracy"]
                x = curve["tokens"] if compute == "tokens" else range(1, len(shares["mean"]) + 1)
                (line,) = axes.plot(x, shares["mean"], label=name)
                axes.fill_between(x, shares["low"], shares["high"], color=line.get_color(), alpha=0.12, linewidth=0)
            axes.set(title=world, xlabel=compute, ylabel=measure)
    rows[0][0].legend(fontsize=8)
    figure.savefig(path)
