"""A probe spends on hard problems only, in the mode they need, and is compared at equal compute."""

from __future__ import annotations

import json
from itertools import pairwise
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
from tests.support.wire import bigram_logprobs
from tts import Endpoint, Experiment, Problem, registry, solve
from tts.errors import ConfigError
from tts.sampler.mock import MockModel
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
    assert result.text is not None
    assert result.text.endswith("Answer: 42")
    assert len(result.candidates) == {"samples": {"Yes.": 4, "No.": 10}, "ask": {"Yes.": 4, "No.": 6}}[by][easy]
    check_exact(result, double.stats)
    assert sum(usage.completion_tokens for usage in result.needed.values()) == double.stats.completion_tokens


@pytest.mark.parametrize(
    ("said", "easy"), [("**Yes**, I can", True), ("<think>Yes?</think>No.", False), ("Yesterday", False)]
)
async def test_a_question_with_a_picture_is_asked_with_it_and_the_answer_read_without_thoughts(said: str, easy: bool):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "What is 6 times 7?"}, picture]
    problem = Problem(id="p", messages=[{"role": "user", "content": parts}], answer="numeric_answer")
    asked: list[dict[str, Any]] = []

    def answer(request: dict[str, Any]) -> str:
        asked.append(request)
        return said if len(asked) == 1 else "Answer: 42"

    result = await solve(problem, f"probe:first=2,by=ask,{MODES},then=self_consistency(n=3)", MockModel(answer))
    text, shown = asked[0]["messages"][-1]["content"]
    assert text["text"].endswith("Say yes or no.\n\nWhat is 6 times 7?")
    assert shown == picture
    assert asked[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert [one.notes.get("probe", False) for one in result.candidates][:1] == [easy]


@pytest.mark.parametrize("sure", [True, False])
async def test_a_sure_first_sample_is_easy(sure: bool):
    """As likely as the first sample's tokens are by the table that the double speaks by, whatever the others say."""
    table, texts = bigram_logprobs("test-model"), iter(["Answer: 42", "Answer: 7", "Answer: 7", "Answer: 7"])
    read = b"\n" + b"Answer: 42"
    likely = float(np.exp(np.mean([table[a, b] for a, b in pairwise(read)])))
    spec = f"probe:first=2,by=confidence,confidence={likely * (0.99 if sure else 1.01)},then=self_consistency(n=2)"
    async with ModelDouble(answer=lambda request, rng: next(texts)) as double:
        result = await solve(PROBLEM, spec, at(double, max_n=1, max_concurrency=1), stop_early=False)
        asked = [request.body.get("logprobs", False) for request in double.requests if "messages" in request.body]
        check_exact(result, double.stats)
    assert asked == [True, True] + ([] if sure else [False, False])
    assert (result.text or "")[-2:] == ("42" if sure else " 7")  # of one vote each the first, of four three


async def test_a_server_without_log_probabilities_cannot_be_probed_by_them():
    with pytest.raises(ConfigError, match=r"by=confidence needs a server that gives log-probabilities .*tts doctor"):
        await solve(PROBLEM, "probe:by=confidence", MockModel(lambda request: "Answer: 42"))


@pytest.mark.parametrize("modes", ["", ',hard={"temperature": 0.1}'])
async def test_samples_of_the_probe_count_on_a_hard_problem_unless_they_are_of_another_mode(modes: str):
    texts = iter(["Answer: 1", "Answer: 2", "Answer: 2", "Answer: 3"])
    spec = f"probe:first=3,then=self_consistency(n=1){modes}"
    async with ModelDouble(answer=lambda request, rng: next(texts)) as double:
        result = await solve(PROBLEM, spec, at(double, max_n=1, max_concurrency=1), stop_early=False)
    assert result.text == ("Answer: 3" if modes else "Answer: 2")


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
