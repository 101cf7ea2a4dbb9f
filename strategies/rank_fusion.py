"""Best-of-N by several verifiers whose scores cannot be added: their ranks are.

The sum over verifiers of weight × rank is a weighted Borda count. A rank depends on all candidates, so fusing is a
rule of selection and not a verifier.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, PositiveInt
from pydantic import model_validator as validates

from tts.base import Strategy, VerifierField, standing
from tts.curves.ranks import mean_ranks
from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.weighted import Weighted


class RankFusion(Strategy):
    """N independent samples, each rated by all verifiers; the lowest Σ weight × rank wins, the earliest among equals.

    Rank 1 is the best; equal scores share the mean of their ranks, and a verifier's missing score ranks last.
    """

    n: PositiveInt = 16
    """Samples."""
    verifiers: tuple[VerifierField, ...] = Field(min_length=1)
    """Whose ranks are fused: `[unit_tests, regex(pattern="def ")]`."""
    weights: tuple[FiniteFloat, ...] = ()
    """One for each verifier; equal by default."""

    @validates(mode="after")
    def _one_weight_each(self) -> Self:
        self._panel()
        return self

    def _panel(self) -> Weighted:
        return Weighted(verifiers=self.verifiers, weights=self.weights)

    @property
    def roles(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The policy, and what the verifiers sample from."""
        return frozenset({"policy"}) | self._panel().roles

    def ready(self, problem: Problem) -> None:
        """Every verifier must be able to judge."""
        self._panel().ready(problem)

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Yield the samples as their verdicts come."""
        async for candidate in session.verified(session.propose(n=self.n), self._panel()):
            yield candidate

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The candidate with the lowest sum."""
        if not candidates:
            return None
        sums = np.zeros(len(candidates))
        for i, weight in enumerate(self.weights or [1.0] * len(self.verifiers)):
            sums += weight * ranks([_part(candidate, i) for candidate in candidates])
        return candidates[int(np.argmin(sums))]

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        """Every further candidate may change the ranks."""
        return False


def ranks(verdicts: Sequence[Verdict | None]) -> NDArray[np.float64]:
    """Rank of each verdict, the best being 1, in the order that `tts.base.standing` defines."""
    _, dense = np.unique(np.array([standing(verdict) for verdict in verdicts]), axis=0, return_inverse=True)
    return mean_ranks(-dense.ravel())


def _part(candidate: Candidate, number: int) -> Verdict | None:
    """What the verifier of that number said of `candidate`."""
    if candidate.verdict is None or "parts" not in candidate.verdict.details:
        return None
    part = candidate.verdict.details["parts"][number]
    return Verdict(part["score"], part["passed"])
