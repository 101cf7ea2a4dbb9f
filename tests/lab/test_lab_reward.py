"""The reward model that comes with the library, on worked solutions and on ones with a slip."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest

from tts import Endpoint
from tts.lab.lab_math import LabMath, Operation, SteppedAnswer, solution
from tts.registry import make
from tts.session import Session
from tts.solving import open_models

BY_LINES = 'process_reward:step="\\n",params={"continue_final_message": true},aggregate=min'


def with_a_slip(tree: Operation, rng: Random) -> str:
    """A solution in which the result of one line is off, and the answer with it where that is the last."""
    lines = solution(tree).split("\n")
    place = rng.randrange(len(lines) - 1)
    step, value = lines[place].split(" = ")
    lines[place] = f"{step} = {int(value) + rng.choice((1, 2, 10))}"
    return "\n".join(lines)


@pytest.mark.parametrize("spec", [BY_LINES, "outcome_reward"])
async def test_a_right_solution_is_rated_above_one_with_a_slip(spec: str):
    examples, rng, above = list(islice(LabMath(seed=11).examples(), 20)), Random(0), 0
    verifier = make("verifiers", spec)
    async with open_models({"reward": Endpoint(model="lab-reward", base_url="embedded://lab-reward")}) as samplers:
        for example in examples:
            assert isinstance(example.truth, SteppedAnswer)
            session = Session(example.problem, samplers)
            texts = solution(example.truth.tree), with_a_slip(example.truth.tree, rng)
            right, wrong = [await session.verify(session.candidate(text), verifier) for text in texts]
            assert right.score is not None
            assert wrong.score is not None
            above += right.score > wrong.score
    assert above >= 16
