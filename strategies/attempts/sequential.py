"""One attempt after another in one conversation, for strategies that tell the model it was wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from pydantic import PositiveInt

from tts.base import Strategy, best
from tts.concurrency import Flow, flow
from tts.prompting import answer_of
from tts.session import Session
from tts.types import Candidate, Problem, Sample


class Sequential(Strategy):
    """Attempts until one is accepted; `reply` makes what the model is told in between."""

    needs_verifier = True

    rounds: PositiveInt = 3
    """Attempts at most, in one conversation."""
    chains: PositiveInt = 1
    """Independent conversations, side by side."""

    async def reply(
        self, problem: Problem, attempts: Sequence[Candidate], session: Session
    ) -> tuple[str, Sequence[Sample]]:
        """The user's turn after the last of `attempts`, and the samples that it took; empty: nothing to say."""
        raise NotImplementedError

    def check(self, session: Session) -> None:
        """Raise `ConfigError` for what is missing; asked before anything is spent."""

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Every attempt with its verdict, the first ones of all conversations, then the second, ..."""
        self.check(session)

        async def converse_all(out: Flow[Candidate]) -> None:
            async for first in session.sample(problem.turns, n=self.chains):
                out.start(self._converse(problem, session, first, out))

        return flow(converse_all)

    async def _converse(self, problem: Problem, session: Session, first: Sample, out: Flow[Candidate]) -> None:
        turns, attempts = problem.turns, list[Candidate]()
        sample: Sample | None = first
        told: Sequence[Sample] = ()
        for number in range(self.rounds):
            candidate = session.candidate(
                sample,
                *told,
                parents=attempts[-1:],
                spawned=(number, first.index),
                round=number + 1,
                chain=first.index,
            )
            if session.verifier is not None:
                candidate = await session.judged(candidate)
            out.emit(candidate)
            attempts.append(candidate)
            if candidate.passed or number + 1 == self.rounds:
                return
            words, told = await self.reply(problem, attempts, session)
            if not words:  # what it took to know that belongs to this attempt
                out.emit(replace(candidate, charges=candidate.charges.union(*(one.charges for one in told))))
                return
            turns += [{"role": "assistant", "content": answer_of(candidate)}, {"role": "user", "content": words}]
            if (sample := await session.one(turns)) is None:  # say because the conversation is too long; it is noted
                return

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The best verdict; the latest among equals, which knows most."""
        return best(candidates[::-1])
