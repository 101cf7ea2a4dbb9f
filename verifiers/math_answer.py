"""Final answers, compared as mathematics: part by part and as numbers, and by math-verify (extra `math`) where that
takes algebra. See `answers.math_forms` for what is read, `answers.algebra` for how hostile expressions are contained.
"""

from __future__ import annotations

import re
from time import monotonic
from typing import Any

from tts.base import AnswerVerifier
from tts.session import Session
from tts.verifiers.answers.algebra import MathEquality, require_math_verify
from tts.verifiers.answers.extraction import LONGEST_ANSWER, canonical, final_answers, last_number
from tts.verifiers.answers.math_forms import LONGEST_READ, equal_forms, normal, read

_BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}")
_BETWEEN = re.compile(r"[\s$.]*(?:,|;|and|or|\\text\{ ?(?:and|or) ?\}|,\s*and)[\s$]*")
_FORMULA = re.compile(r"\$\$?([^$]{1,500})\$\$?|\\\[(.{1,500}?)\\\]|\\\((.{1,500}?)\\\)", re.DOTALL)


class MathAnswer(AnswerVerifier):
    """Accepts an answer that means the same as the reference.

    Compares fractions, radicals and any algebra; tuples and intervals with their brackets; sets and lists in any order;
    and matrices. A unit, a percent sign or the name in `x = 3` may be missing but must not differ. Several adjacent
    boxes form one list. A decimal must agree to six places. Answers that cannot be compared within a second of CPU time
    count as different.
    """

    fallback: bool = True
    """Whether the last formula, or else the last number, counts if no answer is announced."""

    def model_post_init(self, context: Any) -> None:
        """Raise `MissingExtra` if math-verify is not installed."""
        require_math_verify()

    def parse(self, text: str) -> str | None:
        """The final answer in a single notation; None if there is none."""
        answers = final_answers(text)
        if answers is None:
            return None
        if answers:
            return normal(_boxed_together(text) or answers[0]) or None
        if "\n" not in text.strip() and len(text) <= LONGEST_READ and not _FORMULA.search(text):
            return normal(text) or None
        return self._last(text) if self.fallback else None

    def _last(self, text: str) -> str | None:
        formulas = _FORMULA.findall(text[-4 * LONGEST_READ :])
        if formulas:
            return normal("".join(formulas[-1]).rpartition("=")[2]) or None
        number = last_number(text)
        return None if number is None else canonical(number)

    async def equal(self, one: str, other: str, session: Session) -> bool:
        """Whether two parsed answers mean the same; the cost of algebra is charged to `session`."""

        async def algebra(first: str, second: str) -> bool:
            start = monotonic()
            same, cpu_seconds = await session.resources.get(MathEquality).same(first, second)
            if cpu_seconds:
                session.pay_verifier(cpu_seconds, monotonic() - start)
            return same

        return await equal_forms(read(one), read(other), algebra)


def _boxed_together(text: str) -> str | None:
    """The contents of the last adjacent boxes of `text` as one list; None if there is at most one."""
    found = list(_BOX.finditer(text[-LONGEST_ANSWER:]))
    together = found[-1:]
    for box in reversed(found[:-1]):
        if not _BETWEEN.fullmatch(box.string, box.end(), together[0].start()):
            break
        together.insert(0, box)
    return ", ".join(box[1] for box in together) if len(together) > 1 else None
