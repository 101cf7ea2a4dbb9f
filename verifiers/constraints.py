"""Constraints on a text that a program can check: length, form, words, language.

After "IFEval" (Zhou et al. 2023, arXiv 2311.07911), section 2: instructions that can be verified without a judge. The
kinds and their wording are our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import BaseModel, Field, field_validator

from tts.base import Verifier
from tts.prompting import answer_of
from tts.types import Candidate, Problem, Scale, Verdict

LONGEST_TEXT = 100_000
"""Characters; a longer text is refused unread, so that reading it does not hold up the loop."""

COMMON_WORDS = {
    "English": "the and of to a in is that it for with as are was on not you",
    "German": "der die das und ist nicht ein eine zu den mit von auf für sich es ich im",
    "French": "le la les et est un une des de du que pas pour dans il qui sur en",
    "Spanish": "el la los las y es un una de que no en por para con se del como",
}
_COMMON = {name: frozenset(words.split()) for name, words in COMMON_WORDS.items()}


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'’]+", text)


def _occurrences(text: str, word: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def _language(text: str) -> str:
    """The language whose common words are the most frequent in the text; "none" if they are under a tenth of it."""
    words = [word.lower() for word in _words(text)]
    hits = {name: sum(word in common for word in words) for name, common in _COMMON.items()}
    best = max(hits, key=lambda name: hits[name])
    return best if hits[best] > len(words) / 10 else "none"


def _same(text: str) -> str:
    return text


KINDS: dict[str, tuple[str, Callable[[str], Any], Callable[[Any, str], bool]]] = {
    "words_at_least": ("The text has at least {} words.", lambda t: len(_words(t)), lambda n, v: n >= int(v)),
    "words_at_most": ("The text has at most {} words.", lambda t: len(_words(t)), lambda n, v: n <= int(v)),
    "paragraphs": (
        "The text has exactly {} paragraphs, with an empty line between them.",
        lambda t: len([part for part in re.split(r"\n\s*\n", t) if part.strip()]),
        lambda n, v: n == int(v),
    ),
    "bullets": (
        "The text has exactly {} bullet points, lines that begin with a dash.",
        lambda t: len(re.findall(r"^[^\S\n]*- ", t, re.MULTILINE)),
        lambda n, v: n == int(v),
    ),
    "heading": (
        "The first line is a heading that begins with # and has the word {}.",
        lambda t: t.partition("\n")[0],
        lambda line, v: line.startswith("#") and _occurrences(line, v) > 0,
    ),
    "has": ("The text has the word {}.", _same, lambda t, v: _occurrences(t, v) > 0),
    "lacks": ("The text does not have the word {}.", _same, lambda t, v: not _occurrences(t, v)),
    "begins": ("The text begins with: {}", lambda t: t[:40], lambda t, v: t.startswith(v)),
    "ends": ("The text ends with: {}", lambda t: t[-40:], lambda t, v: t.endswith(v)),
    "lower_case": ("All letters are lower case.", _same, lambda t, v: t == t.lower()),
    "no_commas": ("There are no commas.", lambda t: t.count(","), lambda n, v: n == 0),
    "language": ("The text is in {}.", _language, lambda found, v: found == v),
}
"""For each kind: its wording, what it looks at in a text, and whether that suits the constraint's value."""


class Constraint(BaseModel, frozen=True, extra="forbid", coerce_numbers_to_str=True):
    """A constraint that a text meets or not."""

    kind: str
    value: str = ""
    """A number, a word or a language, depending on the kind."""

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str) -> str:
        if kind not in KINDS:
            raise ValueError(f"there is no constraint {kind!r}; there are: {', '.join(KINDS)}")
        return kind

    @property
    def text(self) -> str:
        """The constraint in words."""
        return KINDS[self.kind][0].format(self.value)

    def check(self, text: str) -> tuple[bool, str]:
        """Whether `text` meets it, and what was found, unless that is the whole text."""
        _, look, suits = KINDS[self.kind]
        found = look(text)
        return suits(found, self.value), "" if found is text else f"found: {found}"


class Constraints(Verifier):
    """Scores by the share of the constraints that are met; accepts if all are.

    `details` has them as `elements`, each with whether it is `met` and `why`, like those of `element_check`; `feedback`
    lists those that are not met.
    """

    scale: ClassVar[Scale | None] = "positive"

    constraints: tuple[Constraint, ...] = Field(min_length=1)

    @property
    def tells_elements(self) -> bool:
        return True

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        text = answer_of(candidate).strip()
        if len(text) > LONGEST_TEXT:
            return Verdict(0.0, False, f"the text has {len(text):,} characters; at most {LONGEST_TEXT:,} are read")
        found = [(one.text, *one.check(text)) for one in self.constraints]
        table = [{"text": words, "kind": "core", "met": met, "why": "" if met else why} for words, met, why in found]
        missed = [f"Not met: {row['text']} {row['why']}".rstrip() for row in table if not row["met"]]
        met = len(table) - len(missed)
        return Verdict(met / len(table), not missed, "\n".join(missed), {"elements": table})
