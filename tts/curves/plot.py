"""Curves as figures and as files of points. Figures use matplotlib's objects alone: no window, no global figure."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tts.curves.curve import Curve
from tts.curves.estimators import CurveError
from tts.errors import ConfigError, MissingExtra
from tts.files import write_atomically
from tts.text import broken

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette for all kinds of colour vision, without its yellow, too pale for a line on white; then Tol's.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#882255", "#999933", "#332288",
)  # fmt: skip
MARKERS = "osD^vPX"
GREY = "#666666"
COVERAGE = " coverage"
"""What the label of a curve of coverage ends in."""
Style = Literal["screen", "paper"]
Intervals = Literal["bands", "bars", "none"]
Looks = dict[str, tuple[str, str, str]]
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
PAPER: Any = {"font.size": 7.5, "axes.titlesize": 8, "pdf.fonttype": 42, "axes.linewidth": 0.6, "lines.linewidth": 1.2}
"""What differs in a paper: panels as wide as a column, and fonts that are embedded in PDFs."""
COLUMN_INCHES = 3.3
"""Width of a column of a paper; two panels take the width of a page."""
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
def drawing(what: str, style: Style = "screen") -> Iterator[type[Figure]]:
    """Matplotlib's class of figures, in the style of the library. Raises `MissingExtra` without the extra `plot`."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("plot", f"drawing {what}") from error
    with matplotlib.rc_context(STYLE | (PAPER if style == "paper" else {})):
        yield Figure


def plot_curves(
    curves: Sequence[Curve] | Mapping[str, Sequence[Curve]],
    path: str | Path,
    *,
    title: str = "",
    y_label: str = "accuracy",
    log_x: bool | None = None,
    style: Style = "screen",
    intervals: Intervals | None = None,
) -> None:
    """Write curves over one x axis as a figure; the suffix of `path` names the format (.png, .svg, .pdf).

    Curves in a mapping have a panel for each of its titles, such as the tasks that they are of. A coverage is dashed in
    its strategy's colour, and left out where it lies on another curve. Names stand at the curves' ends where they fit,
    else below. `log_x=None` chooses by the range of x; `style="paper"` is as wide as a column. Confidence intervals are
    `intervals`, by default bands of few curves and bars of many. Raises `CurveError` for no curves or different x axes,
    `MissingExtra` without the extra `plot`.
    """
    figure = draw_curves(curves, title=title, y_label=y_label, log_x=log_x, style=style, intervals=intervals)
    save_figure(figure, path)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, the same bytes for the same content. Raises `CurveError` for an unknown format."""
    suffix = Path(path).suffix.lower()
    if suffix not in {".png", ".svg", ".pdf"}:
        raise CurveError(f"cannot tell the figure's format from '{path}': end the name in .png, .svg or .pdf")
    import matplotlib

    options = STYLE | {"pdf.fonttype": 42}
    undated = {"CreationDate" if suffix == ".pdf" else "Date": None} if suffix != ".png" else None
    drawn = BytesIO()  # not the file itself: writers of PDFs do not survive a disk that is full
    with matplotlib.rc_context(options):
        figure.savefig(drawn, format=suffix[1:], dpi=200, metadata=undated)
    write_atomically(Path(path), drawn.getvalue())


def draw_curves(
    curves: Sequence[Curve] | Mapping[str, Sequence[Curve]],
    *,
    title: str = "",
    y_label: str = "accuracy",
    log_x: bool | None = None,
    style: Style = "screen",
    intervals: Intervals | None = None,
) -> Figure:
    """The figure of `plot_curves`, to be changed before it is saved."""
    given = curves if isinstance(curves, Mapping) else {title: curves}
    panels = {name: _distinct(some) for name, some in given.items()}
    every = [curve for some in panels.values() for curve in some]
    if len({curve.x_label for curve in every}) != 1 or not all(panels.values()):
        raise CurveError("a figure needs at least one curve, and all of them over the same x axis")
    looks = _looks(every)
    paper = style == "paper"
    width, height, size = (COLUMN_INCHES, 2.3, PAPER["font.size"]) if paper else (5.2, 3.4, STYLE["font.size"])
    letter = 0.6 * size / 72  # inches, of a wide one
    named = letter * max(len(curve.label) for curve in every) * (len(every) > 1)
    direct = named < (width / 3 if paper else 2.4) and all(map(_can_be_named, panels.values()))
    if direct and not paper:
        width = max(width, 3.9 + named)
    across = min(len(panels), 2)
    rows = -(-len(panels) // across)
    owners = list(dict.fromkeys(_owner(curve) for curve in every))
    ncols = max(1, min(len(owners), int(width * across / (HANDLE + letter * max(map(len, owners))))))
    names = [broken(owner, int((width * across / ncols - HANDLE) / letter)) for owner in owners]
    lines = 0 if direct else 2 + -(-sum(name.count("\n") + 1 for name in names) // ncols)
    with drawing("curves", style) as figures:
        figure = figures(figsize=(width * across, height * rows + lines * 1.4 * size / 72), layout="constrained")
        for place, (name, some) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(rows, across, place)
            _draw(axes, some, looks, log_x, intervals or ("bands" if len(some) <= MOST_BANDS else "bars"))
            axes.set_xlabel(_per_problem(some[0]))
            axes.set_ylabel(y_label)
            if name:
                axes.set_title(name, loc="left", fontweight="bold")
            if direct and len(some) > 1:
                _name_lines(axes, some, looks)
        if title and isinstance(curves, Mapping):
            figure.suptitle(title, fontweight="bold")
        if not direct:
            _legend(figure, owners, names, ncols)
    return figure


MOST_NAMED = 6
"""Curves of a panel that are named at their ends; more are named below."""
MOST_BANDS = 4
"""Curves of a panel whose intervals are bands unless something else is asked for; more are bars."""
BESIDE = 0.8
"""Points between the bars of two curves at the same compute, which would hide each other."""
HANDLE = 0.5
"""Inches of a line beside its name below the panels."""


def _owner(curve: Curve) -> str:
    """The strategy that a curve is of."""
    return curve.label.removesuffix(COVERAGE)


def _can_be_named(curves: Sequence[Curve]) -> bool:
    """Whether the names of a panel's curves have room at their ends: inside the axes only short ones have."""
    half = max(float(curve.x[-1]) for curve in curves) / 2
    return len(curves) <= MOST_NAMED and all(len(curve.label) <= 16 or curve.x[-1] > half for curve in curves)


