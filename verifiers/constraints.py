"""Constraints on a text that a program can check: length, form, words, language.

After "IFEval" (Zhou et al. 2023, arXiv 2311.07911), section 2: instructions whose following needs no judge. The kinds
and the words here are our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tts.base import Verifier
from tts.prompting import answer_of
from tts.types import Candidate, Problem, Verdict

COMMON_WORDS = {
    "English": "the and of to a in is that it for with as are was on not you",
    "German": "der die das und ist nicht ein eine zu den mit von auf für sich es ich im",
    "French": "le la les et est un une des de du que pas pour dans il qui sur en",
    "Spanish": "el la los las y es un una de que no en por para con se del como",
}
Kind = Literal[
    "words_at_least",
    "words_at_most",
    "paragraphs",
    "bullets",
    "heading",
    "has",
    "lacks",
    "begins",
    "ends",
    "lower_case",
    "no_commas",
    "language",
]


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'’]+", text)


def _occurrences(text: str, word: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def _language(text: str) -> str:
    """The language most of whose commonest words the text has; "none" where those are under a tenth of it."""
    words = [word.lower() for word in _words(text)]
    hits = {name: sum(word in common.split() for word in words) for name, common in COMMON_WORDS.items()}
    best = max(hits, key=lambda name: hits[name])
    return best if hits[best] > len(words) / 10 else "none"


FORMS: dict[str, tuple[str, Callable[[str], object], Callable[[object, str], bool]]] = {
    "words_at_least": ("The text has at least {} words.", lambda t: len(_words(t)), lambda n, v: int(str(n)) >= int(v)),
    "words_at_most": ("The text has at most {} words.", lambda t: len(_words(t)), lambda n, v: int(str(n)) <= int(v)),
    "paragraphs": (
        "The text has exactly {} paragraphs, with an empty line between them.",
        lambda t: len([part for part in re.split(r"\n\s*\n", t) if part.strip()]),
        lambda n, v: n == int(v),
    ),
    "bullets": (
        "The text has exactly {} bullet points, lines that begin with a dash.",
        lambda t: len(re.findall(r"^\s*- ", t, re.MULTILINE)),
        lambda n, v: n == int(v),
    ),
    "heading": (
        "The first line is a heading that begins with # and has the word {}.",
        lambda t: t.partition("\n")[0],
        lambda line, v: str(line).startswith("#") and _occurrences(str(line), v) > 0,
    ),
    "has": ("The text has the word {}.", lambda t: t, lambda t, v: _occurrences(str(t), v) > 0),
    "lacks": ("The text does not have the word {}.", lambda t: t, lambda t, v: not _occurrences(str(t), v)),
    "begins": ("The text begins with: {}", lambda t: t[:40], lambda t, v: str(t).startswith(v)),
    "ends": ("The text ends with: {}", lambda t: t[-40:], lambda t, v: str(t).endswith(v)),
    "lower_case": ("All letters are lower case.", lambda t: t, lambda t, v: str(t) == str(t).lower()),
    "no_commas": ("There are no commas.", lambda t: t.count(","), lambda n, v: n == 0),
    "language": ("The text is in {}.", _language, lambda found, v: found == v),
}
"""Kind -> how it is said, what is looked at in a text, and whether that suits the value."""


class Constraint(BaseModel):
    """One of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    kind: Kind
    value: str = ""
    """A number, a word or a language, as the kind has it."""

    @property
    def text(self) -> str:
        """It in words."""
        return FORMS[self.kind][0].format(self.value)

    def check(self, text: str) -> tuple[bool, str]:
        """Whether `text` meets it, and what was found where that is short."""
        _, look, suits = FORMS[self.kind]
        found = look(text)
        return suits(found, self.value), "" if found is text else f"found: {found}"


class Constraints(Verifier):
    """Scores by the share of the constraints that are met and accepts where all are.

    `details` has the `elements`, each with whether it is `met` and `why`, as those of `element_check`; `feedback` says
    which are not met.
    """

    constraints: tuple[Constraint, ...] = Field(min_length=1)

    @property
    def tells_elements(self) -> bool:
        """Each constraint is one."""
        return True

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        """Check one after the other."""
        text = answer_of(candidate).strip()
        found = [(one.text, *one.check(text)) for one in self.constraints]
        table = [{"text": words, "kind": "core", "met": met, "why": "" if met else why} for words, met, why in found]
        missed = [f"Not met: {row['text']} {row['why']}".rstrip() for row in table if not row["met"]]
        met = len(table) - len(missed)
        return Verdict(met / len(table), not missed, "\n".join(missed), {"elements": table})
