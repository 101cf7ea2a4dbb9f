"""SpecReason: steps, grades read from probabilities, and weak steps written anew."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import numpy as np
import pytest

from tests.support.double import ModelDouble
from tests.support.solving import PROBLEM, check_exact, endpoint
from tests.support.wire import bigram_logprobs
from tts.solving import solve
from tts.types import Result

STEPS = ["One.\n\n", "Two.\n\n", "Answer: 42\n\n"]
TARGET, GRADELESS = "target", "big"
"""Models whose likeliest 20 bytes after a colon have digits among them, and have none."""


def grade_of(model: str) -> float:
    """The double's grade: its probabilities after the colon of `Grade:`, of the digits among the 20 likeliest."""
    row = bigram_logprobs(model)[ord(":")]
    digits = {int(chr(i)): np.exp(row[i]) for i in np.argsort(-row)[:20] if chr(i).isascii() and chr(i).isdigit()}
    return sum(digit * p for digit, p in digits.items()) / sum(digits.values())


def next_step(body: dict[str, Any], rng: np.random.Generator) -> str:
    done = len(re.findall("\n\n", bytes(body["prompt"]).decode().rpartition("<|assistant|>\n")[2]))
    return ("" if body["model"] == "small" else "Surely. ") + "".join(STEPS[done:])


async def solved(accept: float, double: ModelDouble, target: str = TARGET) -> Result:
    models = {"draft": endpoint(double, model="small"), "target": endpoint(double, model=target)}
    async with asyncio.timeout(120):
        return await solve(PROBLEM, f"spec_reason:n=2,accept={accept}", models, stop_early=False)


async def test_good_steps_are_kept_one_by_one():
    async with ModelDouble(models=["small", TARGET], answer=next_step) as double:
        result = await solved(0.0, double)
    for candidate in result.candidates:
        assert candidate.content == "".join(STEPS)
        assert [sample.role for sample in candidate.samples] == ["draft"] * 3
        assert [turn["grade"] for turn in candidate.notes["turns"]] == pytest.approx([grade_of(TARGET)] * 3)
        assert candidate.notes["answer"] == "42"
        assert candidate.usage.requests == 6
    check_exact(result, double.stats)


async def test_weak_steps_are_taken_back_and_written_by_the_target_and_stay_paid_for():
    async with ModelDouble(models=["small", TARGET], answer=next_step) as double:
        result = await solved(9.0, double)
    for candidate in result.candidates:
        assert candidate.content == "".join(f"Surely. {step}" for step in STEPS)
        assert {sample.role for sample in candidate.samples} == {"target"}
        assert candidate.usage.requests == 9
    assert result.spent["draft"].completion_tokens == 2 * len("".join(STEPS))
    check_exact(result, double.stats)


async def test_a_step_without_a_grade_is_not_kept():
    async with ModelDouble(models=["small", GRADELESS], answer=next_step) as double:
        result = await solved(0.0, double, GRADELESS)
    assert {turn["grade"] for candidate in result.candidates for turn in candidate.notes["turns"]} == {None}
    assert {candidate.content for candidate in result.candidates} == {"".join(f"Surely. {step}" for step in STEPS)}
