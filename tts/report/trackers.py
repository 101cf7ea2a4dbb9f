"""Runs in trackers of experiments: what they are given, and how each takes it.

All get the configuration, a metric for each number of the summary, the curves as series over compute, and the page as a
file. Where that goes is for the tracker's own settings; W&B stays offline unless `WANDB_MODE` says otherwise.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from tts.curves import curve_rows
from tts.errors import ConfigError, MissingExtra
from tts.report import RunComparison, write_report
from tts.runs import Run

Tracker = Literal["mlflow", "tensorboard", "wandb"]


def track(run: Run, tracker: Tracker) -> str:
    """Give `run` to a tracker; returns where it went. Raises `MissingExtra` where that is not installed."""
    if tracker not in get_args(Tracker):
        raise ConfigError(f"no tracker '{tracker}'; there are: {', '.join(get_args(Tracker))}")
    curves = curve_rows(run.curves()) if any(track.correct for track in run.tracks) else []
    give = {"mlflow": _mlflow, "tensorboard": _tensorboard, "wandb": _wandb}[tracker]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report(RunComparison([run]), page, "completion_tokens")
        try:
            return give(run, curves, page)
        except ImportError as error:
            raise MissingExtra("trackers", f"{tracker} ({error})") from error


def _metrics(run: Run) -> dict[str, float]:
    """The numbers of the summary, by strategy, model and name."""
    rows = ((_tag(f"{row['strategy']} {row['model']}"), row) for row in run.summary())
    return {
        f"{label}/{name}": float(value)
        for label, row in rows
        for name, value in row.items()
        if isinstance(value, int | float) and value == value
    }


def _series(curves: list[dict[str, Any]]) -> Iterator[tuple[str, int, float]]:
    """Tag, compute and accuracy of each point, in order."""
    for row in curves:
        yield f"curves/{_tag(row['label'])} {_tag(row['estimator'])}", round(row["x"]), row["accuracy"]


def _tag(label: str) -> str:
    """A label as all trackers take it."""
    return re.sub(r"[^\w.\- ]+", "_", label).strip("_ ")


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _mlflow(run: Run, curves: list[dict[str, Any]], page: Path) -> str:
    import mlflow

    with mlflow.start_run(run_name=run.path.name) as active:
        mlflow.log_params({_tag(key): str(value)[:500] for key, value in _flat(run.record["config"])})
        mlflow.log_metrics(_metrics(run))
        for tag, step, value in _series(curves):
            mlflow.log_metric(tag, value, step=step)
        mlflow.log_dict(run.record, "run.json")
        mlflow.log_dict({"curves": curves}, "curves.json")
        mlflow.log_artifact(str(page))
        return f"{mlflow.get_tracking_uri()}, run {active.info.run_id}"


def _tensorboard(run: Run, curves: list[dict[str, Any]], page: Path) -> str:
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.plugins.text.summary import text_pb
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    folder = run.path / "tensorboard"
    folder.mkdir(exist_ok=True)
    (folder / page.name).write_bytes(page.read_bytes())
    writer = EventFileWriter(str(folder))
    config = json.dumps(run.record["config"], indent=2, default=str)
    writer.add_event(Event(wall_time=time.time(), step=0, summary=text_pb("config", f"```\n{config}\n```")))
    for tag, step, value in [*((name, 0, value) for name, value in _metrics(run).items()), *_series(curves)]:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
    writer.close()
    return str(folder)


def _wandb(run: Run, curves: list[dict[str, Any]], page: Path) -> str:
    import wandb

    mode = None if os.environ.get("WANDB_MODE") else "offline"
    with wandb.init(
        project=os.environ.get("WANDB_PROJECT", "tts"), name=run.path.name, dir=run.path, config=run.record, mode=mode
    ) as active:
        columns: list[Any] = list(curves[0]) if curves else []
        table = wandb.Table(columns=columns, data=[list(row.values()) for row in curves])
        active.log({"curves": table})
        for tag in dict.fromkeys(tag for tag, _, _ in _series(curves)):
            active.define_metric(tag, step_metric="compute")
        for tag, step, value in _series(curves):
            active.log({tag: value, "compute": step})
        active.summary.update(_metrics(run))
        made = wandb.Artifact(_tag(run.path.name).replace(" ", "_") or "run", type="run")
        made.add_file(str(page))
        made.add_file(str(run.path / "run.json"))
        active.log_artifact(made)
        return str(Path(active.dir).parent)
