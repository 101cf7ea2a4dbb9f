"""The share of all candidates that give the same answer: confidence without a verifier.

Wang et al. 2022 (arXiv 2203.11171) show that it grows with accuracy. Selecting by it is the majority vote of
`self_consistency`; as a verifier it combines with other strategies and ratings.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from tts.base import AnswerField, AnswerVerifier, ScoreVerifier, answer_classes, answer_reader
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict


class Agreement(ScoreVerifier):
    """Scores a candidate by its answer's share of the votes; one without a readable answer gets no score."""

    scale: ClassVar[Scale | None] = "positive"

    answer: AnswerField | None = None
    """How answers are parsed and compared; by default as the problem says."""

    def ready(self, problem: Problem) -> None:
        answer_reader(problem, self.answer)

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """The answer it votes for, in `details`; alone it agrees with itself."""
        found = await answer_among(session, candidate, answer_reader(problem, self.answer))
        return Verdict(None) if found["answer"] is None else self.rated(1.0, **found)

    def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        votes = answer_classes([c.verdict.details if c.verdict is not None else {} for c in candidates])
        count = Counter(vote for vote in votes if vote is not None)
        return [
            candidate if vote is None else self.rescored(candidate, count[vote] / count.total())
            for candidate, vote in zip(candidates, votes, strict=True)
        ]


async def answer_among(session: Session, candidate: Candidate, reader: AnswerVerifier) -> dict[str, Any]:
    """The candidate's answer among those of all candidates of the search so far, as `Session.compared` gives it."""
    known, one_by_one = await session.once(("answers", reader.spec), _no_answers)
    async with one_by_one:
        return await session.compared(candidate.content, reader, known)


async def _no_answers(session: Session) -> tuple[list[str], asyncio.Lock]:
    return [], asyncio.Lock()
