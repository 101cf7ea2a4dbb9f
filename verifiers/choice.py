"""Answers to multiple-choice questions, compared by their letters."""

from __future__ import annotations

import re

from pydantic import field_validator

from tts.base import AnswerVerifier
from tts.verifiers.answers.extraction import clean, final_answers, own_part

_HEDGES = (
    r"(?:(?:(?:the|most|likely|probably|clearly|definitely|certainly|therefore|thus|indeed|simply|correct|right|best|"
    r"final|option|choice|answer|letter|statement|alternative|number|is|would|must|be|die|der|la|el|le|opción|opcion|"
    r"antwort|réponse)(?![A-Za-z])|选项|選項|选择|选|项|为|是)[\s:：]{0,3}){0,8}"
)
_LETTER = re.compile(
    rf"(?:{_HEDGES}[\[({{*_$\"'“]*(?:\\(?:text(?:bf|rm|it)?|math(?:rm|bf)|bm|boldsymbol)\s?\{{)?[\[({{*_]*)"
    r"(?P<letter>[A-Za-z])(?![A-Za-z0-9'’])(?P<after>[\])}*_$\"'”]*)\s*(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_SECOND = re.compile(
    r"(?:,|/|&|and\b|or\b|und\b|oder\b|et\b|ou\b|y\b|o\b|和|或|、)\s*[\[({*_]{0,3}[A-Za-z](?![A-Za-z'’])"
)
_CLOSES = re.compile(r"[.:,;)\]}\-–—=(（。，：；、\\]|$|[^\x00-\x7f]")
_REASON = re.compile(
    r"(?:because|since|as|for|due|which|where|that|with|by|in|from|given|so|is|weil|denn|da|porque|car)\b", re.I
)
_ENCLOSED = re.compile(
    r"[(（\[]\s?([A-Za-z])\s?[)）\]]|\*\*\s?([A-Z])\s?\*\*|[,:]\s(?:i\.e\.,?\s|namely\s|option\s)?([B-HJ-Z])\W*\Z"
)
_LAST_LINE = re.compile(r"(?:^|\n)\W*([A-Z])\W*\Z|\(([A-Z])\)[^()\n]*\Z")
_WORDS = "AI"
"""Letters that are words as well, so that they need more than a word behind them to be choices."""


class Choice(AnswerVerifier):
    """Accepts an answer that names the reference's letter or repeats its option.

    Words may follow the letter (`B because ...`, `B (12 m/s)`). An answer that names two letters names none.
    """

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
        text = own_part(text)
        if not answers and "\n" not in text.strip():
            answers = [text]
        for answer in answers:
            if letter := self._letter(clean(answer[:1000])):
                return letter
        alone = _LAST_LINE.search(text.rstrip()[-200:])
        return self._known(alone[1] or alone[2]) if alone else None

    def _letter(self, answer: str) -> str | None:
        for letter, option in zip(self.letters, self.options, strict=False):
            if _folded(option) == _folded(answer):
                return letter
        match = _LETTER.match(answer)
        if match and self._stands_alone(match):
            return None if _SECOND.match(match["rest"]) else self._known(match["letter"])
        enclosed = {(one[1] or one[2] or one[3]).upper() for one in _ENCLOSED.finditer(answer)}
        return self._known(enclosed.pop()) if len(enclosed) == 1 else None

    def _stands_alone(self, match: re.Match[str]) -> bool:
        """Whether the letter is a choice, and no word of a sentence."""
        letter, rest = match["letter"], match["rest"]
        if _CLOSES.match(match["after"] + rest) or _SECOND.match(rest):
            return True
        if letter in _WORDS or letter.islower():
            return bool(_REASON.match(rest)) and letter.isupper()
        return True

    def _known(self, letter: str) -> str | None:
        return letter.upper() if letter.upper() in self.letters.upper() else None


def _folded(option: str) -> str:
    return clean(option).casefold().removeprefix("the ")
