"""The weighted sum of several verifiers' scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import FiniteFloat
from pydantic import model_validator as validates

from tts.types import Verdict
from tts.verifiers.composition import Panel, feedback_of, told


class WeightedPanel(Panel):
    """A panel whose parts have weights."""

    weights: tuple[FiniteFloat, ...] = ()
    """One for each part; by default equal weights that sum to 1."""

    @validates(mode="after")
    def _one_weight_each(self) -> Self:
        if self.weights and len(self.weights) != len(self.verifiers):
            raise ValueError(f"{len(self.verifiers)} verifiers need as many weights, not {len(self.weights)}")
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """The weight of each part."""
        return self.weights or (1 / len(self.verifiers),) * len(self.verifiers)


class Weighted(WeightedPanel):
    """Scores by Σ weight × score. The parts' scores should share a scale; for those that do not, see `rank_fusion`.

    A candidate that any part cannot rate gets no score.
    """

    threshold: FiniteFloat | None = None
    """The lowest sum at which a candidate is accepted. None: candidates are only ranked."""

    def combined(self, verdicts: Sequence[Verdict]) -> Verdict:
        scores = [verdict.score for verdict in verdicts]
        score = passed = None
        if None not in scores:
            score = sum(weight * (score or 0.0) for weight, score in zip(self.shares, scores, strict=True))
            passed = None if self.threshold is None else score >= self.threshold
        return Verdict(score, passed, feedback_of(verdicts), told(self.verifiers, verdicts))
