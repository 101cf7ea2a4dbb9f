"""The scores of several verifiers added up."""

from __future__ import annotations

from typing import Self

from pydantic import FiniteFloat
from pydantic import model_validator as validates

from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.composite import Panel, feedback_of, told


class Weighted(Panel):
    """Σ weight × score. The parts' scores should share a scale; for those that do not, see the strategy `rank_fusion`.

    A candidate that some part cannot rate has no score.
    """

    weights: tuple[FiniteFloat, ...] = ()
    """One for each part; equal shares of 1 by default."""
    threshold: FiniteFloat | None = None
    """The sum from which on a candidate is accepted; without it, it is only ranked."""

    @validates(mode="after")
    def _one_weight_each(self) -> Self:
        if self.weights and len(self.weights) != len(self.verifiers):
            raise ValueError(f"{len(self.verifiers)} verifiers need as many weights, not {len(self.weights)}")
        return self

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Ask all parts, side by side."""
        verdicts = await self.verdicts(candidate, session)
        weights = self.weights or [1 / len(self.verifiers)] * len(self.verifiers)
        scores = [verdict.score for verdict in verdicts]
        score = passed = None
        if None not in scores:
            score = sum(weight * (score or 0.0) for weight, score in zip(weights, scores, strict=True))
            passed = None if self.threshold is None else score >= self.threshold
        return Verdict(score, passed, feedback_of(verdicts), told(self.verifiers, verdicts))
