"""Searches over steps between two real servers, a policy and a reward model: both count what the results say."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.test_main_job import counted
from tests.support.wire import Json
from tts import Endpoint, LocalVLLM, Problem, Sampler, solve
from tts.lab.engine.models import model_place
from tts.sampler.scoring import tokenize
from tts.types import sum_usage

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

BLOCK = 128
"""Tokens of a block of the policy's prefix cache, which finds whole blocks alone."""
PREFACE = "Take one number after the other, and write a line for each. " * 12
"""Longer than a block."""
PROBLEMS = [
    Problem.from_prompt(PREFACE + text)
    for text in ("Start with 37, add 58, multiply by 4, subtract 129.", "What is 3 * 4 + 5?", "What is 17 * 6 - 40?")
]
RATED = 'step="\\n",step_tokens=40,depth=6,verifier=process_reward(step="\\n",params={"continue_final_message": true})'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers(vllm_python: str) -> AsyncIterator[dict[str, LocalVLLM]]:
    settings: Json = {"python": vllm_python}
    async with (
        LocalVLLM(
            model_place("lab-target"), name="lab-target", options=("--block-size", str(BLOCK)), **settings
        ) as policy,
        LocalVLLM(model_place("lab-reward"), name="lab-reward", options=("--runner", "pooling"), **settings) as reward,
    ):
        yield {"policy": policy, "reward": reward}


@pytest.mark.parametrize(
    "search", ["beam_search:n=8,width=4", "particle_filter:n=8,filters=2", "mcts:simulations=2,in_flight=2"]
)
async def test_both_servers_count_what_the_results_say(servers: dict[str, LocalVLLM], search: str) -> None:
    # One choice to a request: vLLM's counter has the prompt of a request once for each of its choices.
    models = {role: Endpoint(model=one.name, base_url=one.base_url, max_n=1) for role, one in servers.items()}
    policy, reward = servers["policy"], servers["reward"]
    async with Sampler(models["policy"]) as sampler:
        heads = [len(await tokenize(sampler, problem.messages)) for problem in PROBLEMS]
    found = (await policy.metrics()).get("vllm:prefix_cache_hits_total", 0.0)
    before, read_before = await counted(policy), (await reward.metrics()).get("vllm:prompt_tokens_total", 0.0)
    results = [await solve(problem, f"{search},{RATED}", models) for problem in PROBLEMS]
    billed = [late - early for late, early in zip(await counted(policy), before, strict=True)]
    read = (await reward.metrics())["vllm:prompt_tokens_total"] - read_before
    spent = {role: sum_usage(result.spent[role] for result in results) for role in models}
    for result in results:
        assert not result.failures
        assert result.selected is not None
        assert result.selected.verdict is not None
        assert not result.unused
    of_policy = spent["policy"]
    assert [of_policy.prompt_tokens, of_policy.completion_tokens, of_policy.requests] == billed
    assert spent["reward"].prompt_tokens == read
    found = (await policy.metrics())["vllm:prefix_cache_hits_total"] - found
    assert of_policy.cached_tokens == found
    # All but those that are sent before the first of a problem is read find its whole blocks, and steps may find more.
    shared = min(heads) // BLOCK * BLOCK
    assert shared
    assert shared * (of_policy.requests - 8 * len(PROBLEMS)) <= found < of_policy.prompt_tokens
    print(f"{search}: {found / of_policy.prompt_tokens:.0%} of the prompts came from the prefix cache")
