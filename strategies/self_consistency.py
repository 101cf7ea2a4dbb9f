"""Self-consistency: majority vote over parsed final answers (Wang et al. 2022, arXiv 2203.11171).

Weighted by a verifier's scores it is the weighted best-of-N of Li et al. 2022 (arXiv 2206.02336).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import ClassVar

from pydantic import PositiveInt

from tts.base import AnswerField, Estimator, Strategy, answer_reader
from tts.session import Session
from tts.types import Candidate, Problem


class SelfConsistency(Strategy):
    """N independent samples; the most frequent answer wins, answers that mean the same counted together.

    A sample without a parseable answer abstains. Ties go to the answer that was spawned first.
    """

    estimator: ClassVar[Estimator] = "majority"

    n: PositiveInt = 16
    """Samples."""
    answer: AnswerField | None = None
    """How answers are parsed and compared; the problem's own way by default."""
    weighted: bool = False
    """Whether a vote counts the verifier's score instead of one; samples without a score do not vote."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Yield the samples, each with its parsed answer in `notes`."""
        async for voter in self.voters(session.propose(n=self.n), session, []):
            yield voter

    async def voters(
        self, candidates: AsyncGenerator[Candidate, None], session: Session, known: list[str]
    ) -> AsyncIterator[Candidate]:
        """`candidates` with the class of answers that each votes for; `known` are the classes there are already."""
        reader = answer_reader(session.problem, self.answer)
        async with aclosing(session.verified(candidates) if self.weighted else candidates) as arriving:
            async for candidate in arriving:
                yield await session.classified(candidate, reader, known)

    def ready(self, problem: Problem) -> None:
        """Answers must be readable, and a weighted vote needs weights."""
        answer_reader(problem, self.answer)

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The first spawned candidate of the class with the most votes; None when nobody votes."""
        votes, first = self._count(candidates)
        return first[max(votes, key=lambda answer: votes[answer])] if votes else None

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        """Whether the remaining votes cannot change the winner."""
        if self.weighted:
            return False
        votes = sorted(self._count(candidates)[0].values(), reverse=True)
        lead = votes[0] - (votes[1] if len(votes) > 1 else 0) if votes else 0
        return lead > self.n - len(candidates)

    def _count(self, candidates: Sequence[Candidate]) -> tuple[dict[str, float], dict[str, Candidate]]:
        """Votes of each class of answers, and its first candidate, both in spawned order."""
        votes: dict[str, float] = {}
        first: dict[str, Candidate] = {}
        for candidate in sorted(candidates, key=lambda candidate: candidate.spawned):
            answer, weight = candidate.notes.get("answer"), self._weight(candidate)
            if answer is None or weight is None:
                continue
            votes[answer] = votes.get(answer, 0.0) + weight
            first.setdefault(answer, candidate)
        return votes, first

    def _weight(self, candidate: Candidate) -> float | None:
        if not self.weighted:
            return 1.0
        return candidate.verdict.score if candidate.verdict is not None else None
