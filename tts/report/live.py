"""A folder of runs, some of them still going: what there is, and the report of any of them as of now."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tts.errors import ConfigError, TTSError
from tts.report.details import Details
from tts.report.overview import overview, progress
from tts.report.tracks import Comparison
from tts.runs import Run

KEPT = 4
"""Reports that are held at a time."""
REST = 4.0
"""A report of a run that goes on is made again after so many times the seconds that it took."""


@dataclass
class Report:
    """A report of some runs as of one moment."""

    version: str
    comparison: Comparison
    overview: dict[str, Any]
    details: Details
    seconds: float
    made: float = field(default_factory=monotonic)

    @property
    def fresh(self) -> bool:
        """Whether it is too soon to make it again."""
        return monotonic() - self.made < REST * self.seconds


class Folder:
    """Reads the runs below `path`, which may be a run itself. For one thread alone: a run keeps a connection open.

    Raises `ConfigError` when there is no such folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ConfigError(f"{path} is no folder; tts view takes a folder of runs, or a run")
        self._path = path
        self._reports: OrderedDict[tuple[str, ...], Report] = OrderedDict()

    @property
    def names(self) -> dict[str, Path]:
        """The directories of all runs by their path below the folder, the latest first."""
        found = [file.parent for depth in range(4) for file in self._path.glob("*/" * depth + "run.json")]
        found.sort(key=_touched, reverse=True)
        return {
            str(path.relative_to(self._path)) if path != self._path else path.resolve().name: path for path in found
        }

    def listing(self) -> list[dict[str, Any]]:
        """A row for each run: how far it is, and how often the selected answer is right."""
        return [_row(name, path) for name, path in self.names.items()]

    def report(self, names: tuple[str, ...]) -> Report:
        """The report of the runs of these names. Raises `ConfigError` for one that is not there or has no results."""
        known = self.names
        if missing := [name for name in names if name not in known]:
            raise ConfigError(f"there is no run '{missing[0]}' in {self._path}")
        runs = [Run(known[name]) for name in dict.fromkeys(names)]
        held, version = self._reports.get(names), " ".join(map(_version, runs))
        if held and (held.version == version or held.fresh):
            self._reports.move_to_end(names)
            return held
        begin, comparison = monotonic(), Comparison(runs)
        made = overview(comparison)
        report = Report(version, comparison, made, Details(comparison), monotonic() - begin)
        self._reports[names] = report
        while len(self._reports) > KEPT:
            self._reports.popitem(last=False)
        return report

    def problem(self, names: tuple[str, ...], place: int, name: str) -> dict[str, Any]:
        """The details of the problem at `place`. Raises `ConfigError` when another stands there by now."""
        report = self.report(names)
        problems = report.comparison.problems
        if not 0 <= place < len(problems) or problems[place][0] != name:
            raise ConfigError(f"the run has changed and '{name}' is not where it was; load the page again")
        return report.details.of(problems[place])


def _version(run: Run) -> str:
    """Changes when the run has a new cell, or a cell was done again."""
    last, cells = run.db.execute("SELECT COALESCE(MAX(id), 0), COUNT(*) FROM cells").fetchone()
    return f"{run.path}:{last}:{cells}:{(run.path / 'run.json').stat().st_mtime_ns}"


def _touched(path: Path) -> float:
    files = [path / name for name in ("run.json", "run.sqlite", "run.sqlite-wal")]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def _row(name: str, path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "touched": _touched(path)}
    try:
        run = Run(path)
    except TTSError as error:
        return {**row, "error": str(error)}
    config = run.record["config"]
    query = """SELECT strategy, model, MAX(oracle), COUNT(*), AVG(COALESCE(correct, 0)) FROM cells
               LEFT JOIN candidates ON candidates.cell = cells.id AND candidates.position = cells.selected
               GROUP BY strategy, model ORDER BY MIN(cells.id)"""
    columns = ("strategy", "model", "oracle", "cells", "accuracy")
    return {
        **row,
        "task": config["task"]["name"] if isinstance(config["task"], dict) else str(config["task"]),
        "started": run.record.get("started"),
        "progress": progress(run),
        "tracks": [dict(zip(columns, found, strict=True)) for found in run.db.execute(query)],
    }
