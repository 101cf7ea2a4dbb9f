"""Reports on runs for people: one HTML page that opens from disk, the same page live, Markdown, figures, tables."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tts.curves import plot_curves, write_csv, write_parquet, writing
from tts.curves.plot import Intervals, Style, drawing
from tts.errors import ConfigError, MissingExtra
from tts.files import check_writable, write_atomically, written_whole
from tts.report.page import write_page
from tts.report.tracks import RunComparison
from tts.runs.analysis import By, summary
from tts.studies.imperfect_verifier import ImperfectVerifier
from tts.studies.verifiers import Verifiers
from tts.tables import FILTERED, Table, curve_table, in_code, in_words, summary_table
from tts.text import one_line

__all__ = ["RunComparison", "check_report", "write_candidates", "write_lines", "write_page", "write_report"]


FORMATS = ("html", "md", "csv", "parquet", "png", "svg", "pdf")
FIGURES = FORMATS[-3:]
CANDIDATE_FORMATS = ("csv", "jsonl")


def check_report(path: Path) -> str:
    """What kind of report `path` is to be, by its suffix.

    Raises before any work what `write_report` would after it: `ConfigError`, and `MissingExtra` where one is needed.
    """
    kind = check_writable(path, FORMATS)
    if kind == "parquet" and find_spec("pyarrow") is None:
        raise MissingExtra("data", "writing Parquet")
    if kind in FIGURES:
        with drawing("curves"):
            pass
    return kind


def write_report(
    comparison: RunComparison,
    path: Path,
    x: str,
    by: By | None = None,
    style: Style = "screen",
    intervals: Intervals | None = None,
) -> None:
    """Write the page, the tables as Markdown, the curves' points or their figure, as the suffix of `path` says.

    Curves are over the measure `x`, `by` as in `tts.runs.analysis.curves`; the page has all measures. `style` and
    `intervals` are those of `tts.curves.plot_curves`. Raises
    `ConfigError` for an unknown suffix, a path that cannot be written, or where there is nothing to write.
    """
    kind = check_report(path)
    with writing(path):
        if kind == "html":
            write_page(comparison, path)
        elif kind == "md":
            write_atomically(path, markdown(comparison, x, by))
        else:
            curves, missing = comparison.curves(x, by)
            if not curves:
                raise ConfigError(f"no curve for {path}: {'; '.join(missing) or 'nothing is graded yet'}")
            if kind in ("csv", "parquet"):
                with written_whole(path) as partial:
                    (write_csv if kind == "csv" else write_parquet)(curves, partial)
            else:
                plot_curves(comparison.panels(x, by)[0], path, style=style, intervals=intervals)


def write_candidates(comparison: RunComparison, path: Path) -> None:
    """Write every candidate of the runs with its cost as .csv or .jsonl. Raises as `write_report` does."""
    rows = (
        {**({"run": label} if label else {}), **row} for label, run in comparison.runs.items() for row in run.export()
    )
    if check_writable(path, CANDIDATE_FORMATS) == "jsonl":
        write_lines(rows, path)
        return
    with writing(path), written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        if first := next(rows, None):
            writer = csv.DictWriter(file, list(first))
            writer.writeheader()
            writer.writerow(first)
            writer.writerows(rows)


def write_lines(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write `rows` as JSON, one a line; returns how many. Raises `ConfigError` if that cannot be, and leaves what was
    there."""
    lines = 0
    with writing(path), written_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(one_line(json.dumps(row, ensure_ascii=False)) + "\n")
            lines += 1
    return lines


def markdown(comparison: RunComparison, x: str, by: By | None = None) -> str:
    """Summary, curves over the measure `x`, what verifiers are worth, and how the runs were made."""
    return "\n".join(_sections(comparison, x, by)) + "\n"


def _sections(comparison: RunComparison, x: str, by: By | None) -> Iterator[str]:
    yield f"# {in_words(' and '.join(run.path.resolve().name for run in comparison.runs.values()))}"
    yield "\n## Summary\n"
    yield summary_table({label: summary(run) for label, run in comparison.runs.items()}, details=True).markdown()
    yield from ("\n" + one.table().markdown() for one in comparison.contests if one.differences)
    curves, missing = comparison.curves(x, by)
    if curves:
        yield "\n## Curves\n"
        yield curve_table(curves).markdown()
    if comparison.filtered:
        yield "\n" + curve_table(comparison.filtered, FILTERED).markdown()
    yield from (f"\nNo curve of {in_words(words)}" for words in missing)
    for title, study in (("Verifiers", Verifiers()), ("Whether more samples pay", ImperfectVerifier())):
        shown = []
        for label, run in comparison.runs.items():
            try:
                shown += study.findings({label: run}).shown
            except ConfigError:  # no verifier, or none of the kind
                continue
        if shown:
            yield f"\n## {title}"
        for item in shown:
            yield "\n" + (item.markdown() if isinstance(item, Table) else _listed(str(item)))
    yield "\n## How it was made\n"
    for run in comparison.runs.values():
        record = run.record
        versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
        yield f"- {in_words(str(run.path))}: {in_code(shlex.join(record.get('command', ())))}"
        yield f"  ({versions}; seeds {', '.join(map(str, record['config'].get('seeds', ())))})"


def _listed(lines: str) -> str:
    return re.sub(r"(?m)^( *)(.*)", lambda line: f"{line[1]}- {in_words(line[2])}", lines)
