"""What a notebook needs: calls without await while its loop runs, HTML for results and runs, and frames."""

from __future__ import annotations

from pathlib import Path

import pytest

import tts
from tts.errors import ConfigError
from tts.lab.lab_math import LabMath

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
