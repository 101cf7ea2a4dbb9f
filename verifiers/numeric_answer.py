"""Final answers, compared as numbers."""

from __future__ import annotations

from fractions import Fraction

from pydantic import NonNegativeFloat, field_validator

from tts.base import AnswerVerifier
from tts.prompting import without_thoughts
from tts.verifiers.answers.extraction import (
    canonical,
    final_answers,
    has_digits,
    last_number,
    own_part,
    parse_number,
    stated_number,
)


class NumericAnswer(AnswerVerifier):
    """Accepts an answer that is the same number as the reference, however it is written."""

    tolerance: NonNegativeFloat | None = None
    """Largest accepted difference, relative to the larger of the two numbers, absolute below 1. By default numbers must
    agree to nine digits, however small they are."""
    fallback: bool = True
    """Whether the last number counts if no number is announced as the answer."""

    @field_validator("reference")
    @classmethod
    def _is_number(cls, reference: str | None) -> str | None:
        if reference is not None and _announced(reference, final_answers(reference)) is None:
            raise ValueError(f"{reference[-80:]!r} is not a number; for other kinds of answers use exact_answer")
        return reference

    def parse(self, text: str) -> str | None:
        """The number announced last, in canonical form (`18`, `0.5`); None if there is none.

        Where an answer is announced that has numbers in it but does not state one, no other number is taken for it.
        """
        answers = final_answers(text)
        number = _announced(text, answers)
        if number is None and self.fallback and answers is not None and not any(map(has_digits, answers)):
            number = last_number(own_part(text))
        return None if number is None else canonical(number)

    def same(self, one: str, other: str) -> bool:
        first, second = map(_exact, (one, other))
        gap, size = abs(first - second), max(abs(first), abs(second))
        return gap * 10**9 <= size if self.tolerance is None else gap <= Fraction(self.tolerance) * max(1, size)


def _exact(number: str) -> int | Fraction:
    return int(number) if number.removeprefix("-").isdigit() else Fraction(number)


def _announced(text: str, answers: list[str] | None) -> Fraction | None:
    """The announced answer that is a number; a one-line text may itself be the answer."""
    if answers == [] and "\n" not in text.strip():
        return parse_number(without_thoughts(text))
    return next((number for answer in answers or () if (number := stated_number(answer)) is not None), None)
