"""The study `imperfect_verifier` from the command line: tables, sentences, JSON and a figure."""

from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.support.double import ModelDouble


@pytest.fixture
def run(tts: Command, double: ModelDouble, task: str) -> str:
    """The directory of a run with a verifier that lets wrong answers through."""
    strategy = "best_of_n:n=16,verifier=noisy(fpr=0.4)"
    options = ["--out", "one", "--quiet", "--base-url", double.base_url]
    assert tts("run", "--task", task, "--strategy", strategy, *options).code == 0
    return "one"


def test_shows_the_k_that_pays(tts: Command, run: str):
    said = tts("report", run, "--study", "imperfect_verifier")
    assert said.code == 0
    for words in ("K* of the model", "soundness", "conditional", "attempt", "one sample is right"):
        assert words in said.out


def test_costs_are_chosen_and_read_as_json(tts: Command, run: str):
    spec = "imperfect_verifier:cost_ratio=[0,30]"
    (found,) = tts("report", run, "--study", spec, "--json").json["imperfect_verifier"]["resampling"]
    free, dear = found["rewards"]
    assert (free["best"]["ratio"], dear["best"]["ratio"], dear["best"]["k"]) == (0.0, 30.0, 0)
    assert free["best"]["reward"] == pytest.approx(free["value"]["mean"][-1])
    assert free["value"]["low"][0] <= free["value"]["mean"][0]
    assert found["conditional_accuracy"] < 1


def test_draws_what_samples_are_worth(tts: Command, run: str, clean: Path):
    assert tts("report", run, "--study", 'imperfect_verifier:plot="worth.svg"').code == 0
    figure = (clean / "worth.svg").read_text()
    assert "λ = 0.5" in figure
    assert "K*" in figure
    assert tts("report", run, "--study", "imperfect_verifier:plot=worth.xyz").code == 2
