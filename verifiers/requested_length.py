"""Whether a text is as long as it was to be.

Bai et al. 2024, "LongWriter" (arXiv 2408.07055), section 2.3: the length score of LongBench-Write, here from 0 to 1.
"""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import PositiveInt

from tts.base import ScoreVerifier
from tts.errors import ConfigError
from tts.prompting import answer_of, problem_text
from tts.types import Candidate, Problem, Scale, Verdict

ASKED = re.compile(r"(\d{1,3}(?:[,.]\d{3})+|\d+)[ -]?words?\b", re.IGNORECASE)


class RequestedLength(ScoreVerifier):
    """Scores by how near the number of words is to what was asked for: 1 there, 0 at a third of it or four times it."""

    scale: ClassVar[Scale | None] = "positive"

    words: PositiveInt | None = None
    """Words asked for. None: the first number of words that the problem names, `a 2,000-word essay`."""

    def wanted(self, problem: Problem) -> int | None:
        """How many; None where nobody says."""
        if self.words is not None:
            return self.words
        found = ASKED.search(problem_text(problem))
        return (int(re.sub("[,.]", "", found[1])) or None) if found else None

    def ready(self, problem: Problem) -> None:
        if self.wanted(problem) is None:
            raise ConfigError(f"{problem.id} does not say how many words; set requested_length:words=...")

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        wanted, got = self.wanted(problem), len(answer_of(candidate).split())
        assert wanted is not None
        off = (got / wanted - 1) / 3 if got > wanted else (wanted / max(got, 1e-9) - 1) / 2
        return self.rated(max(0.0, 1 - off), f"it has {got} words instead of {wanted}" if off else "", words=got)