def _distinct(curves: Sequence[Curve]) -> list[Curve]:
    """`curves` without those of coverage that lie on another one, such as that of a strategy with the same samples."""
    kept: list[Curve] = []
    for curve in sorted(curves, key=lambda one: one.label.endswith(COVERAGE)):
        twins = (one for one in kept if np.array_equal(one.x, curve.x) and np.allclose(one.y, curve.y))
        if not curve.label.endswith(COVERAGE) or next(twins, None) is None:
            kept.append(curve)
    return [curve for curve in curves if any(curve is one for one in kept)]


def _looks(curves: Sequence[Curve]) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and dashes of each label: a coverage is its strategy's colour, dashed."""
    owners = list(dict.fromkeys(map(_owner, curves)))
    return {
        curve.label: (
            COLOURS[i % len(COLOURS)],
            MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
            "--" if curve.label.endswith(COVERAGE) else "-",
        )
        for curve in curves
        for i in [owners.index(_owner(curve))]
    }


def _draw(axes: Axes, curves: Sequence[Curve], looks: Looks, log_x: bool | None, intervals: Intervals) -> None:
    from matplotlib.ticker import PercentFormatter
    from matplotlib.transforms import ScaledTranslation

    for i, curve in enumerate(curves):
        colour, marker, dashes = looks[curve.label]
        best = np.append(np.diff(curve.x) > 0, True)  # of several points at the same compute, what it comes to
        x, y, low, high = (values[best] for values in (curve.x, curve.y, curve.low, curve.high))
        if intervals == "bands" and len(x) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        elif intervals != "none":
            aside = ScaledTranslation(BESIDE * (i - (len(curves) - 1) / 2) / 72, 0, axes.figure.dpi_scale_trans)
            axes.vlines(x, low, high, color=colour, alpha=0.5, linewidth=1, transform=axes.transData + aside)
        axes.plot(x, y, color=colour, marker=marker, markersize=3.5, linestyle=dashes, label=curve.label)
    _scale_x(axes, curves, log_x)
    _scale_y(axes, curves, intervals)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _per_problem(curve: Curve) -> str:
    """The label of the x axis; a unit that is the measure's own name takes its place."""
    if curve.x_unit.lower() == curve.x_name:
        return f"{curve.x_unit} per problem"
    return f"{curve.x_name} per problem" + (f" ({curve.x_unit})" if curve.x_unit else "")


