"""Several verifiers whose scores cannot be added: their ranks are, in a weighted Borda count."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tts.base import standing
from tts.curves import mean_ranks
from tts.types import Candidate, Verdict
from tts.verifiers.composition.parts import feedback_of, told, with_verdict
from tts.verifiers.weighted import WeightedPanel


class RankFusion(WeightedPanel):
    """Scores by minus Σ weight × rank among the candidates so far.

    Rank 1 is the best; equal verdicts share the mean of their ranks, and what a part could not rate ranks last.
    """

    @property
    def relative(self) -> bool:
        """A rank depends on all candidates."""
        return True

    def combined(self, verdicts: Sequence[Verdict]) -> Verdict:
        """Alone it ranks first with every part."""
        return Verdict(-sum(self.shares), None, feedback_of(verdicts), told(self.verifiers, verdicts))

    def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Each with its ranks added up."""
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
    """Rank of each verdict, the best being 1, in the order that `tts.base.standing` defines."""
    if not verdicts:
        return np.empty(0)
    _, dense = np.unique(np.array([standing(verdict) for verdict in verdicts]), axis=0, return_inverse=True)
    return mean_ranks(-dense.ravel())
