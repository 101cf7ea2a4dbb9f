"""Several verifiers, all or any of which must accept."""

from __future__ import annotations

from collections.abc import Sequence

from tts.types import Verdict
from tts.verifiers.composition import Panel, feedback_of, told


class AllOf(Panel):
    """Refuses what any part refuses and accepts what all parts accept; the score is the lowest.

    Where no part refuses and some do not decide, it does not decide either. If any part gives no score, it gives none.
    """

    def combined(self, verdicts: Sequence[Verdict]) -> Verdict:
        decisions, scores = [verdict.passed for verdict in verdicts], [verdict.score for verdict in verdicts]
        passed = False if False in decisions else None if None in decisions else True
        score = None if None in scores else min(score for score in scores if score is not None)
        refusals = [verdict for verdict in verdicts if verdict.passed is False]
        return Verdict(score, passed, feedback_of(refusals or verdicts), told(self.verifiers, verdicts))


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
