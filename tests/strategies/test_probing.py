"""A probe spends on hard problems only, in the mode they need, and is compared at equal compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runs.conftest import double as double
from tests.runs.conftest import endpoint as endpoint
from tests.runs.conftest import task as task
from tests.support.double import ModelDouble
from tests.support.solving import PROBLEM, RIGHT, check_exact
from tests.support.solving import endpoint as at
from tts import Endpoint, Experiment, registry, solve
from tts.errors import ConfigError
from tts.studies.probe import ProbeGain, probe_report

MODES = (
    'easy={"chat_template_kwargs": {"enable_thinking": false}},hard={"chat_template_kwargs": {"enable_thinking": true}}'
)


def thinker(easy: str) -> Any:
    """Says always the same where it does not think, or different things."""

    def answer(request: dict[str, Any], rng: np.random.Generator) -> str:
        if "Say yes or no" in json.dumps(request["messages"]):
            return easy
        if request.get("chat_template_kwargs", {}).get("enable_thinking"):
            return "long thoughts. Answer: 42"
        return "Answer: 42" if easy == "Yes." else f"Answer: {rng.integers(50, 1000)}"

    return answer


@pytest.mark.parametrize("by", ["samples", "ask"])
@pytest.mark.parametrize("easy", ["Yes.", "No."])
async def test_the_probe_chooses_who_thinks(by: str, easy: str):
    spec = f"probe:first=4,by={by},{MODES},then=self_consistency(n=6)"
    assert registry.make("strategies", registry.make("strategies", spec).spec).then.n == 6
    async with ModelDouble(answer=thinker(easy)) as double:
        result = await solve(PROBLEM, spec, at(double), stop_early=False)
        modes = [request.body.get("chat_template_kwargs", {}).get("enable_thinking") for request in double.requests]
    assert (True in modes) == (easy == "No.")
    assert result.answer is not None
    assert result.answer.endswith("Answer: 42")
    assert len(result.candidates) == {"samples": {"Yes.": 4, "No.": 10}, "ask": {"Yes.": 4, "No.": 6}}[by][easy]
    check_exact(result, double.stats)
    assert sum(usage.completion_tokens for usage in result.needed.values()) == double.stats.completion_tokens


async def test_what_a_verifier_accepts_is_easy():
    async with ModelDouble(answer=thinker("Yes.")) as double:
        spec = f"probe:first=3,then=best_of_n(n=9),verifier={RIGHT}"
        result = await solve(PROBLEM, spec, at(double), stop_early=False)
    assert len(result.candidates) == 3


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("probe:then=plan_search", "then takes self_consistency"),
        (f"probe:then=best_of_n(verifier={RIGHT})", "to probe itself"),
        ("probe:by=mood", "samples"),
    ],
)
def test_what_a_probe_cannot_lead_to_is_refused(spec: str, words: str):
    with pytest.raises(ConfigError, match=words):
        registry.make("strategies", spec)


async def test_a_probe_is_compared_with_the_same_policy_for_all_at_equal_compute(
    task: str, endpoint: Endpoint, tmp_path: Path
):
    constant = "best_of_n:n=12,verifier=oracle"
    specs = [constant, "probe:first=2,then=best_of_n(n=8),verifier=oracle"]
    run = await Experiment.parse({"task": task, "models": endpoint, "strategies": specs}).run(tmp_path / "run")
    (report,) = probe_report(run)
    probed = run.tracks[1]
    assert report.constant == run.tracks[0].strategy
    assert report.cost == pytest.approx(np.mean([part[-1] for part in probed.cost("completion_tokens")]))
    assert report.easy == np.mean([len(part) == 2 for part in probed.correct])
    assert report.right_where_easy == 1.0
    assert report.within
    assert report.low <= report.difference <= report.high
    assert report.difference == pytest.approx(report.accuracy - report.constant_accuracy)
    assert ProbeGain().findings({"": run}).data[0]["problems"] == 20


async def test_a_run_without_a_constant_policy_says_what_it_takes(task: str, endpoint: Endpoint, tmp_path: Path):
    table = {"task": task, "models": endpoint, "strategies": "probe:then=best_of_n(n=3),verifier=oracle"}
    run = await Experiment.parse(table).run(tmp_path / "run")
    with pytest.raises(ConfigError, match="same policy for all"):
        probe_report(run)
