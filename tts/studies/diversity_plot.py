"""The figure of relative gain against diversity: a point for each strategy and model, and the line through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tts.curves import CurveError
from tts.curves.plot import COLOURS, GREY, MARKERS, STYLE, save_figure
from tts.errors import MissingExtra
from tts.studies.diversity_math import fit_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class GainPoint:
    """One strategy with one model."""

    label: str
    diversity: float
    """From 0 to 1."""
    gain: float
    """pass@k / pass@1 - 1."""


def plot_gain(points: Sequence[GainPoint], path: str | Path, *, x_label: str = "diversity", k: int) -> None:
    """Write the figure; the suffix of `path` names the format. From three points on it has their regression line.

    Raises `CurveError` without points, `MissingExtra` without the extra `plot`.
    """
    save_figure(draw_gain(points, x_label=x_label, k=k), path)


def draw_gain(points: Sequence[GainPoint], *, x_label: str = "diversity", k: int) -> Figure:
    """The figure of `plot_gain`, to be changed before it is saved."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import PercentFormatter
    except ImportError as error:
        raise MissingExtra("plot", "drawing gains") from error
    if not points:
        raise CurveError("there is no strategy with both a diversity and a gain to draw")
    x, y = np.array([point.diversity for point in points]), np.array([point.gain for point in points])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for i, point in enumerate(points):
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(point.diversity, point.gain, MARKERS[i % len(MARKERS)], color=colour, label=point.label)
        try:
            line = fit_line(x, y)
        except CurveError:  # too few points for a line
            pass
        else:
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, line.intercept + line.slope * ends, color=GREY, linewidth=1, zorder=0)
            axes.set_title(f"r = {line.correlation:.2f} over {line.points} points", loc="left", fontsize=9)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel(x_label)
        axes.set_ylabel(f"gain of pass@{k} over pass@1")
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure
