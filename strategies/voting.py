"""What strategies share whose samples vote on the answer."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from tts.base import AnswerField, Estimator, Strategy, answer_reader, by_verdict, decided, each_alike, majority, of
from tts.types import Candidate, Problem


class Voting(Strategy):
    """N samples; the most frequent answer wins, answers that mean the same counted together.

    A sample without a parseable answer abstains. Ties go to the answer that was spawned first.
    """

    independent = True

    n: PositiveInt = 16
    """Samples."""
    answer: AnswerField | None = None
    """How answers are parsed and compared; by default the problem's own way."""
    weighted: bool = False
    """Whether a vote counts what the verifier's score is worth (see docs/verifiers.md) instead of one; samples without
    a score do not vote."""

    needs_verifier = of("weighted")

    @property
    def estimator(self) -> Estimator:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "replay" if self.weighted else "majority"

    def ready(self, problem: Problem) -> None:
        answer_reader(problem, self.answer)

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        return majority(candidates, by_verdict if self.weighted else each_alike)

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        return not self.weighted and decided(candidates, self.n)
