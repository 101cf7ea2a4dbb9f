"""Curves as figures and as files of points. Figures use matplotlib's objects alone: no window, no global figure."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tts.curves.curve import Curve
from tts.curves.estimators import CurveError
from tts.errors import ConfigError, MissingExtra

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
COLUMNS: tuple[str, ...] = (
    "label", "estimator", "problems", "level", "x_name", "x_unit", "k", "cap", "x", "accuracy", "low", "high",
)  # fmt: skip
"""Of the files of points."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn failures to write `path`, or to find anything to put into it, into `ConfigError`."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    except CurveError as error:
        raise ConfigError(str(error)) from None


# -- points ---------------------------------------------------------------------------------------------------------


def curve_rows(curves: Iterable[Curve]) -> list[dict[str, str | int | float | None]]:
    """One mapping per point, in the order of `COLUMNS`, of plain Python values."""
    rows = []
    for curve in curves:
        shared = (curve.label, curve.estimator, curve.problems, curve.level, curve.x_name, curve.x_unit)
        caps = [None] * len(curve.k) if curve.cap is None else curve.cap.tolist()
        values = (array.tolist() for array in (curve.x, curve.y, curve.low, curve.high))
        points = zip(curve.k.tolist(), caps, *values, strict=True)
        rows.extend(dict(zip(COLUMNS, (*shared, *point), strict=True)) for point in points)
    return rows


def write_csv(curves: Iterable[Curve], path: str | Path) -> None:
    """Write curves as CSV with a header; numbers keep full precision."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(curve_rows(curves))


def write_parquet(curves: Iterable[Curve], path: str | Path) -> None:
    """Write curves as Parquet. Raises `MissingExtra` without the extra `data`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("data", "writing Parquet") from error
    types = {"problems": pa.int64(), "k": pa.int64()} | dict.fromkeys(
        ("label", "estimator", "x_name", "x_unit"), pa.string()
    )
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in COLUMNS])
    pq.write_table(pa.Table.from_pylist(curve_rows(curves), schema=schema), path)


# -- figures --------------------------------------------------------------------------------------------------------


@contextmanager
def drawing(what: str) -> Iterator[type[Figure]]:
    """Matplotlib's class of figures, in the style of the library. Raises `MissingExtra` without the extra `plot`."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plot", f"drawing {what}") from error
    with matplotlib.rc_context(STYLE):
        yield Figure


def plot_curves(
    curves: Sequence[Curve],
    path: str | Path,
    *,
    title: str = "",
    y_label: str = "accuracy",
    log_x: bool | None = None,
) -> None:
    """Write curves over one x axis as a figure; the suffix of `path` names the format (.png, .svg, .pdf).

    The shaded bands are the confidence intervals; `log_x=None` chooses by the range of x. Raises `CurveError` for no
    curves or different x axes, `MissingExtra` without the extra `plot`.
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
    with drawing("curves") as figures:
        from matplotlib.ticker import PercentFormatter

        if len({curve.x_label for curve in curves}) != 1:
            raise CurveError("a figure needs at least one curve, and all of them over the same x axis")
        longest = max(len(curve.label) for curve in curves) if len(curves) > 1 else 0  # they stand beside the axes
        figure = figures(figsize=(max(5.2, 3.9 + 0.065 * longest), 3.4), layout="constrained")
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
