"""A run in trackers, with their own libraries, offline."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tts
from tts.cli import main
from tts.errors import ConfigError, MissingExtra
from tts.report import trackers
from tts.report.trackers import track
from tts.runs import Run

ANSWER = "Answer: 42"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    model = tts.MockModel(lambda body: ANSWER)
    grid = tts.Experiment(
        task="lab_math", strategies=["single", "best_of_n:n=4,verifier=oracle"], models=model, limit=2
    )
    return grid.run_sync(tmp_path / "run")


def test_mlflow_keeps_config_metrics_curves_and_the_page(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    assert "mlruns" in track(run, "mlflow")
    client = mlflow.MlflowClient()
    (kept,) = client.search_runs(["0"])
    assert kept.data.params["task.name"] == "lab_math"
    assert kept.data.metrics["single mock/accuracy"] == run.summary()[0]["accuracy"]
    tag = next(name for name in kept.data.metrics if name.startswith("curves/best_of_n"))
    points = client.get_metric_history(kept.info.run_id, tag)
    curve = next(curve for curve in run.curves() if curve.label.startswith("best_of_n"))
    assert [point.step for point in points] == [round(x) for x in curve.x]
    assert {file.path for file in client.list_artifacts(kept.info.run_id)} == {"run.json", "curves.json", "report.html"}


def read_by_tensorboard(folder: Path | str) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return accumulator.EventAccumulator(str(folder)).Reload()


def test_tensorboard_reads_the_curves(run: Run):
    folder = track(run, "tensorboard")
    read, curves = read_by_tensorboard(folder), read_by_tensorboard(Path(folder) / "curves")
    tags = read.Tags()
    assert any(tag.startswith("curves/best_of_n") for tag in curves.Tags()["scalars"])
    assert "curves/text_summary" in str(tags) or "curves" in str(tags["tensors"])
    assert read.Scalars("single mock/accuracy")[0].value == pytest.approx(run.summary()[0]["accuracy"])
    assert "config/text_summary" in str(tags) or "config" in str(tags["tensors"])


def test_wandb_is_offline_unless_told_otherwise(run: Run, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = Path(track(run, "wandb"))
    assert folder.name.startswith("offline-run")
    assert len(list(folder.glob("*.wandb"))) == 1  # a process of W&B's own is still writing it
    (table,) = folder.glob("files/media/table/curves_*.json")
    assert "best_of_n" in table.read_text()


@pytest.fixture
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trackers look at once, again and again, and keep what they are told below a folder."""
    monkeypatch.setattr(trackers, "INTERVAL", 0.0)
    monkeypatch.setattr(trackers, "LEISURE", 0)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return tmp_path


async def test_trackers_follow_a_run_that_goes_on(anywhere: Path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    mlflow.set_tracking_uri((anywhere / "mlruns").as_uri())
    events, count = anywhere / "run" / "tensorboard", 0

    async def answer(body: dict[str, Any]) -> str:
        nonlocal count
        count += 1
        while count > 2 and b"accuracy" not in b"".join(file.read_bytes() for file in events.glob("events*")):
            await asyncio.sleep(0.01)
        return ANSWER

    model = tts.MockModel(answer, max_concurrency=1)
    grid = tts.Experiment(task="lab_math", strategies=["single", "self_consistency:n=4"], models=model, limit=4)
    async with asyncio.timeout(120):
        run = await grid.run(anywhere / "run", track=["tensorboard", "mlflow", "wandb"])
    told = read_by_tensorboard(events).Scalars("single mock/accuracy")
    assert (told[0].step, told[-1].step) < (8, 8)
    assert told[-1].step == 8
    assert told[-1].value == pytest.approx(run.summary()[0]["accuracy"])
    shown, vote = read_by_tensorboard(events / "curves"), next(c for c in run.curves() if "self_consistency" in c.label)
    tag = next(name for name in shown.Tags()["scalars"] if "self_consistency" in name)
    assert [point.step for point in shown.Scalars(tag)] == [round(x) for x in vote.x]  # no earlier look is left
    client = mlflow.MlflowClient()
    (kept,) = client.search_runs(["0"])
    steps = [point.step for point in client.get_metric_history(kept.info.run_id, "single mock/accuracy")]
    assert (steps[0] < 8, steps[-1]) == (True, 8)
    assert kept.info.status == "FINISHED"
    (folder,) = (anywhere / "run" / "wandb").glob("offline-run*")
    assert len(list(folder.glob("files/media/table/curves_*.json"))) > 1


@pytest.mark.parametrize("fails", ["at the start", "while it goes on", "at the end"])
async def test_a_tracker_that_fails_ends_nothing(
    fails: str, anywhere: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    @contextmanager
    def opened(run: Run) -> Iterator[tuple[str, trackers.Give]]:
        def give(*_: Any) -> None:
            assert fails != "while it goes on", "no such host"

        assert fails != "at the start", "no such host"
        yield "nowhere", give
        raise AssertionError("no such host")

    monkeypatch.setitem(trackers.OPENED, "mlflow", opened)
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    grid = tts.Experiment(task="lab_math", strategies="single", models=tts.MockModel(lambda body: ANSWER), limit=2)
    run = await grid.run(anywhere / "run", track=["mlflow", "tensorboard"])
    assert run.summary()[0]["problems"] == 2
    (warning,) = caplog.messages
    assert "mlflow is told no more" in warning
    assert "no such host" in warning
    assert read_by_tensorboard(run.path / "tensorboard").Scalars("single mock/accuracy")[-1].step == 2


async def test_a_run_without_an_answer_is_tracked(anywhere: Path, caplog: pytest.LogCaptureFixture):
    model = tts.MockModel(lambda body: 1 / 0)  # pyright: ignore[reportArgumentType]
    grid = tts.Experiment(task="lab_math", strategies="single", models=model, limit=2)
    run = await grid.run(anywhere / "run", track="tensorboard")
    assert not caplog.messages
    assert read_by_tensorboard(run.path / "tensorboard").Scalars("single mock/failed")[-1].step == 2


@pytest.mark.parametrize(("tracker", "words"), [("mlflow", r"ttscale\[trackers\]"), ("neptune", "there are: mlflow")])
async def test_what_cannot_follow_is_said_before_anything_is_spent(
    tracker: str, words: str, anywhere: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Any] = []
    model = tts.MockModel(lambda body: asked.append(body) or ANSWER)
    grid = tts.Experiment(task="lab_math", strategies="single", models=model, limit=2)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises((MissingExtra, ConfigError), match=words):
        await grid.run(anywhere / "run", track=tracker)
    assert not asked
    await grid.run(anywhere / "run")  # and the folder can be used


def test_what_is_missing_is_named(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtra, match=r"ttscale\[trackers\]"):
        track(run, "mlflow")
    unknown: Any = "neptune"
    with pytest.raises(ConfigError, match="there are: mlflow, tensorboard, wandb"):
        track(run, unknown)


def test_the_command_says_where_it_went(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.argv", ["tts", "report", str(run.path), "--track", "tensorboard", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert str(run.path / "tensorboard") in capsys.readouterr().err
