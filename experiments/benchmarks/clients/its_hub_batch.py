"""Many prompts with a few samples each through its-hub: self-consistency, all prompts at once.

Arguments: base_url, and the orchestrator's concurrency (-1, the default, is unlimited).
"""

import asyncio
import sys

import its_hub  # pyright: ignore[reportMissingImports] - lives in the peer's environment
from _measure import PROMPTS, SAMPLES_EACH, measured, report


async def main(base_url: str, concurrency: int) -> None:
    lm = its_hub.OpenAICompatibleLanguageModel(endpoint=base_url, api_key="none", model_name="test-model")
    strategy = its_hub.SelfConsistency(
        consistency_space_projection_func=lambda text: text.rpartition("Answer: ")[2],
        orchestrator=its_hub.LMOrchestrator(max_concurrency=concurrency),
    )
    with measured() as spent:
        prompts = (f"Problem {i}: what is {i} times seven? End with `Answer: `." for i in range(PROMPTS))
        answers = await asyncio.gather(*(strategy.ainfer(lm, prompt, SAMPLES_EACH) for prompt in prompts))
    assert all(answer["content"] for answer in answers)
    await lm.close_session(asyncio.get_running_loop())
    report(f"its-hub {its_hub.__version__}, concurrency {concurrency}", PROMPTS * SAMPLES_EACH, spent)


asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else -1))
