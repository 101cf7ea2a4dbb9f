"""Budget forcing: thinking that is cut at a number of tokens, or made to go on by a word.

Muennighoff et al. 2025, "s1: Simple test-time scaling" (arXiv 2501.19393), section 3.1. How long a model thinks is a
third axis of compute, beside how many answers are drawn and how often they are corrected.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from tts.base import Strategy
from tts.errors import ConfigError
from tts.session import Session
from tts.types import Candidate, Problem, Prompt, Sample


class BudgetForcing(Strategy):
    """Thinks, answers, goes on thinking, answers again: a candidate for each length of thought.

    Needs a server that continues a begun answer (`continue_final_message`, see `tts doctor`) and does not split
    thoughts from answers (no reasoning parser).
    """

    waits: NonNegativeInt = 1
    """How often the model is made to go on when it would have ended its thoughts. 0 only cuts."""
    thinking_tokens: PositiveInt = 4096
    """Tokens of thought in all; where they are used up the thought is cut and the answer asked for."""
    answer_tokens: PositiveInt = 1024
    """Tokens of each answer."""
    begin: str = "<think>\n"
    """What the answer begins with."""
    end: str = "</think>"
    """How the model ends its thoughts."""
    wait: str = "\nWait"
    """What is put in place of `end` to make it go on."""
    conclude: str = "\n\nFinal answer:"
    """What is put behind `end` for the answer."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Yield an answer for each length of thought."""
        thought, thoughts, left = self.begin, [], self.thinking_tokens
        for level in range(self.waits + 1):
            think = await self._continue(problem, session, thought, left, stop=[self.end])
            if think is None:
                return
            thoughts.append(think)
            thought += think.text.removesuffix(self.end)
            left -= _tokens(think)
            answer = await self._continue(problem, session, f"{thought}{self.end}{self.conclude}", self.answer_tokens)
            if answer is None:
                return
            cut = think.finish_reason == "length" or left <= 0
            content = f"{self.conclude.strip()}{answer.text}"
            yield session.candidate(
                content, *thoughts, answer, spawned=(level,), thought=self.thinking_tokens - left, cut=cut
            )
            if cut:
                return
            thought += self.wait

    async def _continue(
        self, problem: Problem, session: Session, begun: str, most: int, **params: Any
    ) -> Sample | None:
        """What the model writes behind `begun`; None where the server refuses, which is noted."""
        prompt: Prompt = problem.messages + begun if isinstance(problem.messages, str) else [
            *problem.messages, {"role": "assistant", "content": begun},
        ]  # fmt: skip
        if not isinstance(problem.messages, str):
            params |= {"continue_final_message": True, "add_generation_prompt": False}
        known = session.sampler("policy").endpoint.params
        limit = "max_completion_tokens" if "max_completion_tokens" in known else "max_tokens"
        options: dict[str, Any] = {**params, limit: most}
        async with aclosing(session.sample(prompt, **options)) as samples:
            async for sample in samples:
                if sample.reasoning:
                    raise ConfigError("the server splits thoughts from answers: start it without a reasoning parser")
                return sample
        return None

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The answer after the longest thought."""
        return candidates[-1] if candidates else None


def _tokens(sample: Sample) -> int:
    return int(sum(charge.usage.completion_tokens for charge in sample.charges))
