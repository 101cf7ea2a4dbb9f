"""Best-of-N: draw N samples independently, keep the one that the verifier rates highest.

Brown et al. 2024, "Large Language Monkeys" (arXiv 2407.21787), section 2; Cobbe et al. 2021 (arXiv 2110.14168).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic import PositiveInt

from tts.base import Strategy
from tts.session import Session
from tts.types import Candidate, Problem


class BestOfN(Strategy):
    """N independent samples, each verified as it arrives; the best verdict wins, the earliest among equals."""

    needs_verifier = True
    independent = True
    estimator = "best_of_k"

    n: PositiveInt = 16
    """Samples."""

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        return session.verified(session.propose(n=self.n))
