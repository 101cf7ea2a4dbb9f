"""Several verifiers that must all accept."""

from __future__ import annotations

from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.composite import Panel, feedback_of, told


class AllOf(Panel):
    """Refuses what any part refuses, accepts what all accept; the score is the lowest.

    Where no part refuses and some do not decide, neither does it; without a score of every part it has none.
    """

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Ask all parts, side by side."""
        verdicts = await self.verdicts(candidate, session)
        decisions, scores = [verdict.passed for verdict in verdicts], [verdict.score for verdict in verdicts]
        passed = False if False in decisions else None if None in decisions else True
        score = None if None in scores else min(score for score in scores if score is not None)
        refusals = [verdict for verdict in verdicts if verdict.passed is False]
        return Verdict(score, passed, feedback_of(refusals or verdicts), told(self.verifiers, verdicts))
