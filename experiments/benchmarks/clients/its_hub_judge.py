"""Best-of-n with a judge call for each sample on one prompt through its-hub, concurrency unlimited.

The server must serve a model `judge` that answers with a score in JSON. The median of five rounds counts.
"""

import asyncio
import sys

import its_hub  # pyright: ignore[reportMissingImports] - lives in the peer's environment
from _measure import BEST_OF, MESSAGES, measured, report

ROUNDS = 5


async def main(base_url: str) -> None:
    policy, judge = (
        its_hub.OpenAICompatibleLanguageModel(endpoint=base_url, api_key="none", model_name=name)
        for name in ("test-model", "judge")
    )
    strategy = its_hub.BestOfN(its_hub.LLMJudge(judge), its_hub.LMOrchestrator(max_concurrency=-1))
    rounds = []
    for _ in range(ROUNDS):
        with measured() as spent:
            result = await strategy.ainfer(policy, MESSAGES[0]["content"], BEST_OF, return_response_only=False)
        assert len(result.scores) == BEST_OF
        rounds.append(spent)
    for lm in (policy, judge):
        await lm.close_session(asyncio.get_running_loop())
    median = sorted(rounds, key=lambda spent: spent["wall_seconds"])[ROUNDS // 2]
    report(f"its-hub {its_hub.__version__} with a judge", BEST_OF, median)


asyncio.run(main(sys.argv[1]))
