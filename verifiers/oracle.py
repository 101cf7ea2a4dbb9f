"""The hidden truth as a verifier: the ceiling of every selection, and never a fair result."""

from __future__ import annotations

from tts.base import Verifier
from tts.session import Session
from tts.types import Candidate, Problem, Verdict


class Oracle(Verifier):
    """Judges as the task's grader does. Every result obtained with it is labelled as such."""

    @property
    def tells_elements(self) -> bool:
        return True  # as far as can be known before the truth is asked

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """The verdict of the task's truth. Raises `ConfigError` where there is none."""
        return await session.consult_truth(candidate)
