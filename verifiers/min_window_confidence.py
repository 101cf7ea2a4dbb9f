"""An answer is only as sure as its weakest passage (Fu et al. 2025, arXiv 2508.15260, section 2: lowest group
confidence). The strategy `deepconf` stops weak answers by it while they are being written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import PositiveInt

from tts.base import ScoreVerifier
from tts.confidence import LIKELIEST, confidences_of, lowest_group
from tts.types import Candidate, Problem, Verdict


class MinWindowConfidence(ScoreVerifier):
    """Scores by the lowest mean confidence of consecutive tokens."""

    sampling: ClassVar[Mapping[str, Any]] = LIKELIEST

    window: PositiveInt = 2048
    """Tokens in a passage; a shorter answer is one passage."""

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        """The weakest passage's mean. Raises `ValueError` where the server gave no `top_logprobs`."""
        return self.rated(lowest_group(confidences_of(candidate), self.window))
