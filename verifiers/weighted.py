"""The weighted sum of several verifiers' scores or, where these share no scale, of their ranks (Borda count)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat
from pydantic import model_validator as validates

from tts.base import standing
from tts.curves import mean_ranks
from tts.types import Candidate, Scale, Verdict
from tts.verifiers.composition import Panel, feedback_of, told, with_verdict


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

    @property
    def scale(self) -> Scale | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return super().scale if min(self.shares) >= 0 else "order"

    def combined(self, verdicts: Sequence[Verdict]) -> Verdict:
        scores = [verdict.score for verdict in verdicts]
        score = passed = None
        if None not in scores:
            score = sum(weight * (score or 0.0) for weight, score in zip(self.shares, scores, strict=True))
            passed = None if self.threshold is None else score >= self.threshold
        return Verdict(score, passed, feedback_of(verdicts), told(self.verifiers, verdicts))


class RankFusion(WeightedPanel):
    """Scores by minus Σ weight × rank among the candidates so far.

    Rank 1 is the best; equal verdicts share their mean rank, and what a part could not rate ranks last.
    """

    scale: ClassVar[Scale | None] = "order"  # pyright: ignore[reportIncompatibleMethodOverride]

    @property
    def relative(self) -> bool:
        return True

    def combined(self, verdicts: Sequence[Verdict]) -> Verdict:
        """The verdict on a lone candidate, which every part ranks first."""
        return Verdict(-sum(self.shares), None, feedback_of(verdicts), told(self.verifiers, verdicts))

    def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        rows = self.parts_among(candidates)
        judged = [i for i, row in enumerate(rows) if row]
        sums = np.zeros(len(candidates))
        for place, share in enumerate(self.shares):
            sums[judged] += share * ranks([rows[i][place] for i in judged])
        return [
            with_verdict(candidate, Verdict(-float(sums[i]), details=told(self.verifiers, rows[i])))
            if rows[i]
            else candidate
            for i, candidate in enumerate(candidates)
        ]


def ranks(verdicts: Sequence[Verdict]) -> NDArray[np.float64]:
    """The rank of each verdict, the best being 1, in the order that `tts.base.standing` defines."""
    if not verdicts:
        return np.empty(0)
    _, dense = np.unique(np.array([standing(verdict) for verdict in verdicts]), axis=0, return_inverse=True)
    return mean_ranks(-dense.ravel())
