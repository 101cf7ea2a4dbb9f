"""Several verifiers that must all accept."""

from __future__ import annotations

from collections.abc import Sequence

from tts.types import Verdict
from tts.verifiers.composition.parts import Panel, feedback_of, told


class AllOf(Panel):
    """Refuses what any part refuses, accepts what all accept; the score is the lowest.

    Where no part refuses and some do not decide, neither does it; without a score of every part it has none.
    """

    def combined(self, verdicts: Sequence[Verdict]) -> Verdict:
        """The conjunction of the decisions."""
        decisions, scores = [verdict.passed for verdict in verdicts], [verdict.score for verdict in verdicts]
        passed = False if False in decisions else None if None in decisions else True
        score = None if None in scores else min(score for score in scores if score is not None)
        refusals = [verdict for verdict in verdicts if verdict.passed is False]
        return Verdict(score, passed, feedback_of(refusals or verdicts), told(self.verifiers, verdicts))
