"""How sure the model was of its answer, from the log-probabilities that came with it.

Self-certainty: Kang et al. 2025, "Scalable Best-of-N Selection for Large Language Models via Self-Certainty" (arXiv
2502.18581), equation 8: the divergence of the predictions from the uniform distribution, here over the top tokens that
a server reports, and without the constant term. An answer is only as sure as its weakest passage: Fu et al. 2025 (arXiv
2508.15260), section 2, lowest group confidence, by which the strategy `deepconf` stops weak answers early.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import PositiveInt

from tts.base import ScoreVerifier
from tts.confidence import LIKELIEST, confidences_of, lowest_group
from tts.types import Candidate, Problem, Scale, Verdict


class SelfCertainty(ScoreVerifier):
    """Scores by the mean confidence of the answer's tokens; higher is surer."""

    rates_partial: ClassVar[bool] = True
    sampling: ClassVar[Mapping[str, Any]] = LIKELIEST
    scale: ClassVar[Scale | None] = "positive"

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        """The mean over the answer's tokens. Raises `ValueError` where the server gave no `top_logprobs`."""
        confidences = confidences_of(candidate)
        return self.rated(sum(confidences) / len(confidences))


class MinWindowConfidence(ScoreVerifier):
    """Scores by the lowest mean confidence of consecutive tokens."""

    rates_partial: ClassVar[bool] = True
    sampling: ClassVar[Mapping[str, Any]] = LIKELIEST
    scale: ClassVar[Scale | None] = "positive"

    window: PositiveInt = 2048
    """Tokens in a passage; a shorter answer is one passage."""

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        """The weakest passage's mean. Raises `ValueError` where the server gave no `top_logprobs`."""
        return self.rated(lowest_group(confidences_of(candidate), self.window))


class MeanLogprob(ScoreVerifier):
    """Scores by the mean log-probability of a token (nats, at most 0), which does not favour short answers."""

    rates_partial: ClassVar[bool] = True
    sampling: ClassVar[Mapping[str, Any]] = {"logprobs": True}
    scale: ClassVar[Scale | None] = "logprob"

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        """The mean over the answer's tokens. Raises `ValueError` where the server gave no log-probabilities."""
        logprobs = candidate.samples[-1].logprobs if candidate.samples else None
        if not logprobs:
            raise ValueError("the server gave no log-probabilities for this answer")
        return self.rated(sum(logprobs) / len(logprobs))
