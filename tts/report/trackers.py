"""Runs in trackers of experiments: what they are given, and how each takes it.

All get the configuration, a metric for each number of the summary over the cells that are finished, the curves as a
table and a chart over compute, and the page as a file. Where that goes is for the tracker's own settings; W&B stays
offline unless `WANDB_MODE` says otherwise.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tts.curves import Curve, curve_rows
from tts.errors import ConfigError, MissingExtra, TTSError, log
from tts.report import RunComparison, write_page
from tts.runs import Run
from tts.tables import curve_table

INTERVAL = 30.0
"""Seconds from one look at a run that goes on to the next, at least."""
LEISURE = 20
"""How many times as long as a look takes the wait for the next one is, at least."""


def track(run: Run, tracker: str) -> str:
    """Give `run` to a tracker; returns where it went.

    Raises `ConfigError`, `MissingExtra` as `following`, and `TTSError` where the tracker fails.
    """
    check_tracker(tracker)
    with _findings(run) as found:
        try:
            with OPENED[tracker](run) as (place, give):
                give(found, True)
        except Exception as error:  # of whatever kind: its own settings, servers and libraries
            raise TTSError(f"{tracker} failed: {type(error).__name__}: {error}") from error
    return place


@asynccontextmanager
async def following(folder: Path, trackers: str | Sequence[str]) -> AsyncIterator[None]:
    """Within, the run in `folder` is given to `trackers` now and then, and at the end as it is then.

    They have a thread of their own. One that fails is warned of and left out from then on; the run goes on. Raises
    `ConfigError` for one that is unknown, `MissingExtra` for one that is not installed.
    """
    trackers = [trackers] if isinstance(trackers, str) else trackers
    loop, followers = asyncio.get_running_loop(), _Followers(folder)
    with ThreadPoolExecutor(1, "tts-trackers") as thread:  # one, as MLflow's runs belong to threads
        await loop.run_in_executor(thread, followers.begin, trackers)

        async def follow() -> None:
            pause = INTERVAL
            while True:
                await asyncio.sleep(pause)
                began = time.monotonic()
                await loop.run_in_executor(thread, followers.look)
                pause = max(INTERVAL, LEISURE * (time.monotonic() - began))

        task = asyncio.create_task(follow())
        try:
            yield
        finally:
            task.cancel()
            await loop.run_in_executor(thread, followers.end)


class _Followers:
    """The trackers of a run that goes on, each until it fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open = dict[str, tuple[Give, ExitStack]]()

    def begin(self, trackers: Sequence[str]) -> None:
        for tracker in trackers:
            check_tracker(tracker)
        run = Run(self._folder, checked=False)
        for tracker in trackers:
            with self._survived(tracker):
                _, give = (stack := ExitStack()).enter_context(OPENED[tracker](run))
                self._open[tracker] = give, stack

    def look(self, *, last: bool = False) -> None:
        if not self._open:
            return
        with self._survived(*self._open), _findings(Run(self._folder, checked=False)) as found:
            for tracker, (give, _) in tuple(self._open.items()):
                with self._survived(tracker):
                    give(found, last)

    def end(self) -> None:
        self.look(last=True)
        for tracker in tuple(self._open):
            with self._survived(tracker):
                self._open.pop(tracker)[1].close()

    @contextmanager
    def _survived(self, *trackers: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            words = "%s is told no more of this run, which goes on: %s: %s"
            log.warning(words, " and ".join(trackers), type(error).__name__, error)
            for stack in [self._open.pop(tracker)[1] for tracker in trackers if tracker in self._open]:
                with suppress(Exception):
                    stack.close()


# -- what each takes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Findings:
    """What there is to say of a run at one moment."""

    run: Run
    done: int
    """Finished cells."""
    metrics: dict[str, float]
    """The numbers of the summary, by strategy, model and name."""
    curves: list[Curve]
    page: Path


Give = Callable[[_Findings, bool], None]
"""Has a tracker take what was found, and whether that is the last."""


@contextmanager
def _findings(run: Run) -> Iterator[_Findings]:
    rows = ((_tag(f"{row['strategy']} {row['model']}"), row) for row in run.summary())
    metrics = {
        f"{label}/{name}": float(value)
        for label, row in rows
        for name, value in row.items()
        if isinstance(value, int | float) and value == value
    }
    comparison = RunComparison([run])
    curves, _ = comparison.curves(comparison.measure)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_page(comparison, page)
        yield _Findings(run, sum(len(track.rows) for track in run.tracks), metrics, curves, page)


@contextmanager
def _mlflow(run: Run) -> Iterator[tuple[str, Give]]:
    import mlflow

    with mlflow.start_run(run_name=run.path.name) as active:
        mlflow.log_params({_tag(key): str(value)[:500] for key, value in _flat(run.record["config"])})
        mlflow.log_dict(run.record, "run.json")

        def give(found: _Findings, last: bool) -> None:
            mlflow.log_metrics(found.metrics, step=found.done)
            mlflow.log_dict({"curves": curve_rows(found.curves)}, "curves.json")
            mlflow.log_artifact(str(found.page))
            for tag, step, value in _series(found.curves) if last else ():  # what is logged there once stays
                mlflow.log_metric(tag, value, step=step)

        yield f"{mlflow.get_tracking_uri()}, run {active.info.run_id}", give


@contextmanager
def _tensorboard(run: Run) -> Iterator[tuple[str, Give]]:
    from tensorboard.compat.proto.event_pb2 import (
        Event,  # pyright: ignore[reportAttributeAccessIssue]
        SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
    )
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.plugins.text.summary import text_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder = run.path / "tensorboard"
    with ExitStack() as stack:
        metrics, curves = (EventFileWriter(str(folder / name)) for name in ("", "curves"))
        for writer in (metrics, curves):
            stack.callback(writer.close)

        def add(writer: EventFileWriter, step: int, **what: Any) -> None:
            writer.add_event(Event(wall_time=time.time(), step=step, **what))

        def start(writer: EventFileWriter) -> None:
            """Have what is there already forgotten."""
            add(writer, 0, session_log=SessionLog(status=SessionLog.START))

        def scalar(tag: str, value: float) -> Summary:
            return Summary(value=[Summary.Value(tag=tag, simple_value=value)])

        def give(found: _Findings, last: bool) -> None:
            for name, value in found.metrics.items():
                add(metrics, found.done, summary=scalar(name, value))
            if found.curves:
                add(metrics, found.done, summary=text_pb("curves", curve_table(found.curves).markdown()))
            start(curves)
            for tag, step, value in _series(found.curves):
                add(curves, step, summary=scalar(tag, value))
            (folder / found.page.name).write_bytes(found.page.read_bytes())
            metrics.flush()
            curves.flush()

        start(metrics)
        config = json.dumps(run.record["config"], indent=2, default=str)
        add(metrics, 0, summary=text_pb("config", f"```\n{config}\n```"))
        yield str(folder), give


@contextmanager
def _wandb(run: Run) -> Iterator[tuple[str, Give]]:
    import wandb

    mode = None if os.environ.get("WANDB_MODE") else "offline"
    with wandb.init(
        project=os.environ.get("WANDB_PROJECT", "tts"), name=run.path.name, dir=run.path, config=run.record, mode=mode
    ) as active:
        active.define_metric("*", step_metric="finished cells")

        def give(found: _Findings, last: bool) -> None:
            active.log({"finished cells": found.done, **found.metrics, **_charted(found.curves)})
            if last:
                made = wandb.Artifact(_tag(run.path.name).replace(" ", "_") or "run", type="run")
                made.add_file(str(found.page))
                made.add_file(str(run.path / "run.json"))
                active.log_artifact(made)

        yield str(Path(active.dir).parent), give


OPENED: dict[str, Callable[[Run], AbstractContextManager[tuple[str, Give]]]] = {
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
"""Where a run goes in each tracker, which has its configuration by then, and what gives it the rest."""


def check_tracker(tracker: str) -> None:
    """Raise where `tracker` is unknown or not installed."""
    if tracker not in OPENED:
        raise ConfigError(f"no tracker '{tracker}'; there are: {', '.join(OPENED)}")
    try:
        import_module(tracker)
    except ImportError as error:
        raise MissingExtra("trackers", f"{tracker} ({error})") from error


def _charted(curves: Sequence[Curve]) -> dict[str, Any]:
    """Curves as W&B has tables and charts."""
    import wandb

    if not (rows := curve_rows(curves)):
        return {}
    xs, ys = [curve.x.tolist() for curve in curves], [curve.y.tolist() for curve in curves]
    names = [f"{curve.label} {curve.estimator}" for curve in curves]
    return {
        "curves": wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows]),
        "accuracy": wandb.plot.line_series(xs, ys, names, "Accuracy against compute", curves[0].x_label),
    }


def _series(curves: Sequence[Curve]) -> Iterator[tuple[str, int, float]]:
    """Tag, compute and accuracy of each point, in order."""
    for curve in curves:
        for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True):
            yield f"curves/{_tag(curve.label)} {_tag(curve.estimator)}", round(x), y


def _tag(label: str) -> str:
    """A label as all trackers take it."""
    return re.sub(r"[^\w.\- ]+", "_", label).strip("_ ")


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value
