"""Many prompts with a few samples each: self-consistency, all prompts at once. Argument: base_url."""

import asyncio
import sys

from _measure import PROMPTS, SAMPLES_EACH, measured, report

import tts
from tts.registry import make
from tts.solving import drive, open_session


async def main(base_url: str) -> None:
    strategy = make("strategies", f"self_consistency:n={SAMPLES_EACH}")
    async with tts.Sampler(tts.Endpoint(model="test-model", base_url=base_url)) as sampler:

        async def one(number: int) -> tts.Result:
            prompt = f"Problem {number}: what is {number} times seven? End with `Answer: `."
            problem = tts.Problem.from_prompt(prompt, id=str(number), answer="numeric_answer")
            session = open_session(problem, strategy, {"policy": sampler})
            return await drive(strategy, session, stop_early=False)

        with measured() as spent:
            results = await asyncio.gather(*map(one, range(PROMPTS)))
    assert all(len(result.candidates) == SAMPLES_EACH for result in results)
    report("tts", PROMPTS * SAMPLES_EACH, spent)


asyncio.run(main(sys.argv[1]))
