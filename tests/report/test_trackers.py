"""A run in trackers, with their own libraries, offline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import tts
from tts.cli import main
from tts.errors import ConfigError, MissingExtra
from tts.report.trackers import track
from tts.runs import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    model = tts.MockModel(lambda body: "Answer: 42")
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


def test_tensorboard_reads_the_curves(run: Run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(track(run, "tensorboard"))
    read.Reload()
    tags = read.Tags()
    assert any(tag.startswith("curves/best_of_n") for tag in tags["scalars"])
    assert read.Scalars("single mock/accuracy")[0].value == pytest.approx(run.summary()[0]["accuracy"])
    assert "config/text_summary" in str(tags) or "config" in str(tags["tensors"])


def test_wandb_is_offline_unless_told_otherwise(run: Run, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = Path(track(run, "wandb"))
    assert folder.name.startswith("offline-run")
    assert len(list(folder.glob("*.wandb"))) == 1  # a process of W&B's own is still writing it
    (table,) = folder.glob("files/media/table/*.json")
    assert "best_of_n" in table.read_text()


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
