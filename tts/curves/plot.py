"""Accuracy-versus-compute figures, with matplotlib's objects alone (no window, no global figure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tts.curves.curve import Curve
from tts.curves.errors import CurveError
from tts.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette for all kinds of colour vision, without its yellow, too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"
GREY = "#666666"
STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#222222",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "#222222",
    "ytick.labelcolor": "#222222",
    "svg.fonttype": "none",
    "svg.hashsalt": "tts",
}


def plot_curves(
    curves: Sequence[Curve],
    path: str | Path,
    *,
    title: str = "",
    y_label: str = "accuracy",
    log_x: bool | None = None,
) -> None:
    """Write curves over one x axis as a figure; the suffix of `path` names the format (.png, .svg, .pdf).

    The shaded bands are the confidence intervals. `log_x` is chosen from the range of x if None.

    Raises `CurveError` for no curves or curves over different x axes, `MissingExtra` without the extra
    `plot`.
    """
    save_figure(draw_curves(curves, title=title, y_label=y_label, log_x=log_x), path)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, the same bytes for the same content. Raises `CurveError` for an unknown format."""
    suffix = Path(path).suffix.lower()
    if suffix not in {".png", ".svg", ".pdf"}:
        raise CurveError(f"cannot tell the figure's format from '{path}': end the name in .png, .svg or .pdf")
    import matplotlib

    undated = {"CreationDate" if suffix == ".pdf" else "Date": None} if suffix != ".png" else None
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=200, metadata=undated)


def draw_curves(
    curves: Sequence[Curve], *, title: str = "", y_label: str = "accuracy", log_x: bool | None = None
) -> Figure:
    """The figure of `plot_curves`, to be changed before it is saved."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import PercentFormatter
    except ImportError as error:
        raise MissingExtra("plot", "drawing curves") from error
    if len({curve.x_label for curve in curves}) != 1:
        raise CurveError("one figure needs at least one curve, and all of them over the same x axis")
    with matplotlib.rc_context(STYLE):
        longest = max(len(curve.label) for curve in curves) if len(curves) > 1 else 0  # they stand beside the axes
        figure = Figure(figsize=(max(5.2, 3.9 + 0.065 * longest), 3.4), layout="constrained")
        axes = figure.add_subplot()
        for i, curve in enumerate(curves):
            colour = COLOURS[i % len(COLOURS)]
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(
                curve.x,
                curve.y,
                color=colour,
                marker=MARKERS[i % len(MARKERS)],
                markersize=3.5,
                linewidth=1.5,
                linestyle="-" if i < len(COLOURS) else "--",
                label=curve.label,
            )
        _scale_x(axes, curves, log_x)
        _scale_y(axes, curves)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(curves[0].x_label)
        axes.set_ylabel(y_label)
        if title:
            axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
        if len(curves) > 1:
            _name_lines(axes, curves)
    return figure


def _scale_x(axes: Axes, curves: Sequence[Curve], log_x: bool | None) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low = min(float(curve.x[0]) for curve in curves)
    high = max(float(curve.x[-1]) for curve in curves)
    if log_x is None:
        log_x = low > 0 and high >= 8 * low
    if log_x and low <= 0:
        raise CurveError("a logarithmic x axis needs positive compute: leave out the points at 0, or use log_x=False")
    if log_x:
        counts = low >= 1 and high <= 4096  # samples double; tokens, FLOPs and money read better in 1, 2, 5
        few_decades = high < 500 * low
        axes.set_xscale("log", base=2 if counts else 10)
        ticks = (
            LogLocator(2, numticks=10) if counts else LogLocator(10, (1, 2, 5) if few_decades else (1,), numticks=12)
        )
        axes.xaxis.set_major_locator(ticks)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def _scale_y(axes: Axes, curves: Sequence[Curve]) -> None:
    low = min(float(curve.low.min()) for curve in curves)
    high = max(float(curve.high.max()) for curve in curves)
    margin = max(0.05 * (high - low), 0.01)
    floor, ceiling = low - margin, high + margin
    axes.set_ylim(max(floor, -0.02) if low >= 0 else floor, min(ceiling, 1.02) if high <= 1 else ceiling)


def _name_lines(axes: Axes, curves: Sequence[Curve]) -> None:
    """Each line's name at its right end, moved apart where they would overlap; a legend for many lines."""
    order = sorted(range(len(curves)), key=lambda i: curves[i].y[-1])
    if len(curves) > 6:
        highest_first = [axes.lines[i] for i in reversed(order)]
        axes.legend(handles=highest_first, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1))
        return
    bottom, top = axes.get_ylim()
    line_height = 0.06 * (top - bottom)
    places = spread([float(curves[i].y[-1]) for i in order], line_height)
    right = max(float(curve.x[-1]) for curve in curves)
    for i, place in zip(order, places, strict=True):
        axes.annotate(
            curves[i].label,
            (right, place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=COLOURS[i],
            fontsize=8.5,
            annotation_clip=False,
        )


def spread(places: Sequence[float], distance: float) -> list[float]:
    """Increasing `places`, moved as little as possible (in squares) to lie at least `distance` apart."""
    blocks: list[tuple[float, int]] = []  # isotonic regression of place - i * distance: mean and size
    for i, place in enumerate(places):
        mean, size = place - i * distance, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    level = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])
    return [float(value + i * distance) for i, value in enumerate(level)]


def short_number(value: float) -> str:
    """A tick label of at most a few characters: 64, 1.5k, 2M, 3e15."""
    size = abs(value)
    if not 1e-3 <= size < 1e12:
        return f"{value:.3g}".replace("e+", "e").replace("e-0", "e-")
    power = max(0, min(3, int(math.log10(size) // 3)))
    return f"{value / 1000**power:.3g}{('', 'k', 'M', 'B')[power]}"
