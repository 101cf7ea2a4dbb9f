"""A search over steps of one prompt, with rewards computed here. Arguments: base_url, spec of the strategy."""

import asyncio
import sys
from typing import ClassVar

from _measure import MESSAGES, chance, measured, report

import tts
from tts.registry import make
from tts.solving import drive, open_session
from tts.types import Scale


class Chance(tts.Verifier):
    """Rates every text by `chance`."""

    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    def check(self, problem: tts.Problem, candidate: tts.Candidate) -> tts.Verdict:
        """The text's own number."""
        return tts.Verdict(chance(candidate.content), feedback="It is not right yet.")


async def main(base_url: str, spec: str) -> None:
    async with tts.Sampler(tts.Endpoint(model="test-model", base_url=base_url)) as policy:
        strategy, problem = make("strategies", spec), tts.Problem(id="one", messages=tuple(MESSAGES))

        async def once() -> tts.Result:
            session = open_session(problem, strategy, {"policy": policy}, verifier=Chance())
            return await drive(strategy, session, stop_early=False)

        await once()  # opens the connections
        with measured() as spent:
            result = await once()
    nodes = sum(len(candidate.notes["tree"]) for candidate in result.candidates)
    assert not result.failures, result.failures[0]
    report(f"tts {spec}", nodes, spent)


asyncio.run(main(sys.argv[1], sys.argv[2]))
