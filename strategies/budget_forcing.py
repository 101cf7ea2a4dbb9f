"""Budget forcing: thinking is cut at a number of tokens, or made to go on by a word.

Muennighoff et al. 2025, "s1: Simple test-time scaling" (arXiv 2501.19393), section 3.1. How long a model thinks is a
third axis of compute, beside how many answers are drawn and how often they are corrected.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from pydantic import NonNegativeInt, PositiveInt

from tts.base import Strategy
from tts.continuation import Continuation
from tts.errors import ConfigError, SamplingFailed
from tts.session import Session
from tts.types import Candidate, Problem


class BudgetForcing(Strategy):
    """Thinks, goes on thinking where it would have ended, and answers.

    With `intermediate` it answers after every thought: a candidate for each length of thought.

    Needs a server that continues a partial answer (see `tts doctor`) and does not split thoughts from answers (no
    reasoning parser).
    """

    in_pieces = True

    waits: NonNegativeInt = 1
    """How often the model is made to go on when it would have ended its thoughts. 0 only cuts."""
    thinking_tokens: PositiveInt = 4096
    """Tokens of thought in all; when they are used up the thought is cut and the answer asked for."""
    answer_tokens: PositiveInt = 1024
    """Tokens of each answer."""
    begin: str = "<think>\n"
    """What the answer begins with."""
    end: str = "</think>"
    """How the model ends its thoughts."""
    wait: str = "\nWait"
    """What replaces `end` to make the model go on."""
    intermediate: bool = False
    """Whether there is an answer after each thought, for a curve, instead of after the last one alone."""
    conclude: str = "\n\nFinal answer:"
    """What follows `end` to ask for the answer."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        start = await Continuation.start(session, exact=False)  # the text is edited: `end` gives way to `wait`
        empty = replace(start, longest=None)  # thoughts have a budget of their own
        thought, left = await empty.append(self.begin), self.thinking_tokens
        unanswered: Continuation | None = None
        for level in range(self.waits + 1):
            try:
                thought = await thought.extend(tokens=left, stop=self.end, inner=True)
                left -= _tokens(thought)
                cut = thought.samples[-1].finish_reason in ("length", "budget") or left <= 0
                thought, last = replace(thought, text=thought.text.removesuffix(self.end)), cut or level == self.waits
                if last or self.intermediate:
                    yield await self._answer(thought, level, self.thinking_tokens - left, cut)
            except SamplingFailed:  # the server rejects the request, say as too long; it is noted
                if unanswered is not None:
                    yield await self._answer(unanswered, level - 1, self.thinking_tokens - left, cut=False)
                return
            if last:
                return
            unanswered = None if self.intermediate else thought
            thought = await thought.append(self.wait)

    async def _answer(self, thought: Continuation, level: int, tokens: int, cut: bool) -> Candidate:
        asked = await thought.append(self.end + self.conclude)
        answer = await asked.extend(tokens=min(self.answer_tokens, asked.session.longest or self.answer_tokens))
        if any(sample.reasoning for sample in answer.samples):
            raise ConfigError("the server splits thoughts from answers: start it without a reasoning parser")
        content = f"{self.conclude.strip()}{answer.samples[-1].text}"
        return replace(answer.candidate(spawned=(level,), thought=tokens, cut=cut), content=content)

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The answer after the longest thought."""
        return candidates[-1] if candidates else None


def _tokens(thought: Continuation) -> int:
    return int(sum(charge.usage.completion_tokens for charge in thought.samples[-1].charges))
