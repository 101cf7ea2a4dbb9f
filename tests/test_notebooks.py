"""What a notebook needs: calls without await while its loop runs, HTML for results and runs, and frames."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

import tts
from tests.support.threaded import serving
from tts.errors import ConfigError
from tts.lab.lab_math import LabMath

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"
ANSWER = "So it is <42>. Answer: 42"


async def test_everything_works_without_await_and_shows_itself(tmp_path: Path):
    model = tts.MockModel(lambda body: ANSWER)
    result = tts.solve_sync("What is 6 * 7?", "self_consistency:n=3", model)
    assert (result.answer, result.text) == ("42", ANSWER)
    for words in ("<td", "42", "self_consistency:n=3", "chosen from the prompt"):
        assert words in result._repr_html_()
    single = tts.solve_sync("What?", "single", model)
    assert "&lt;42&gt;" in single._repr_html_()

    grid = tts.Experiment(task=LabMath(), strategies=["single", "best_of_n:n=2,verifier=oracle"], models=model, limit=2)
    run = grid.run_sync(tmp_path / "run")
    assert "best_of_n:n=2,verifier=oracle (oracle)" in run._repr_html_()
    assert [curve.problems for curve in run.curves("samples")] == [2, 2, 2]
    assert [row["problems"] for row in run.summary()] == [2, 2]
    assert grid.run_sync(tmp_path / "run", resume=True).summary() == run.summary()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_run_becomes_a_frame(library: str, tmp_path: Path):
    grid = tts.Experiment(
        task="lab_math", strategies="best_of_n:n=2,verifier=oracle", models=tts.MockModel(lambda body: ANSWER), limit=3
    )
    run = grid.run_sync(tmp_path / "run")
    make = getattr(run, f"to_{library}")
    candidates, curves, summary = make(), make("curves"), make("summary")
    assert len(candidates) == 6
    assert set(candidates["problem"]) == {key for row in run.tracks[0].rows for key in [row.problem]}
    assert list(curves["k"]) == [1, 2] * 2
    assert list(summary["problems"]) == [3]


def test_a_library_that_is_missing_is_named():
    with pytest.raises(ConfigError, match="pip install no_such_frames"):
        tts.tables.frame([], "no_such_frames")  # type: ignore[attr-defined, arg-type]


def test_a_configuration_that_cannot_be_used_is_told_in_plain_words():
    with pytest.raises(ConfigError, match="limit: must be greater than 0, not 0"):
        tts.Experiment(task="lab_math", strategies="single", models=tts.MockModel(lambda body: ""), limit=0)


def shown(name: str, folder: Path) -> list[dict[str, Any]]:
    """What the cells of a notebook of the documents show, by kind, when it is run in `folder`."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "keep notebooks without what they have shown"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return [out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", ())]


def test_the_first_curve_is_drawn_in_a_notebook(tmp_path: Path):
    outputs = shown("first_curve", tmp_path)
    assert any("image/svg+xml" in data for data in outputs)
    assert any("6/6" in data.get("text/plain", "") for data in outputs), "how the run goes is shown"
    assert sum("self_consistency" in data.get("text/html", "") for data in outputs) >= 2


def test_a_strategy_is_written_in_a_notebook(tmp_path: Path):
    assert any("twice_the_same" in data.get("text/html", "") for data in shown("write_a_strategy", tmp_path))


def test_a_verifier_is_examined_in_a_notebook(tmp_path: Path):
    assert any("AUROC" in str(data) for data in shown("is_my_verifier_good_enough", tmp_path))


def test_a_real_model_is_asked_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server of the tests stands in where the environment names none."""
    with serving(answer=lambda *_: "Answer: 54") as double:
        if not os.environ.get("OPENAI_BASE_URL"):
            monkeypatch.setenv("OPENAI_BASE_URL", double.base_url)
            monkeypatch.setenv("OPENAI_MODEL", "test-model")
        outputs = shown("a_real_model", tmp_path)
    assert any("self_consistency:n=4" in data.get("text/html", "") for data in outputs)
