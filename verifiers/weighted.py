"""The scores of several verifiers added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import FiniteFloat
from pydantic import model_validator as validates

from tts.types import Verdict
from tts.verifiers.composition.parts import Panel, feedback_of, told


class WeightedPanel(Panel):
    """A panel whose parts have weights."""

    weights: tuple[FiniteFloat, ...] = ()
    """One for each part; equal shares of 1 by default."""

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
    """Σ weight × score. The parts' scores should share a scale; for those that do not, see `rank_fusion`.

    A candidate that some part cannot rate has no score.
    """

    threshold: FiniteFloat | None = None
    """The sum from which on a candidate is accepted; without it, it is only ranked."""

    def combined(self, verdicts: Sequence[Verdict]) -> Verdict:
        """The weighted sum."""
        scores = [verdict.score for verdict in verdicts]
        score = passed = None
        if None not in scores:
            score = sum(weight * (score or 0.0) for weight, score in zip(self.shares, scores, strict=True))
            passed = None if self.threshold is None else score >= self.threshold
        return Verdict(score, passed, feedback_of(verdicts), told(self.verifiers, verdicts))
