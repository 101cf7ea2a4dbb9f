"""Thoughts in parallel, and arithmetic that sums them up."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.double import ModelDouble
from tests.support.solving import check_exact, endpoint
from tests.support.wire import bigram_logprobs
from tts import Problem, registry, solve
from tts.errors import ConfigError
from tts.strategies.thinksum import ThinkSum
from tts.verifiers.choice import Choice

LOGS = st.lists(st.lists(st.floats(-30, 0), min_size=3, max_size=3), min_size=1, max_size=5)
OPTIONS = ("41", "42", "43")


@given(LOGS, st.lists(st.floats(-30, 0), min_size=3, max_size=3))
def test_the_sum_is_a_mean_or_a_product_of_what_each_thought_makes_likely(logs: list[list[float]], prior: list[float]):
    chances = [[math.exp(one) / sum(map(math.exp, each)) for one in each] for each in logs]
    for by in ("mixture", "product"):
        join = (lambda column: sum(column) / len(column)) if by == "mixture" else math.prod
        joined = [join(column) for column in zip(*chances, strict=True)]
        for before in (None, prior):
            wanted = [one / (1 if before is None else math.exp(before[i])) for i, one in enumerate(joined)]
            found = np.exp(ThinkSum(by=by, options=OPTIONS).summed(logs, before))
            assert found == pytest.approx([one / sum(wanted) for one in wanted], rel=1e-6, abs=1e-9)


def said(option: str) -> float:
    """The log-probability of an option, but for what all of them have in common."""
    return sum(bigram_logprobs("test-model")[pair] for pair in pairwise(f" {option}".encode()))


def thinker(request: dict[str, Any], rng: np.random.Generator) -> str:
    return f"It has {rng.integers(10**6)} parts."


@pytest.mark.parametrize("prior", [False, True])
async def test_options_are_scored_after_each_thought_and_every_charge_is_carried(prior: bool):
    problem = Problem.from_prompt("What is 6 times 7?")
    async with ModelDouble(answer=thinker) as double:
        spec = f"thinksum:n=3,options=[41,42,43],prior={str(prior).lower()}"
        result = await solve(problem, spec, endpoint(double), stop_early=False)
        check_exact(result, double.stats)
        scored = [one.body for one in double.requests if "prompt_logprobs" in one.body]
    assert len(scored) == 3 * 3 + 3 * prior
    likeliest = max(OPTIONS, key=lambda one: 0 if prior else said(one))
    assert [one.notes["thought"].startswith("It has") for one in result.candidates] == [True] * 3
    for one in result.candidates:
        logs = one.notes["logprobs"]
        assert [log - logs[0] for log in logs] == pytest.approx([said(o) - said("41") for o in OPTIONS])
        assert sum(one.notes["chances"].values()) == pytest.approx(1)
    assert prior or result.text == f"Answer: {likeliest}"
    assert result.selected is not None
    assert result.selected.spawned == (2,)
    last = result.selected.usage
    assert last.requests == len(scored) + 3 == sum(usage.requests for usage in result.needed.values())


async def test_the_options_of_a_question_are_its_letters_and_one_without_is_refused():
    reader = Choice(options=("Paris", "Rome", "Bern"))
    problem = Problem.from_prompt("Which?\n(A) Paris\n(B) Rome\n(C) Bern", answer=reader.spec)
    async with ModelDouble(answer=thinker) as double:
        result = await solve(problem, "thinksum:n=2", endpoint(double))
        assert set(result.candidates[0].notes["chances"]) == {"A", "B", "C"}
        with pytest.raises(ConfigError, match=r"does not say which answers there are: thinksum:options="):
            await solve(Problem.from_prompt("How many?", answer="numeric_answer"), "thinksum", endpoint(double))
    for options in ("[yes]", "[yes,yes]"):
        with pytest.raises(ConfigError, match="two options or more"):
            registry.make("strategies", f"thinksum:options={options}")


async def test_a_server_that_scores_no_prompts_is_said_to_lack_it():
    async with ModelDouble(answer=thinker, owned_by="other", echo=False) as double:
        with pytest.raises(ConfigError, match="needs vLLM or llama"):
            await solve(Problem.from_prompt("Is it?"), "thinksum:n=2,options=[yes,no]", endpoint(double))
