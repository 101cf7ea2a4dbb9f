"""Final answers, compared as text."""

from __future__ import annotations

from tts.base import AnswerVerifier
from tts.prompting import without_thoughts
from tts.verifiers.answers.extraction import clean, final_answers


class ExactAnswer(AnswerVerifier):
    """Accepts an answer that reads like the reference, ignoring emphasis, quotes and a full stop around it."""

    case_sensitive: bool = False
    """Whether upper and lower case matter."""
    bare: bool = True
    """Whether a one-line text that announces no answer is itself the answer."""

    def parse(self, text: str) -> str | None:
        answers = final_answers(text)
        if answers is None:
            return None
        if not answers and self.bare and "\n" not in (said := without_thoughts(text).strip()):
            return clean(said) or None
        return answers[0] if answers else None

    def same(self, one: str, other: str) -> bool:
        return self._fold(one) == self._fold(other)

    def _fold(self, answer: str) -> str:
        return clean(answer) if self.case_sensitive else clean(answer).casefold()
