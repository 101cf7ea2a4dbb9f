"""Reward verifiers on the engine: `embedded:///folder` of a classifier, through the sampler as any reward server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.small_llama import reference_states
from tts import Endpoint
from tts.lab.engine.models import read_tensors
from tts.lab.engine.tokenizer import Tokenizer
from tts.registry import make
from tts.session import Session
from tts.solving import open_models
from tts.types import Problem, Verdict, by_role

PROBLEM = Problem.from_prompt("the bell", id="p")
STEPS = ["the bell rang", "and then", "Answer: 7"]


async def rated(folder: Path, spec: str, *answers: str) -> tuple[list[Verdict], Session]:
    endpoint = Endpoint(model=folder.name, base_url=f"embedded://{folder}")
    async with open_models({"reward": endpoint}) as samplers:
        session = Session(PROBLEM, samplers)
        verifier = make("verifiers", spec)
        verdicts = [await session.verify(session.candidate(answer), verifier) for answer in answers]
    assert not session.ledger.failures
    return verdicts, session


def expected(folder: Path, ids: list[int]) -> float:
    """The reward behind the last token, computed one position after the other."""
    config = json.loads((folder / "config.json").read_text())
    tensors = dict(read_tensors(folder))
    raw = reference_states(config, tensors, ids)[-1] @ tensors["score.weight"][0]
    return float(1 / (1 + np.exp(-raw)))


def asked(folder: Path, answer: str, *, more_to_come: bool = False) -> list[int]:
    """The tokens of the question with its answer, or with the beginning of one."""
    tokenizer = Tokenizer(folder)
    turns: list[Any] = [*PROBLEM.messages, {"role": "assistant", "content": answer}]
    return tokenizer.encode(tokenizer.render(turns, open_turn=False, go_on=more_to_come))


@pytest.mark.parametrize("route", ["classify", "pooling"])
async def test_an_outcome_is_rated_behind_its_last_token(reward_folder: Path, route: str):
    (first, second, again), session = await rated(reward_folder, f"outcome_reward:route={route}", "a", "the bell", "a")
    assert first.score == pytest.approx(expected(reward_folder, asked(reward_folder, "a")), abs=1e-3)
    assert second.score == pytest.approx(expected(reward_folder, asked(reward_folder, "the bell")), abs=1e-3)
    assert first.score != second.score
    assert again.score == first.score
    spent = by_role(session.ledger.paid)["reward"]
    assert (spent.requests, spent.completion_tokens, spent.estimated_tokens) == (2, 0, 0)
    assert spent.prompt_tokens == sum(len(asked(reward_folder, answer)) for answer in ("a", "the bell"))


async def test_a_pair_is_rated_as_one_text(reward_folder: Path):
    (verdict,), _ = await rated(reward_folder, "outcome_reward:route=score", "rang")
    encode = Tokenizer(reward_folder).encode
    assert verdict.score == pytest.approx(expected(reward_folder, encode("the bell") + encode("rang")), abs=1e-3)


async def test_the_raw_reward_is_had_without_the_activation(reward_folder: Path):
    spec = 'outcome_reward:route=pooling,params={"use_activation":false}'
    (raw,), _ = await rated(reward_folder, spec, "a")
    assert raw.score is not None
    assert 1 / (1 + np.exp(-raw.score)) == pytest.approx(expected(reward_folder, asked(reward_folder, "a")), abs=1e-3)


@pytest.mark.parametrize("more_to_come", [False, True])
async def test_every_step_is_rated_in_the_light_of_those_before_it_and_once(reward_folder: Path, more_to_come: bool):
    prefixes = ["\n".join(STEPS[: i + 1]) for i in range(3)]
    params = {"continue_final_message": True} if more_to_come else {}
    spec = f'process_reward:step="\\n",aggregate=min,params={json.dumps(params)}'
    verdicts, session = await rated(reward_folder, spec, *prefixes)
    each = [expected(reward_folder, asked(reward_folder, text, more_to_come=more_to_come)) for text in prefixes]
    for i, verdict in enumerate(verdicts):
        assert verdict.details["steps"] == pytest.approx(each[: i + 1], abs=1e-3)
        assert verdict.score == min(verdict.details["steps"])
    assert by_role(session.ledger.paid)["reward"].requests == 3
