"""Best-of-n with a judge call for each sample on one prompt. The median of five rounds counts. Argument: base_url."""

import asyncio
import json
import sys
from typing import ClassVar

from _measure import BEST_OF, MESSAGES, measured, report

import tts
from tts.registry import make
from tts.solving import drive, open_session

ROUNDS = 5


class Judge(tts.Verifier):
    """Asks the role `judge` for a score in JSON."""

    roles: ClassVar[frozenset[str]] = frozenset({"judge"})

    async def verify(self, problem: tts.Problem, candidate: tts.Candidate, session: tts.Session) -> tts.Verdict:
        """The judge's score."""
        question = f"Rate this answer to `{MESSAGES[0]['content']}` from 0 to 10:\n{candidate.content}"
        async for sample in session.sample([{"role": "user", "content": question}], role="judge"):
            return tts.Verdict(float(json.loads(sample.text)["score"]))
        raise ValueError("no rating")


async def main(base_url: str) -> None:
    strategy, rounds = make("strategies", f"best_of_n:n={BEST_OF}"), []
    endpoints = [tts.Endpoint(model=name, base_url=base_url) for name in ("test-model", "judge")]
    async with tts.Sampler(endpoints[0]) as policy, tts.Sampler(endpoints[1]) as judge:
        for _ in range(ROUNDS):
            problem = tts.Problem(id="one", messages=tuple(MESSAGES))
            session = open_session(problem, strategy, {"policy": policy, "judge": judge}, verifier=Judge())
            with measured() as spent:
                result = await drive(strategy, session, stop_early=False)
            assert sum(c.verdict is not None and c.verdict.score is not None for c in result.candidates) == BEST_OF
            rounds.append(spent)
    report("tts with a judge", BEST_OF, sorted(rounds, key=lambda spent: spent["wall_seconds"])[ROUNDS // 2])


asyncio.run(main(sys.argv[1]))
