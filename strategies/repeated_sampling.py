"""Repeated sampling under the conditions of plan search: the baseline that plans must beat.

Wang et al. 2024, "Planning In Natural Language Improves LLM Search For Code Generation" (arXiv 2409.03733), section 5.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from tts.session import Session
from tts.strategies.best_of_n import BestOfN
from tts.strategies.planning.prompts import CODE, PromptsField
from tts.types import Candidate, Problem


class RepeatedSampling(BestOfN):
    """Best-of-N that asks for the answer in the words of `plan_search`, instead of the problem's own."""

    prompts: PromptsField = CODE
    """The set of prompts: `code`, `general`, `lab`, or one of them with some prompts replaced."""

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        return session.verified(session.propose(self.prompts.ask_directly(problem), n=self.n))
