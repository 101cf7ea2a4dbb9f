"""Repeated sampling under the conditions of plan search: the baseline that plans must beat.

Wang et al. 2024, "Planning In Natural Language Improves LLM Search For Code Generation" (arXiv 2409.03733), section 5.
"""

from __future__ import annotations

from tts.strategies.best_of_n import BestOfN
from tts.strategies.planning.prompts import CODE, PromptsField
from tts.types import Problem, Prompt


class RepeatedSampling(BestOfN):
    """Best-of-N that asks for the answer in the words of `plan_search`, instead of the problem's own."""

    prompts: PromptsField = CODE
    """The set of prompts: `code`, `general`, `lab`, or one of them with some prompts replaced."""

    def prompt(self, problem: Problem) -> Prompt:
        return self.prompts.ask_directly(problem)
