"""The figure of what resampling is worth: R(K, lambda) against K, a panel for each verifier, with the K to stop at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tts.curves import CurveError
from tts.curves.bootstrap import Interval
from tts.curves.estimators import Integers
from tts.curves.plot import COLOURS, GREY, STYLE, save_figure
from tts.errors import MissingExtra
from tts.studies.imperfect_verifier import Best

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = tuple[str, Best, Integers, Interval]
"""The verifier's name, the best K under one cost, the ks and R at each of them."""


def plot_rewards(lines: Sequence[Line], path: str | Path) -> None:
    """Write the figure; the suffix of `path` names the format.

    Raises `CurveError` without lines, `MissingExtra` without the extra `plot`.
    """
    save_figure(draw_rewards(lines), path)


def draw_rewards(lines: Sequence[Line]) -> Figure:
    """The figure of `plot_rewards`, to be changed before it is saved."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plot", "drawing rewards") from error
    if not lines:
        raise CurveError("there is no verifier whose rewards could be drawn")
    names = list(dict.fromkeys(name for name, *_ in lines))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.2 * len(names)), layout="constrained")
        panels = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
        for name, axes in zip(names, panels, strict=True):
            _draw_panel(axes, [line for line in lines if line[0] == name])
            axes.set_title(name, loc="left", fontsize=9)
        panels[-1].set_xlabel("K, samples at most")
    return figure


def _draw_panel(axes: Axes, lines: Sequence[Line]) -> None:
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    axes.axhline(0, color=GREY, linewidth=0.8)
    for i, (_, best, k, value) in enumerate(lines):
        colour = COLOURS[i % len(COLOURS)]
        axes.fill_between(k, value.low, value.high, color=colour, alpha=0.12, linewidth=0)
        axes.plot(k, value.mean, color=colour, linewidth=1.5, label=f"λ = {best.ratio:g}")
        if best.k >= 1:
            axes.plot(best.k, best.reward, "o", color=colour, markersize=6, markeredgecolor="white")
    axes.plot([], [], "o", color=GREY, markeredgecolor="white", label="K* (none: abstain)")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("worth of resampling, R(K, λ)")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
