"""How likely the answer is, per token, to the model that gave it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tts.base import ScoreVerifier
from tts.types import Candidate, Problem, Verdict


class MeanLogprob(ScoreVerifier):
    """Scores by the mean log-probability of a token (nats, at most 0), which does not favour short answers."""

    sampling: ClassVar[Mapping[str, Any]] = {"logprobs": True}

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        """The mean over the answer's tokens. Raises `ValueError` where the server gave no log-probabilities."""
        logprobs = candidate.samples[-1].logprobs if candidate.samples else None
        if not logprobs:
            raise ValueError("the server gave no log-probabilities for this answer")
        return self.rated(sum(logprobs) / len(logprobs))
