"""Resample until the verifier accepts, at most K times.

Stroebl et al. 2024, "Inference Scaling fLaws" (arXiv 2411.17501), section 2: with an imperfect verifier the
conditional accuracy of what is accepted, not K, bounds the result.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from pydantic import PositiveInt

from tts.base import Strategy
from tts.session import Session
from tts.types import Candidate, Problem


class FirstPass(Strategy):
    """Samples one batch after another until one is accepted."""

    needs_verifier = True

    k: PositiveInt = 16
    """Samples at most."""
    batch: PositiveInt = 1
    """Samples drawn at once: larger is faster, and pays for more than it needs."""
    abstain: bool = True
    """Whether to give no answer when none was accepted; otherwise the best-rated one."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        for begin in range(0, self.k, self.batch):
            accepted = False
            async for candidate in session.verified(session.propose(n=min(self.batch, self.k - begin))):
                accepted |= candidate.passed
                yield candidate
            if accepted:
                return

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        accepted = next((candidate for candidate in candidates if candidate.passed), None)
        return accepted if accepted or self.abstain else super().select(candidates)
