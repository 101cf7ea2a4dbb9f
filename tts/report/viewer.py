"""The server behind `tts view`: a folder of runs, and reports on any of them that follow while runs go on."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from tts.errors import ConfigError, TTSError
from tts.report.details import Details
from tts.report.overview import overview, progress
from tts.report.page import as_json, page
from tts.report.tracks import RunComparison
from tts.runs import Run
from tts.runs.record import runs_below

T = TypeVar("T")

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
LOCAL = ["127.0.0.1", "localhost", "[::1]"]
KEPT = 4
"""Reports in memory at a time."""
REST = 4.0
"""A report that took t seconds is made again after this many times t at the earliest."""


def view_app(path: Path, hosts: list[str] | None = None) -> Starlette:
    """The ASGI app over the runs below `path`, for requests to one of `hosts` (default: this machine's own names).

    Other names are refused, so that no other site reads runs by pointing its name at this machine. Raises `ConfigError`
    when `path` is not a folder.
    """
    folder = Folder(path)
    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tts-view")

    async def read(function: Callable[..., T], *words: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(reader, partial(function, *words))

    async def index(request: Request) -> Response:
        return HTMLResponse(page("Runs", template="folder.html", scripts=("folder.js",), live=True), headers=HEADERS)

    async def report(request: Request) -> Response:
        return HTMLResponse(page(" and ".join(_names(request)), live=True), headers=HEADERS)

    async def runs(request: Request) -> Response:
        return _json(await read(folder.listing))

    async def report_data(request: Request) -> Response:
        found = await read(folder.report, _names(request))
        if found.version == request.query_params.get("since"):
            return Response(status_code=204)
        return _json({"version": found.version, "overview": found.overview})

    async def problem(request: Request) -> Response:
        place = request.query_params.get("place", "")
        if not place.isdecimal():
            raise ConfigError("`place` must be the position of a problem")
        name = request.query_params.get("name", "")
        return _json(await read(folder.problem, _names(request), int(place), name))

    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 404 if isinstance(error, ConfigError) else 500)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/report", report),
            Route("/api/runs", runs),
            Route("/api/overview", report_data),
            Route("/api/problem", problem),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts or LOCAL)],
        exception_handlers={TTSError: failed},
    )


def _names(request: Request) -> tuple[str, ...]:
    return tuple(request.query_params.getlist("run"))


def _json(data: object) -> Response:
    return Response(as_json(data), media_type="application/json", headers=HEADERS)


# -- the folder -------------------------------------------------------------------------------------------------------


@dataclass
class LiveReport:
    """A report on some runs at one moment."""

    version: str
    comparison: RunComparison
    overview: dict[str, Any]
    details: Details
    seconds: float
    made: float = field(default_factory=monotonic)

    @property
    def fresh(self) -> bool:
        """Whether it is too recent to be made again."""
        return monotonic() - self.made < REST * self.seconds


class Folder:
    """Reads the runs below `path`, which may itself be a run. For one thread only: a run keeps a connection open.

    Raises `ConfigError` when there is no such folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder; tts view takes a folder of runs, or a run")
        self._path = path
        self._reports: OrderedDict[tuple[str, ...], LiveReport] = OrderedDict()

    @property
    def names(self) -> dict[str, Path]:
        """The directories of all runs by their path below the folder, the most recent first."""
        found = sorted(runs_below(self._path), key=_touched, reverse=True)
        return {
            str(path.relative_to(self._path)) if path != self._path else path.resolve().name: path for path in found
        }

    def listing(self) -> list[dict[str, Any]]:
        """A row for each run: its progress, and how often the selected answer is right."""
        return [_row(name, path) for name, path in self.names.items()]

    def report(self, names: tuple[str, ...]) -> LiveReport:
        """The report on the named runs. Raises `ConfigError` for one that does not exist or has no results."""
        known = self.names
        if missing := [name for name in names if name not in known]:
            raise ConfigError(f"there is no run '{missing[0]}' in {self._path}")
        runs = [Run(known[name], checked=False) for name in dict.fromkeys(names)]
        held, version = self._reports.get(names), " ".join(map(_version, runs))
        if held and (held.version == version or held.fresh):
            self._reports.move_to_end(names)
            return held
        start, comparison = monotonic(), RunComparison([Run(run.path) for run in runs])
        made = overview(comparison)
        report = LiveReport(version, comparison, made, Details(comparison), monotonic() - start)
        self._reports[names] = report
        while len(self._reports) > KEPT:
            self._reports.popitem(last=False)
        return report

    def problem(self, names: tuple[str, ...], place: int, name: str) -> dict[str, Any]:
        """The details of the problem at `place`. Raises `ConfigError` when another one is there by now."""
        report = self.report(names)
        problems = report.comparison.problems
        if not 0 <= place < len(problems) or problems[place][0] != name:
            raise ConfigError(f"the run has changed and '{name}' is not where it was; load the page again")
        return report.details.of(problems[place])


def _version(run: Run) -> str:
    """Changes when the run has a new cell, or one was made again."""
    last, cells = run.db.execute("SELECT COALESCE(MAX(id), 0), COUNT(*) FROM cells").fetchone()
    return f"{run.path}:{last}:{cells}:{(run.path / 'run.json').stat().st_mtime_ns}"


def _touched(path: Path) -> float:
    files = [path / name for name in ("run.json", "run.sqlite", "run.sqlite-wal")]
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


STALLED = 300.0
"""Seconds without anything stored after which a run that goes on is said to be stalled."""


def _state(path: Path, far: dict[str, int]) -> str:
    """finished, running, stalled (it runs and nothing has come for long) or stopped (it does not run)."""
    if far["done"] >= far["expected"]:
        return "finished"
    try:
        os.kill(int((path / "lock").read_text()), 0)
    except (OSError, ValueError):
        return "stopped"
    return "stalled" if time() - _touched(path) > STALLED else "running"


def _settings(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The settings of a run by their dotted names, for comparison with those of others."""
    found = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _settings(value, f"{prefix}{key}.")
        elif value not in (None, [], ()) and key != "strategies":
            found[f"{prefix}{key}"] = str(value)
    return found


def _row(name: str, path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "touched": _touched(path)}
    try:
        run = Run(path, checked=False)
    except TTSError as error:
        return {**row, "error": str(error)}
    config, far = run.record["config"], progress(run)
    query = """SELECT strategy, model, MAX(oracle), COUNT(DISTINCT problem), AVG(COALESCE(correct, 0)) FROM cells
               LEFT JOIN candidates ON candidates.cell = cells.id AND candidates.position = cells.selected
               GROUP BY strategy, model ORDER BY MIN(cells.id)"""
    columns = ("strategy", "model", "oracle", "problems", "accuracy")
    return {
        **row,
        "task": config["task"]["name"] if isinstance(config["task"], dict) else str(config["task"]),
        "started": run.record.get("started"),
        "progress": far,
        "state": _state(path, far),
        "settings": _settings(config),
        "tracks": [dict(zip(columns, found, strict=True)) for found in run.db.execute(query)],
    }
