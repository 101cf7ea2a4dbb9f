"""Samples until so many are accepted, which measures success rates however small they are.

Hu et al. 2023, "Predicting Emergent Abilities with Infinite Resolution Evaluation" (PassUntil, arXiv 2310.03262). With
r passes and K draws the unbiased estimate is (r - 1) / (K - 1) (`tts.curves.pass_until`), so r is 2 at least.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from pydantic import Field, PositiveInt

from tts.base import Strategy
from tts.session import Session
from tts.stopping import Evidence, Stopping, drawn
from tts.types import Candidate, Problem


class PassUntil(Strategy):
    """Draws until the verifier has accepted so many samples; the first accepted one is the answer.

    The study `scale` estimates success rates from it, and fits them to the sizes of models.
    """

    needs_verifier = True
    gains = "rates"

    passes: int = Field(default=2, ge=2)
    """Accepted samples at which it ends: the relative error is about 1 / sqrt(passes)."""
    n: PositiveInt = 1000
    """Samples at most."""
    batch: PositiveInt = 8
    """Samples drawn at once; what is drawn beyond the last pass is paid, and does not count."""

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        def draw(n: int) -> AsyncIterator[Candidate]:
            return session.verified(session.propose(n=n))

        rule = EnoughPasses(passes=self.passes, batch=self.batch)
        return drawn(session, self.n, rule, draw, lambda found: [candidate.passed for candidate in found])

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        return False


class EnoughPasses(Stopping):
    """Stops with so many accepted samples."""

    passes: PositiveInt
    batch: PositiveInt

    def more(self, evidence: Evidence, n: int) -> int:
        """As many as are missing, and a batch at least."""
        missing = self.passes - sum(evidence)
        return min(max(missing, self.batch), n - len(evidence)) if missing > 0 else 0
