"""Searches over steps between two real servers, a policy and a reward model: both count what the results say."""

from __future__ import annotations

import pytest

from tests.integration.conftest import BLOCK
from tests.integration.test_main_job import COUNTERS, counted, endpoint
from tts import LocalVLLM, Problem, Sampler, solve
from tts.sampler.scoring import tokenize
from tts.types import sum_usage

pytestmark = pytest.mark.vllm

HITS = "vllm:prefix_cache_hits_total"
PREFACE = "Take one number after the other, and write a line for each. " * 12
"""Longer than a block."""
PROBLEMS = [
    Problem.from_prompt(PREFACE + text)
    for text in ("Start with 37, add 58, multiply by 4, subtract 129.", "What is 3 * 4 + 5?", "What is 17 * 6 - 40?")
]
RATED = 'step="\\n",step_tokens=40,depth=6,verifier=process_reward(step="\\n",params={"continue_final_message": true})'


@pytest.mark.parametrize(
    "search", ["beam_search:n=8,width=4", "particle_filter:n=8,filters=2", "mcts:simulations=2,in_flight=2"]
)
async def test_both_servers_count_what_the_results_say(
    target_server: LocalVLLM, exact_reward_server: LocalVLLM, search: str
) -> None:
    # One choice to a request: vLLM's counter has the prompt of a request once for each of its choices.
    policy, reward = target_server, exact_reward_server
    models = {"policy": endpoint(policy, max_n=1), "reward": endpoint(reward)}
    async with Sampler(models["policy"]) as sampler:
        heads = [len(await tokenize(sampler, problem.messages)) for problem in PROBLEMS]
    before, read_before = await counted(policy, *COUNTERS, HITS), await counted(reward)
    results = [await solve(problem, f"{search},{RATED}", models) for problem in PROBLEMS]
    after, read_after = await counted(policy, *COUNTERS, HITS), await counted(reward)
    *billed, found = (late - early for late, early in zip(after, before, strict=True))
    spent = {role: sum_usage(result.spent[role] for result in results) for role in models}
    for result in results:
        assert not result.failures
        assert result.selected is not None
        assert result.selected.verdict is not None
        assert not result.unused
    of_policy = spent["policy"]
    assert [of_policy.prompt_tokens, of_policy.completion_tokens, of_policy.requests] == billed
    assert spent["reward"].prompt_tokens == read_after[0] - read_before[0]
    assert of_policy.cached_tokens == found
    # All but those that are sent before the first of a problem is read find its whole blocks, and steps may find more.
    shared = min(heads) // BLOCK * BLOCK
    assert shared
    assert shared * (of_policy.requests - 8 * len(PROBLEMS)) <= found < of_policy.prompt_tokens
    print(f"{search}: {found / of_policy.prompt_tokens:.0%} of the prompts came from the prefix cache")
