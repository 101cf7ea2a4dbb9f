"""Answers to multiple-choice questions, compared by their letters."""

from __future__ import annotations

import re

from pydantic import field_validator

from tts.base import AnswerVerifier
from tts.verifiers.answers.extraction import clean, final_answers

_LETTER = re.compile(
    r"(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)?\s*(?:is\s+)?"
    r"[\[({*_$]*(?:\\(?:text|mathrm|textbf|mathbf)\{)?[\[(]?(?P<letter>[A-Za-z])[\])}*_$]*\s*(?:[.:,;)\-]|$)",
    re.IGNORECASE,
)
_LAST_LINE = re.compile(r"(?:^|\n)\W*([A-Z])\W*\Z|\(([A-Z])\)[^()\n]*\Z")


class Choice(AnswerVerifier):
    """Accepts an answer that names the reference's letter or repeats its option."""

    letters: str = "ABCD"
    """The letters in use, in order."""
    options: tuple[str, ...] = ()
    """The options that the letters stand for; an answer may repeat its option instead."""

    @field_validator("reference")
    @classmethod
    def _is_letter(cls, reference: str | None) -> str | None:
        if reference is not None and not re.fullmatch(r"\(?[A-Za-z]\)?", reference.strip()):
            raise ValueError(f"{reference!r} is not a letter; give that of the right option")
        return reference

    def parse(self, text: str) -> str | None:
        """The letter announced last, else one that stands alone in the last line; None if there is none."""
        answers = final_answers(text)
        if answers is None:
            return None
        if not answers and "\n" not in text.strip():
            answers = [text]
        for answer in answers:
            if letter := self._letter(clean(answer)):
                return letter
        alone = _LAST_LINE.search(text.rstrip()[-200:])
        return self._known(alone[1] or alone[2]) if alone else None

    def _letter(self, answer: str) -> str | None:
        for letter, option in zip(self.letters, self.options, strict=False):
            if clean(option).casefold() == answer.casefold():
                return letter
        match = _LETTER.match(answer)
        return self._known(match["letter"]) if match else None

    def _known(self, letter: str) -> str | None:
        return letter.upper() if letter.upper() in self.letters.upper() else None
