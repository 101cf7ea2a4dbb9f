"""The contrast of three models' log-probabilities, against the tables that the models of the double speak by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.solving import PROBLEM, check_exact, endpoint
from tests.support.wire import bigram_logprobs
from tts import Endpoint, Problem, registry, solve
from tts.errors import ConfigError
from tts.session import Session
from tts.solving import open_models

NAMES = ("base", "tuned", "anchor")


def says(request: dict[str, Any], rng: np.random.Generator) -> str:
    return "".join(rng.choice(list("abcdé "), size=rng.integers(1, 12)))


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[tuple[ModelDouble, dict[str, Endpoint]]]:
    """A double of the three and of the policy, which is the tuned model."""
    async with asyncio.timeout(120), ModelDouble(models=NAMES, answer=says, **settings) as double:
        roles = {name: endpoint(double, model=name) for name in NAMES}
        yield double, {"policy": endpoint(double, model="tuned"), **roles}


def logprob(model: str, before: str, text: str) -> float:
    table, read = bigram_logprobs(model), before[-1:].encode() + text.encode()
    return float(sum(table[a, b] for a, b in pairwise(read)))


@pytest.mark.parametrize("owned_by", ["vllm", "another"])
@pytest.mark.parametrize("beta", [1.0, 0.5])
async def test_the_best_of_n_is_the_likeliest_under_the_combined_model(beta: float, owned_by: str):
    """By vLLM's prompt log-probabilities, and by those of a prompt that is echoed."""
    problem = Problem.from_prompt("[[p]] say something", id="p")
    if owned_by == "another":  # which cannot render messages
        problem = problem.model_copy(update={"messages": "[[p]] say something: "})
    async with served(owned_by=owned_by) as (double, models):
        result = await solve(problem, f"best_of_n:n=6,verifier=logprob_contrast(beta={beta})", models)
        check_exact(result, double.stats)
    before = " " if owned_by == "another" else "\n"  # what a prompt, or a rendered one, ends with
    assert set(result.spent) == {"policy", *NAMES}
    known = {}
    for one in result.candidates:
        assert one.verdict is not None
        parts = {name: logprob(name, before, one.content) for name in NAMES}
        assert {name: one.verdict.details[name] for name in NAMES} == pytest.approx(parts)
        known[one.id] = (parts["base"] + beta * (parts["tuned"] - parts["anchor"])) / len(one.content.encode())
        assert one.verdict.score == pytest.approx(known[one.id])
    assert result.selected is not None
    assert known[result.selected.id] == max(known.values())


async def test_drawn_anew_an_answer_is_chosen_in_proportion_to_its_importance_weight():
    verifier = registry.make("verifiers", "logprob_contrast:drawn_by=tuned")
    async with served() as (_, models), open_models(models) as samplers:
        session = Session(PROBLEM, samplers)
        texts = ["a", "b", "c"]
        drawn = [[session.candidate(text) for text in texts] for _ in range(150)]
        rated = [await session.together(session.verify(one, verifier) for one in row) for row in drawn]
        again = await session.verify(drawn[0][0], verifier)
    assert again.score == rated[0][0].score  # a resumed run draws the same
    weights = [np.exp(verdict.details["log_weight"]) for verdict in rated[0]]
    for text, verdict in zip(texts, rated[0], strict=True):
        parts = {name: verdict.details[name] for name in NAMES}
        assert verdict.details["log_weight"] == pytest.approx(parts["base"] - parts["anchor"]), text
        assert verdict.scale == "order"
    chosen = (
        np.bincount([int(np.argmax([verdict.score or 0.0 for verdict in row])) for row in rated], minlength=3) / 150
    )
    shares = np.array(weights) / sum(weights)
    assert chosen == pytest.approx(shares, abs=4 * np.sqrt(0.25 / 150))


@pytest.mark.parametrize("settings", [{"owned_by": "another"}, {"owned_by": "another", "echo": False}], ids=str)
async def test_a_server_that_cannot_tell_is_refused_with_what_can(settings: dict[str, Any]):
    """One that cannot render messages, and one that gives no log-probabilities of a prompt."""
    problem = PROBLEM if settings.get("echo") is None else PROBLEM.model_copy(update={"messages": "six times seven? "})
    async with served(**settings) as (_, models):
        with pytest.raises(ConfigError, match="vLLM"):
            await solve(problem, "best_of_n:n=2,verifier=logprob_contrast", models)
        del models["anchor"]
        with pytest.raises(ConfigError, match="needs a model for: anchor"):
            await solve(problem, "best_of_n:n=2,verifier=logprob_contrast", models)


async def test_an_empty_answer_and_a_refused_score_lose_one_verdict_and_say_so():
    async with ModelDouble(models=NAMES, answer=lambda body, rng: "" if rng.random() < 0.5 else "ab") as double:
        models = {"policy": endpoint(double, model="tuned"), **{name: endpoint(double, model=name) for name in NAMES}}
        result = await solve(PROBLEM, "best_of_n:n=8,verifier=logprob_contrast", models)
    rated = [one.verdict.score is not None for one in result.candidates if one.verdict]
    assert rated == [bool(one.content) for one in result.candidates]
    assert 0 < sum(rated) < 8
    assert "an empty answer has no log-probability" in str(result.failures)
    assert result.text == "ab"
    async with served(faults={Fault(FaultKind.CONTEXT_LENGTH): 0.2}) as (_, models):
        result = await solve(PROBLEM, "best_of_n:n=8,verifier=logprob_contrast", models)
    assert result.text
