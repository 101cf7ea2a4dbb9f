"""Samples made by a draft and a target model together: what such strategies share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable

from pydantic import NonNegativeInt, PositiveInt

from tts.base import answer_reader
from tts.concurrency import Flow, flow
from tts.session import Session
from tts.strategies.speculation.steps import Chain, Speculation
from tts.strategies.voting import Voting
from tts.types import Candidate, Problem

Turn = Callable[[Chain], Awaitable[None]]
"""One round of one sample."""


class Speculative(Voting):
    """Self-consistency among samples that two models write in several rounds each.

    With `target_tokens=0` the draft model works alone, with `draft_tokens=0` the target model: the two controls.
    """

    roles = frozenset({"draft", "target"})
    in_pieces = True

    rounds: PositiveInt = 15
    """Turns of a sample, at most."""
    draft_tokens: NonNegativeInt = 500
    """Most tokens of a draft."""
    target_tokens: NonNegativeInt = 500
    """Most tokens of what the target writes in a turn."""

    @property
    def scores(self) -> bool:
        """Whether drafts are scored by their log-probabilities."""
        return bool(self.draft_tokens and self.target_tokens)

    async def begin(self, speculation: Speculation) -> Turn:
        """What a sample does in each round."""
        raise NotImplementedError(f"{type(self).__name__} must define begin() or grown()")

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """The samples as they are finished, with what was found out about each draft in `notes`."""
        reader, known = answer_reader(problem, self.answer), list[str]()
        grown = self.grown(await Speculation.open(session, reader, scoring=self.scores))
        async for candidate in session.verified(grown) if self.needs_verifier else grown:
            votes = candidate.notes["ended"] not in ("failed", "budget")
            yield await session.classify(candidate, reader, known) if votes else candidate

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
                if chain.answer.samples:
                    out.emit(speculation.candidate(chain))

        async def grow_all(out: Flow[Candidate]) -> None:
            for number in range(self.n):
                out.start(grow(speculation.chain(number), out))

        async for candidate in flow(grow_all):
            yield candidate

    def warning(self, candidates: Iterable[Candidate]) -> str:
        candidates = list(candidates)
        if words := super().warning(candidates):
            return words
        if not (self.draft_tokens and self.target_tokens):
            return ""
        turns = [turn for one in candidates for turn in one.notes.get("turns", ())]
        scored = [turn["rejected"] for turn in turns if "rejected" in turn]  # the budget may come in between
        if any(scored):
            return ""
        found = f"none of {len(scored):,} drafts was rejected" if scored else "no draft was scored"
        return f"{found}: the target wrote nothing, and this is the draft model alone"
