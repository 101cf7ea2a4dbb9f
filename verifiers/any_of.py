"""Several verifiers, one of which must accept."""

from __future__ import annotations

from collections.abc import Sequence

from tts.types import Verdict
from tts.verifiers.composition import Panel, feedback_of, told


class AnyOf(Panel):
    """Accepts what any part accepts and refuses what all parts refuse; the score is the highest.

    Where no part accepts and some do not decide, it does not decide either.
    """

    def combined(self, verdicts: Sequence[Verdict]) -> Verdict:
        decisions = [verdict.passed for verdict in verdicts]
        passed = True if True in decisions else None if None in decisions else False
        score = max((verdict.score for verdict in verdicts if verdict.score is not None), default=None)
        feedback = "" if passed else feedback_of(verdicts)
        return Verdict(score, passed, feedback, told(self.verifiers, verdicts))
