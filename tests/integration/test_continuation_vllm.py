"""Answers that grow step by step: the same in this process and on real vLLM, and counted to the last token."""

from __future__ import annotations

import re

import pytest

from tests.integration.test_main_job import counted
from tests.third_party.beam_search import BeamSearch
from tts import Continuation, Endpoint, LocalVLLM, Problem, Result, Sampler, Session, solve
from tts.sampler.scoring import detokenize, tokenize
from tts.types import sum_usage

pytestmark = pytest.mark.vllm

PROBLEMS = (
    "Mia has 12 pears and buys 7 more. How many pears has she?",
    "What is 3 * 4 + 5?",
    "Tom had 20 coins and gave away 6. How many coins are left?",
)


def remote(server: LocalVLLM) -> Endpoint:
    return Endpoint(model=server.name, base_url=server.base_url)


HERE = Endpoint(model="lab-target", base_url="embedded://lab-target")


async def test_a_beam_search_finds_the_same_on_both_engines_and_is_counted_exactly(exact_target_server: LocalVLLM):
    async def searched(endpoint: Endpoint) -> list[Result]:
        return [await solve(problem, BeamSearch(), endpoint) for problem in PROBLEMS]

    before = await counted(exact_target_server)
    there, here = await searched(remote(exact_target_server)), await searched(HERE)
    billed = [late - early for late, early in zip(await counted(exact_target_server), before, strict=True)]
    for one, other in zip(there, here, strict=True):
        assert one.candidates
        assert not one.failures
        assert one.answer == other.answer
        assert {c.content for c in one.candidates} == {c.content for c in other.candidates}
    spent = sum_usage(result.usage for result in there)
    assert [spent.prompt_tokens, spent.completion_tokens, spent.requests] == billed
    assert all(total(result) == result.usage.completion_tokens for result in there)


def total(result: Result) -> float:
    """Completion tokens that some candidate, or nothing that was kept, descends from: each once."""
    charges = frozenset(result.loose).union(*(candidate.charges for candidate in result.candidates))
    return sum(charge.usage.completion_tokens for charge in charges)


@pytest.mark.parametrize("space", ["\n", " \n\n", "  ", "\t"])
async def test_white_space_at_the_end_of_a_partial_answer_stays(exact_target_server: LocalVLLM, space: str):
    problem = Problem.from_prompt(PROBLEMS[0])
    texts = []
    for endpoint in (remote(exact_target_server), HERE):
        async with Sampler(endpoint) as sampler:
            session = Session(problem, {"policy": sampler})
            begun = await (await Continuation.start(session)).append(f"12 + 7 = 19{space}")
            assert begun.exact
            assert (await detokenize(sampler, begun.ids or ())).endswith(f"19{space}")
            grown = await begun.extend(tokens=20, temperature=0)
            assert grown.ids is not None
            assert begun.ids is not None
            assert grown.ids[: len(begun.ids)] == begun.ids
            texts.append(grown.text)
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"12 + 7 = 19{space}")


async def test_a_step_ends_with_its_stop_string_and_its_text_is_that_of_its_tokens(exact_target_server: LocalVLLM):
    async with Sampler(remote(exact_target_server)) as sampler:
        (end,) = await tokenize(sampler, "<|end|>", special=False)
        session = Session(Problem.from_prompt(" ".join(PROBLEMS * 4)), {"policy": sampler})  # several cache blocks
        steps = [await Continuation.start(session)]
        while not steps[-1].ended and len(steps) < 8:
            bias = {str(end): -100 if len(steps) < 3 else 0}  # there are two steps
            branches = await steps[-1].branch(4, stop=("\n", "="), temperature=0.8, tokens=30, logit_bias=bias)
            for branch in branches:
                known = branch.ids or ()
                piece = branch.samples[-1]
                stepped = "\n" in piece.text or "=" in piece.text  # its last token may hold more than the stop string
                assert stepped or branch.ended or piece.finish_reason == "length"
                if not branch.ended:
                    shown = re.sub(r"<\|\w+\|>", "", await detokenize(sampler, known))  # texts lack special tokens
                    assert shown == branch.text
            steps.append(branches[0])
    prompts = [sample.charges[0].usage for sample in steps[-1].samples]
    assert any(usage.cached_tokens for usage in prompts[1:])  # later steps find their prefix in the cache
