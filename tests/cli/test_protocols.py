"""The studies `repeats` and `heterogeneity`, from the command line."""

import numpy as np
import pytest

from tests.cli.conftest import Command
from tests.support.double import ModelDouble


@pytest.fixture
def run(tts: Command, double: ModelDouble, task: str) -> str:
    """The directory of a run of eight attempts."""
    strategy = "self_consistency:n=8"
    options = ["--out", "one", "--quiet", "--base-url", double.base_url]
    assert tts("run", "--task", task, "--strategy", strategy, *options).code == 0
    return "one"


def test_repeats_are_shown_with_the_bound_named_as_one(tts: Command, run: str):
    said = tts("report", run, "--study", "repeats").out
    assert "perfect verifier" in said
    assert "worst of N" in said
    (row,) = tts("report", run, "--study", "repeats", "--json").json["repeats"]["attempts"]
    assert row["repeats"]["worst"] <= row["repeats"]["average"] <= row["repeats"]["best"]
    assert row["tokens"]["mean"] > 0


def test_heterogeneity_recommends(tts: Command, run: str):
    assert "for a verifier" in tts("report", run, "--study", "heterogeneity").out
    (row,) = tts("report", run, "--study", "heterogeneity", "--json").json["heterogeneity"]
    assert row["summary"]["advice"] in ("verifier", "majority", "neither")
    assert len(row["problems"]) == row["summary"]["prompts"]


def test_a_gap_is_between_models(tts: Command, run: str, double: ModelDouble, task: str):
    assert tts("report", run, "--study", "repeats", "--json").json["repeats"]["conventional_to_reasoning_gap"] is None
    table = f"""
        task = '{task}'
        strategies = ["self_consistency:n=4"]
        [models.one]
        model = "test-model"
        base_url = "{double.base_url}"
        [models.other]
        model = "test-model"
        base_url = "{double.base_url}"
        """
    with open("two.toml", "w") as file:
        file.write(table)
    assert tts("run", "two.toml", "--out", "two", "--quiet").code == 0
    found = tts("report", "two", "--study", "repeats", "--json").json["repeats"]
    average = max(row["repeats"]["average"] for row in found["attempts"])
    bound = min(row["repeats"]["best"] for row in found["attempts"])
    assert found["conventional_to_reasoning_gap"] == pytest.approx(average - bound)
    most = max(found["attempts"], key=lambda row: row["repeats"]["average"])["problem_shares"]
    least = min(found["attempts"], key=lambda row: row["repeats"]["best"])["problem_shares"]
    differences = [[most[problem][0] - least[problem][1]] for problem in most]
    low, high = found["conventional_to_reasoning_interval"]
    assert low <= np.mean(differences) <= high
    assert low < high
    assert "paired over problems" in tts("report", "two", "--study", "repeats").out
