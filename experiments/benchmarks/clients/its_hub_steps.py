"""Beam search or particle filtering of one prompt through its-hub, with rewards computed here.

Arguments: base_url, `beam` or `particles`, requests at once (all by default). Nodes are counted where they are rated.
"""

import asyncio
import sys

import its_hub  # pyright: ignore[reportMissingImports] - lives in the peer's environment
from _measure import BRANCH_STEPS, BRANCH_WIDTH, BRANCHES, MESSAGES, chance, measured, report
from its_hub.core.algorithms.beam_search import BeamSearch  # pyright: ignore[reportMissingImports]
from its_hub.core.algorithms.particle_gibbs import ParticleFiltering  # pyright: ignore[reportMissingImports]


class Chance:
    """Rates every text by `chance`."""

    rated = 0

    async def ascore(self, prompt: str, texts: list[str]) -> list[float]:
        self.rated += len(texts)
        return [chance(text) for text in texts]


async def main(base_url: str, name: str, at_once: int = -1) -> None:
    lm = its_hub.OpenAICompatibleLanguageModel(
        endpoint=base_url, api_key="none", model_name="test-model", max_concurrency=at_once
    )
    steps, prm = its_hub.StepGeneration(max_steps=BRANCH_STEPS - 1, step_token="\n"), Chance()
    search = BeamSearch(steps, prm, BRANCHES // BRANCH_WIDTH) if name == "beam" else ParticleFiltering(steps, prm)
    await search.ainfer(lm, MESSAGES[0]["content"], BRANCHES, return_response_only=False)  # opens the connections
    prm.rated = 0
    with measured() as spent:
        await search.ainfer(lm, MESSAGES[0]["content"], BRANCHES, return_response_only=False)
    await lm.close_session(asyncio.get_running_loop())
    report(f"its-hub {its_hub.__version__} {name}", prm.rated, spent)


asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
