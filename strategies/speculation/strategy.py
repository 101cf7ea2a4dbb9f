"""What strategies with a draft and a target model have in common."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing
from typing import Any, ClassVar

from pydantic import NonNegativeInt, PositiveInt

from tts.base import answer_reader
from tts.concurrency import Flow, flow
from tts.session import Session
from tts.strategies.self_consistency import SelfConsistency
from tts.strategies.speculation.steps import Chain, Speculation
from tts.types import Candidate, Problem

Turn = Callable[[Chain], Awaitable[None]]
"""One round of one sample."""


class Speculative(SelfConsistency):
    """N samples of several rounds each; the most frequent answer wins.

    With `target_tokens=0` the draft model works alone, with `draft_tokens=0` the target model: the two controls.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"draft", "target"})
    scores: ClassVar[bool] = True
    """Whether drafts are scored by their log-probabilities."""

    rounds: PositiveInt = 15
    """Turns of a sample, at most."""
    draft_tokens: NonNegativeInt = 500
    """Most tokens of a draft."""
    target_tokens: NonNegativeInt = 500
    """Most tokens of what the target writes in a turn."""

    async def begin(self, speculation: Speculation) -> Turn:
        """What a sample does in each round."""
        raise NotImplementedError(f"{type(self).__name__} must define begin() or grown()")

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Yield the samples as they are finished, with what was found out about each draft in `notes`."""
        scoring = bool(self.scores and self.draft_tokens and self.target_tokens)
        reader, known = answer_reader(problem, self.answer), list[str]()
        speculation = await Speculation.open(session, reader, scoring=scoring)
        grown = self.grown(speculation)
        async with aclosing(session.verified(grown) if self.weighted or self.needs_verifier else grown) as candidates:
            async for candidate in candidates:
                votes = candidate.notes["ended"] not in ("failed", "budget")
                yield await session.classified(candidate, reader, known) if votes else candidate

    async def grown(self, speculation: Speculation) -> AsyncGenerator[Candidate, None]:
        """The samples, each at its own pace: none waits for another."""
        turn = await self.begin(speculation)

        async def grow(chain: Chain, out: Flow[Candidate]) -> None:
            try:
                with speculation.alone(chain):
                    for _ in range(self.rounds):
                        await turn(chain)
                        if chain.ended:
                            break
            finally:
                if chain.samples:
                    out.emit(speculation.candidate(chain))

        def begin(out: Flow[Candidate]) -> None:
            for number in range(self.n):
                out.start(grow(Chain(number), out))

        async with aclosing(flow(begin)) as candidates:
            async for candidate in candidates:
                yield candidate


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run `works` at once and wait for the last one; an error cancels the others, a spent budget lets them finish."""

    def begin(out: Flow[None]) -> None:
        for work in works:
            out.start(work)

    async with aclosing(flow(begin)) as nothing:
        async for _ in nothing:
            pass
