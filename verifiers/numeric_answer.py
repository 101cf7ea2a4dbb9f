"""Final answers compared as numbers."""

from __future__ import annotations

from fractions import Fraction

from pydantic import NonNegativeFloat, field_validator

from tts.base import AnswerVerifier
from tts.verifiers.extraction import canonical, final_answers, last_number, parse_number


class NumericAnswer(AnswerVerifier):
    """Accepts an answer that is the same number as the reference, however it is written."""

    tolerance: NonNegativeFloat = 1e-9
    """Largest accepted difference, as a share of the larger of the two, absolute below 1."""
    fallback: bool = True
    """Whether the last number counts where no number is announced as the answer."""

    @field_validator("reference")
    @classmethod
    def _is_number(cls, reference: str | None) -> str | None:
        if reference is not None and not any(map(parse_number, [reference, *(final_answers(reference) or ())])):
            raise ValueError(f"{reference[-80:]!r} is no number; for answers of another kind use exact_answer")
        return reference

    def parse(self, text: str) -> str | None:
        """The number announced last, in canonical form (`18`, `0.5`); None when there is none."""
        answers = final_answers(text)
        if answers is None:
            return None
        number = next((number for answer in answers if (number := parse_number(answer)) is not None), None)
        if number is None and self.fallback:
            number = last_number(text)
        return None if number is None else canonical(number)

    def same(self, one: str, other: str) -> bool:
        """Whether two numbers in canonical form differ by no more than the tolerance."""
        first, second = Fraction(one), Fraction(other)
        return abs(first - second) <= Fraction(self.tolerance) * max(1, abs(first), abs(second))
