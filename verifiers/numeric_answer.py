"""Final answers compared as numbers."""

from __future__ import annotations

from fractions import Fraction

from pydantic import NonNegativeFloat, field_validator

from tts.base import AnswerVerifier
from tts.verifiers.answers.extraction import canonical, final_answers, last_number, parse_number


class NumericAnswer(AnswerVerifier):
    """Accepts an answer that is the same number as the reference, however it is written."""

    tolerance: NonNegativeFloat = 1e-9
    """Largest accepted difference, as a share of the larger of the two, absolute below 1."""
    fallback: bool = True
    """Whether the last number counts where no number is announced as the answer."""

    @field_validator("reference")
    @classmethod
    def _is_number(cls, reference: str | None) -> str | None:
        if reference is not None and _announced(reference) is None:
            raise ValueError(f"{reference[-80:]!r} is no number; for answers of another kind use exact_answer")
        return reference

    def parse(self, text: str) -> str | None:
        """The number announced last, in canonical form (`18`, `0.5`); None when there is none."""
        number = _announced(text)
        if number is None and self.fallback and final_answers(text) is not None:
            number = last_number(text)
        return None if number is None else canonical(number)

    def same(self, one: str, other: str) -> bool:
        """Whether two numbers in canonical form differ by no more than the tolerance."""
        first, second = Fraction(one), Fraction(other)
        return abs(first - second) <= Fraction(self.tolerance) * max(1, abs(first), abs(second))


def _announced(text: str) -> Fraction | None:
    """The last announced answer that is a number; a text of one line may be the answer itself."""
    answers = final_answers(text)
    if answers == [] and "\n" not in text.strip():
        answers = [text]
    return next((number for answer in answers or () if (number := parse_number(answer)) is not None), None)
