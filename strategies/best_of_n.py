"""Best-of-N: draw N samples independently, keep the one that the verifier rates highest.

Brown et al. 2024, "Large Language Monkeys" (arXiv 2407.21787), section 2; Cobbe et al. 2021 (arXiv 2110.14168).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic import PositiveInt

from tts.base import Estimator, Strategy
from tts.session import Session
from tts.stopping import ScoreRule, drawn, scores_of
from tts.types import Candidate, Problem, Prompt


class BestOfN(Strategy):
    """N independent samples, each verified as it arrives; the best verdict wins, the earliest among equals."""

    needs_verifier = True
    gains = "verdicts"

    n: PositiveInt = 16
    """Samples."""
    stop: ScoreRule | None = None
    """When fewer than `n` samples are enough: `improvement(cost=0.01)`, when one more is not expected to improve the
    best score by what it costs."""

    @property
    def independent(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.stop is None

    @property
    def estimator(self) -> Estimator:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "best_of_k" if self.independent else "replay"

    def prompt(self, problem: Problem) -> Prompt:
        """What every sample answers."""
        return problem.messages

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        def draw(n: int) -> AsyncIterator[Candidate]:
            return session.verified(session.propose(self.prompt(problem), n=n))

        return drawn(session, self.n, self.stop, draw, scores_of)
