"""Best-of-N: draw N samples independently, keep the one that the verifier rates highest.

Brown et al. 2024, "Large Language Monkeys" (arXiv 2407.21787), section 2; Cobbe et al. 2021 (arXiv 2110.14168).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import ClassVar

from pydantic import PositiveInt

from tts.base import Estimator, Strategy
from tts.session import Session
from tts.strategies.planning.prompts import PromptsField
from tts.types import Candidate, Problem


class BestOfN(Strategy):
    """N independent samples, each verified as it arrives; the best verdict wins, the earliest among equals."""

    needs_verifier: ClassVar[bool] = True
    estimator: ClassVar[Estimator] = "best_of_k"

    n: PositiveInt = 16
    """Samples."""
    prompts: PromptsField | None = None
    """Asks in the words of a set of `plan_search` (`code`, `general`, ...) instead of the problem's own: repeated
    sampling under the conditions of that strategy."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Yield the samples as their verdicts come."""
        prompt = self.prompts.ask_directly(problem) if self.prompts else None
        async for candidate in session.verified(session.propose(prompt, n=self.n)):
            yield candidate
