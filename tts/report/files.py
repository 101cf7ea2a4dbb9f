"""A report as a file; the end of its name says in which format."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

from tts.curves import plot_curves, write_csv, write_parquet, writing
from tts.errors import ConfigError
from tts.report.markdown import markdown
from tts.report.page import write_page
from tts.report.tracks import Comparison

FORMATS = ("html", "md", "csv", "parquet", "png", "svg", "pdf")


def write_report(comparison: Comparison, path: Path, x: str) -> None:
    """Write what the suffix of `path` asks for: the page, the tables as Markdown, the curves' points, their figure.

    Curves are over the measure `x`. Raises `ConfigError` for another suffix, a place that cannot be written, or
    where there is nothing to write.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise ConfigError(f"cannot tell the format of {path}: end the name in one of .{', .'.join(FORMATS)}")
    with writing(path):
        if kind == "html":
            write_page(comparison, path)
        elif kind == "md":
            path.write_text(markdown(comparison, x), encoding="utf-8")
        else:
            curves, missing = comparison.curves(x)
            if not curves:
                raise ConfigError(f"no curve for {path}: {'; '.join(missing) or 'nothing is graded yet'}")
            write: Callable[..., None] = {"csv": write_csv, "parquet": write_parquet}.get(kind, plot_curves)
            write(curves, path)


def write_candidates(comparison: Comparison, path: Path) -> None:
    """Every candidate of the runs with its cost, one row each, as .csv or .jsonl. Raises as `write_report` does."""
    rows = (
        {**({"run": label} if label else {}), **row} for label, run in comparison.runs.items() for row in run.export()
    )
    if path.suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"cannot tell the format of {path}: end the name in .csv or .jsonl")
    with writing(path), path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        elif first := next(rows, None):
            writer = csv.DictWriter(file, list(first))
            writer.writeheader()
            writer.writerow(first)
            writer.writerows(rows)
