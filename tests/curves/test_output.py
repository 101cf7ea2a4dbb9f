from __future__ import annotations

import csv
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Annotation, Text

from tts.curves import Curve, CurveError, draw_curves, pass_at_k, plot_curves, write_csv, write_parquet
from tts.curves.plot import COLUMNS, curve_rows, short_number, spread
from tts.errors import MissingExtra


@pytest.fixture
def curves() -> list[Curve]:
    rng = np.random.default_rng(0)
    ks = [1, 2, 4, 8, 16, 32]
    return [
        Curve.from_values(label, "pass@k", ks, pass_at_k(32, rng.binomial(32, rng.beta(a, 2, 60)), ks))
        for label, a in (("small, 1B", 0.3), ("large <70B>", 1.0))
    ]


def test_csv_and_parquet_hold_every_point_in_full_precision(curves, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_csv(curves, tmp_path / "curves.csv")
    write_parquet(curves, tmp_path / "curves.parquet")
    rows = curve_rows(curves)
    assert len(rows) == 12
    assert rows[7]["accuracy"] == curves[1].y[1]
    with (tmp_path / "curves.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == COLUMNS
    assert [(row["label"], int(row["k"]), float(row["high"])) for row in read] == [
        (row["label"], row["k"], row["high"]) for row in rows
    ]
    assert parquet.read_table(tmp_path / "curves.parquet").to_pylist() == rows


def test_parquet_of_no_curves_has_the_same_columns(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_parquet([], tmp_path / "none.parquet")
    assert tuple(parquet.read_table(tmp_path / "none.parquet").column_names) == COLUMNS


def test_the_figure_shows_every_curve_with_its_interval(curves):
    pytest.importorskip("matplotlib")
    axes = draw_curves(curves, title="Coverage").axes[0]
    for line, curve in zip(axes.lines, curves, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([curve.x, curve.y]))
    for band, curve in zip(axes.collections, curves, strict=True):
        corners = {tuple(point) for point in np.asarray(band.get_paths()[0].vertices)}
        assert corners >= set(zip(curve.x, curve.low, strict=True)) | set(zip(curve.x, curve.high, strict=True))
    assert [text.get_text() for text in axes.texts] == [curve.label for curve in sorted(curves, key=lambda c: c.y[-1])]
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "samples per problem"


def test_figures_are_written_as_png_svg_and_pdf_and_svg_is_reproducible(curves, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.png", "a.svg", "b.svg", "a.pdf"):
        plot_curves(curves, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    words = "".join(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
    assert "large <70B>" in words


def looks(figure) -> dict[str, tuple[str, str]]:
    return {line.get_label(): (line.get_color(), line.get_linestyle()) for axes in figure.axes for line in axes.lines}


def test_a_coverage_that_lies_on_another_curve_is_not_drawn(curves):
    pytest.importorskip("matplotlib")
    same = [replace(curves[0], label=label) for label in ("vote", "vote coverage", "best coverage")]
    higher = replace(curves[0], label="best", y=curves[0].y * 0.9)
    assert set(looks(draw_curves([*same, higher]))) == {"vote", "best"}


@pytest.mark.parametrize("style", ["screen", "paper"])
def test_long_names_stay_within_the_figure(curves, style):
    pytest.importorskip("matplotlib")
    name = "self_consistency:n=10,weighted=true,verifier=unit_tests(stop_at_failure=true),answer=behaviour(mutants=40)"
    figure = draw_curves([replace(curves[0], label=f"{name} {i}") for i in range(9)], style=style)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    within = legend.get_window_extent()
    assert within.x0 >= 0
    assert within.x1 <= figure.bbox.width
    assert [text.get_text().replace("\n", "") for text in legend.get_texts()] == [f"{name} {i}" for i in range(9)]
    assert figure.axes[0].get_window_extent().height > 1.5 * figure.dpi


def test_intervals_are_bands_of_few_curves_and_bars_of_many_unless_asked_for(curves):
    pytest.importorskip("matplotlib")

    def kinds(count: int, **options: Any) -> set[str]:
        many = [replace(curves[0], label=f"s{i}") for i in range(count)]
        return {type(drawn).__name__ for drawn in draw_curves(many, **options).axes[0].collections}

    assert kinds(8) == kinds(2, intervals="bars") == {"LineCollection"}
    assert kinds(2) == kinds(8, intervals="bands") != {"LineCollection"}
    assert kinds(2, intervals="none") == set()


@pytest.mark.parametrize("style", ["screen", "paper"])
def test_ten_strategies_are_told_apart_by_colour_and_their_bars_stand_side_by_side(curves, style):
    axes: Any = draw_curves([replace(curves[0], label=f"one {i}") for i in range(10)], style=style).axes[0]
    assert len({line.get_color() for line in axes.lines}) == 10
    bars = [drawn.get_transform().transform(drawn.get_segments()[0])[0, 0] for drawn in axes.collections]
    assert all(after - before > 0.5 for before, after in pairwise(bars))
    assert np.mean(bars) == pytest.approx(axes.transData.transform((curves[0].x[0], 0))[0])


def test_of_several_points_at_the_same_compute_the_last_is_drawn(curves):
    x = np.array([8.0, 8.0, 8.0, 16.0, 32.0, 32.0])
    (line,) = draw_curves([replace(curves[0], x=x, x_name="tokens")]).axes[0].lines
    assert np.array_equal(line.get_xdata(), [8, 16, 32])
    assert np.array_equal(line.get_ydata(), curves[0].y[[2, 3, 5]])


@pytest.mark.parametrize("count", [2, 12])
def test_a_coverage_has_its_strategys_colour_dashed_and_nothing_else_is_dashed(curves, count):
    pytest.importorskip("matplotlib")
    ends = (("", 0.8), (" coverage", 1.0))
    many = [
        replace(curves[0], label=f"s{i}{end}", y=curves[0].y * (y - i / 100)) for i in range(count) for end, y in ends
    ]
    found = looks(draw_curves(many))
    for i in range(count):
        assert found[f"s{i}"][0] == found[f"s{i} coverage"][0]
        assert (found[f"s{i}"][1], found[f"s{i} coverage"][1]) == ("-", "--")


@pytest.mark.parametrize("style", ["screen", "paper"])
def test_each_task_has_a_panel_with_fonts_that_can_be_read_and_names_off_the_axes(curves, style):
    pytest.importorskip("matplotlib")
    many = [replace(curves[0], label=f"best_of_n:n=64,verifier=number_{i}") for i in range(8)]
    figure = draw_curves({"one": curves, "two": many}, style=style)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
    figure.draw_without_rendering()
    assert min(float(text.get_fontsize()) for text in figure.findobj(Text) if text.get_text()) >= 7
    if style == "paper":
        assert figure.get_figwidth() == pytest.approx(6.6)
        assert draw_curves(curves, style=style).get_figwidth() == pytest.approx(3.3)
    for axes in figure.axes:  # the legend leaves the panels their room
        assert axes.get_window_extent().height > 0.25 * figure.bbox.height


def test_a_curve_that_ends_early_is_named_at_its_end(curves):
    pytest.importorskip("matplotlib")
    point = Curve.from_values("single", "replay", [1], np.ones((20, 1)) * 0.4)
    (text,) = [text for text in draw_curves([*curves, point]).axes[0].texts if text.get_text() == "single"]
    assert isinstance(text, Annotation)
    assert text.xy == (1, pytest.approx(0.4))


def test_ticks_are_powers_of_two_for_samples_and_plain_numbers_elsewhere(curves):
    pytest.importorskip("matplotlib")
    figure = draw_curves(curves)
    figure.draw_without_rendering()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "2", "4", "8", "16", "32"]
    tokens = [replace(curve, x=curve.x * 100.0, x_name="completion tokens") for curve in curves]
    figure = draw_curves(tokens)
    figure.draw_without_rendering()
    assert {"100", "200", "500", "1,000", "2,000"} <= {label.get_text() for label in figure.axes[0].get_xticklabels()}


def test_a_figure_that_would_mislead_or_has_no_format_is_refused(curves, tmp_path):
    pytest.importorskip("matplotlib")
    other = Curve.from_values("tokens", "pass@k", [1], np.zeros((2, 1)), x=[9], x_name="compute", x_unit="tokens")
    for wrong in ([], [curves[0], other]):
        with pytest.raises(CurveError, match="same x axis"):
            draw_curves(wrong)
    with pytest.raises(CurveError, match=r"\.png, \.svg or \.pdf"):
        plot_curves(curves, tmp_path / "curves.xyz")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8).map(sorted), st.floats(0.001, 0.3))
def test_labels_are_moved_apart_around_where_they_belong(places, distance):
    moved = spread(places, distance)
    assert all(b - a >= distance - 1e-9 for a, b in pairwise(moved))
    assert np.mean(moved) == pytest.approx(np.mean(places))
    if all(b - a >= distance for a, b in pairwise(places)):
        assert moved == pytest.approx(places)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (64, "64"),
        (1024, "1,024"),
        (250_000, "250,000"),
        (1.5e6, "1.5M"),
        (2e6, "2M"),
        (3e15, "3e15"),
        (2e-6, "2e-6"),
        (0.002, "0.002"),
        (0, "0"),
    ],
)
def test_tick_labels_are_short(value, text):
    assert short_number(value) == text


def test_missing_extras_are_named_with_the_command_that_installs_them(curves, tmp_path, monkeypatch):
    for module in ("matplotlib", "pyarrow"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"pip install 'ttscale\[plot\]'"):
        plot_curves(curves, tmp_path / "curves.png")
    with pytest.raises(MissingExtra, match=r"pip install 'ttscale\[data\]'"):
        write_parquet(curves, tmp_path / "curves.parquet")


def test_importing_the_curves_needs_numpy_only():
    heavy = ["matplotlib", "pyarrow", "scipy", "pandas"]
    code = f"import sys, tts.curves; print([module for module in {heavy} if module in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
