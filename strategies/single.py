"""One sample, taken as it is: the baseline of every curve."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from tts.base import Strategy
from tts.session import Session
from tts.types import Candidate, Problem


class Single(Strategy):
    """One sample, no verification."""

    @property
    def most_samples(self) -> int:
        return 1

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        return session.propose(n=1)

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        return candidates[0] if candidates else None