def _scale_x(axes: Axes, curves: Sequence[Curve], log_x: bool | None) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    low = min(float(curve.x[0]) for curve in curves)
    high = max(float(curve.x[-1]) for curve in curves)
    if log_x is None:
        log_x = low > 0 and high >= 8 * low
    if log_x and low <= 0:
        raise CurveError("a logarithmic x axis needs positive compute: leave out the points at 0, or use log_x=False")
    if log_x:
        counts = curves[0].x_name == "samples"  # they double; tokens, FLOPs and money read better in 1, 2, 5
        few_decades = high < 100 * low
        axes.set_xscale("log", base=2 if counts else 10)
        doubled = [2.0**i for i in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)]
        stride = max(1, -(-len(doubled) // 8))
        places = (
            FixedLocator(doubled[::stride])
            if counts
            else LogLocator(10, (1, 2, 5) if few_decades else (1,), numticks=12)
        )
        axes.xaxis.set_major_locator(places)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def _scale_y(axes: Axes, curves: Sequence[Curve], intervals: Intervals) -> None:
    shown = intervals != "none"
    low = min(float((curve.low if shown else curve.y).min()) for curve in curves)
    high = max(float((curve.high if shown else curve.y).max()) for curve in curves)
    margin = max(0.05 * (high - low), 0.01)
    floor, ceiling = low - margin, high + margin
    axes.set_ylim(max(floor, -0.02) if low >= 0 else floor, min(ceiling, 1.02) if high <= 1 else ceiling)


def _name_lines(axes: Axes, curves: Sequence[Curve], looks: Looks) -> None:
    """Each line's name beside the axes, moved apart where they would overlap; that of one that ends early, there."""
    bottom, top = axes.get_ylim()
    right = max(float(curve.x[-1]) for curve in curves)

    def across(x: float) -> float:
        """Where a compute lies on the axis, from 0 to 1."""
        return float(axes.transAxes.inverted().transform(axes.transData.transform((x, bottom)))[0])

    early = [curve for curve in curves if across(float(curve.x[-1])) < across(right) - 0.25]
    whole = sorted((curve for curve in curves if curve not in early), key=lambda curve: float(curve.y[-1]))
    spots = spread([float(curve.y[-1]) for curve in whole], 0.07 * (top - bottom))
    places = [(curve, right, spot, (8, 0)) for curve, spot in zip(whole, spots, strict=True)]
    places += [(curve, float(curve.x[-1]), float(curve.y[-1]), (5, 6)) for curve in early]
    for curve, x, y, offset in places:
        axes.annotate(
            curve.label,
            (x, y),
            xytext=offset,
            textcoords="offset points",
            va="center",
            color=looks[curve.label][0],
            annotation_clip=False,
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
        )


def _legend(figure: Figure, owners: Sequence[str], names: Sequence[str], ncols: int) -> None:
    """The `names` of all strategies below the panels, and that dashes are their coverage."""
    drawn = [(str(line.get_label()), line) for axes in figure.axes for line in axes.lines]
    lines = {label.removesuffix(COVERAGE): line for label, line in drawn}
    lines |= {label: line for label, line in drawn if label in owners}
    title = "dashed: coverage" if any(label.endswith(COVERAGE) for label, _ in drawn) else None
    handles = [lines[owner] for owner in owners]
    figure.legend(
        handles, names, title=title, frameon=False, loc="outside lower center", ncols=ncols, labelspacing=0.25
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
    """A tick label of at most a few characters: 64, 1,024, 1.5M, 3e15."""
    size = abs(value)
    if 1000 <= size < 1e6:
        return f"{value:,.0f}"
    if not 1e-3 <= size < 1e12:
        return f"{value:.3g}".replace("e+", "e").replace("e-0", "e-")
    power = 0 if size < 1e6 else min(3, int(math.log10(size) // 3))
    return f"{value / 1000**power:.3g}{('', 'k', 'M', 'B')[power]}"
