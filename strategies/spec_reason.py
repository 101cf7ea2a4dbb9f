"""SpecReason: a small model writes one step of reasoning at a time; a large one grades it and redoes weak ones.

Pan et al. 2025 (arXiv 2504.07891), section 4: the grade is read from a single token of the large model.
"""

from __future__ import annotations

from math import exp
from typing import Annotated

from pydantic import Field, PositiveInt

from tts.sampler.scoring import tokenize
from tts.strategies.speculation import Speculative, Turn
from tts.strategies.speculation.steps import Chain, Speculation

QUESTION = (
    "Above is a solution in progress. Judge only its last step: is it correct, and does it help to solve the problem? "
    "Give a grade from 0 (wrong or useless) to 9 (certainly right and useful), one digit and nothing else."
)
PREFILL = "Grade:"


class SpecReason(Speculative):
    """N samples written step by step by a small model; a large one rewrites the steps that it grades too low."""

    rounds: PositiveInt = 64
    """Steps of a sample, at most."""
    accept: Annotated[float, Field(ge=0, le=9)] = 7.0
    """Lowest grade at which a draft's step is kept."""
    step: str = "\n\n"
    """What ends a step."""

    @property
    def scores(self) -> bool:
        return False

    async def begin(self, speculation: Speculation) -> Turn:
        """Draft a step, grade it; keep it, or take it back and let the target write that step."""

        async def turn(chain: Chain) -> None:
            if self.draft_tokens:
                await speculation.extend(chain, "draft", self.draft_tokens, step=self.step)
                if not self.target_tokens:
                    return
                grade = await self.grade(chain, speculation)
                weak = grade is None or grade < self.accept
                chain.turns.append({"grade": grade, "rejected": weak})
                if not weak:
                    return
                speculation.undo(chain)
            await speculation.extend(chain, "target", self.target_tokens, step=self.step)

        return turn

    async def grade(self, chain: Chain, speculation: Speculation) -> float | None:
        """The mean grade of the chain's last step under the target's probabilities of the ten digits, None without any.

        Raises `EndpointError` where the server fails.
        """
        session = speculation.session
        target = session.sampler("target")
        turns = [
            *session.problem.turns,
            {"role": "assistant", "content": chain.answer.text},
            {"role": "user", "content": QUESTION},
        ]
        prompt = await tokenize(target, turns) + await tokenize(target, PREFILL, special=False)
        asked = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}
        sample = await session.one(prompt, role="target", inner=True, **asked)
        if sample is None:
            return None
        chain.answer = chain.answer.charged(sample.charges)
        chances: dict[int, float] = {}
        for token, logprob in (sample.top_logprobs or {}).items():
            if token.strip() in tuple("0123456789"):
                chances[int(token)] = chances.get(int(token), 0.0) + exp(logprob)
        total = sum(chances.values())
        return sum(digit * chance for digit, chance in chances.items()) / total if total else None
