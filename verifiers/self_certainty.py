"""How far the model's predictions were from a blind guess, over the whole answer.

Kang et al. 2025, "Scalable Best-of-N Selection for Large Language Models via Self-Certainty" (arXiv 2502.18581),
equation 8: the divergence of the predictions from the uniform distribution, here over the top tokens that a server
reports, and without the constant term.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tts.base import ScoreVerifier
from tts.confidence import LIKELIEST, confidences_of
from tts.types import Candidate, Problem, Verdict


class SelfCertainty(ScoreVerifier):
    """Scores by the mean confidence of the answer's tokens; higher is surer."""

    sampling: ClassVar[Mapping[str, Any]] = LIKELIEST

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        """The mean over the answer's tokens. Raises `ValueError` where the server gave no `top_logprobs`."""
        confidences = confidences_of(candidate)
        return self.rated(sum(confidences) / len(confidences))
