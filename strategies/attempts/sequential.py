"""One attempt after another in one conversation: what strategies share that tell the model that it was wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import PositiveInt

from tts.base import Strategy
from tts.concurrency import Flow, flow
from tts.prompting import answer_of
from tts.session import Session
from tts.types import Candidate, Problem, Sample

Turn = dict[str, Any]


class Sequential(Strategy):
    """Attempts until one is accepted; `reply` says what the model is told in between."""

    needs_verifier: ClassVar[bool] = True

    rounds: PositiveInt = 3
    """Attempts at most, in one conversation."""
    chains: PositiveInt = 1
    """Conversations side by side, each on its own."""

    async def reply(
        self, problem: Problem, attempts: Sequence[Candidate], session: Session
    ) -> tuple[str, Sequence[Sample]]:
        """The user's turn after the last of `attempts`, and the samples that it took."""
        raise NotImplementedError

    def check(self, session: Session) -> None:
        """Raise `ConfigError` for what is missing; asked before anything is spent."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Yield every attempt with its verdict, the first ones of all conversations, then the second, ..."""
        self.check(session)

        async def begin_all(out: Flow[Candidate]) -> None:
            async with aclosing(session.sample(_turns(problem), n=self.chains)) as firsts:
                async for first in firsts:
                    out.start(self._converse(problem, session, first, out))

        def begin(out: Flow[Candidate]) -> None:
            out.start(begin_all(out))

        async with aclosing(flow(begin)) as found:
            async for candidate in found:
                yield candidate

    async def _converse(self, problem: Problem, session: Session, first: Sample, out: Flow[Candidate]) -> None:
        turns, attempts, chain = _turns(problem), [], first.index
        sample, told = first, ()
        for number in range(self.rounds):
            candidate = session.candidate(
                sample, *told, parents=attempts[-1:], spawned=(number, chain), round=number + 1, chain=chain
            )
            verdict = await session.verify(candidate)
            candidate = replace(candidate, verdict=verdict, charges=candidate.charges | verdict.charges)
            out.emit(candidate)
            attempts.append(candidate)
            if candidate.passed or number + 1 == self.rounds:
                return
            words, told = await self.reply(problem, attempts, session)
            turns += [{"role": "assistant", "content": answer_of(candidate)}, {"role": "user", "content": words}]
            async with aclosing(session.sample(turns)) as samples:
                following = [sample async for sample in samples]
            if not following:  # the server refused it, say because the conversation is too long; that is noted
                return
            (sample,) = following

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The best verdict; the latest of equals, which knows most."""
        return super().select(candidates[::-1])


def _turns(problem: Problem) -> list[Turn]:
    if isinstance(problem.messages, str):
        return [{"role": "user", "content": problem.messages}]
    return [dict(message) for message in problem.messages]
