"""The same question in several plausible formats: what a model makes of it should not depend on them, and does.

Sclar et al. 2024, "Quantifying Language Models' Sensitivity to Spurious Features in Prompt Design" (FormatSpread, arXiv
2310.11324), section 3. How far accuracy spreads over formats is shown by the study `formats`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from itertools import count, product
from random import Random
from typing import Any, Literal, Self

from pydantic import PositiveInt, model_validator

from tts.base import Estimator, answer_reader, best
from tts.concurrency import merge
from tts.errors import ConfigError, SamplingFailed
from tts.prompting import reworded
from tts.session import Session
from tts.strategies.voting import Voting
from tts.types import Candidate, Problem

NAMES = ("Question", "Problem", "Task", "Input")
CASINGS = (str, str.lower, str.upper)
SEPARATORS = (": ", ":\n", " - ", "- ", " :: ", "\n", "\n\n", "\t")
BETWEEN = ("\n", "\n\n", " || ", "\n---\n")
ITEMS = ("({})", "{})", "{}.", "[{}]", "<{}>", "{}:")
LISTED = ("\n", "; ", " | ", "\t")
_OPTION = re.compile(r"[ \t]*(?:\(([A-Z])\)|([A-Z])[.):])[ \t]+(\S.*)")


@dataclass(frozen=True)
class PromptFormat:
    """How the fields of a question are set: their names, what separates these from the values, and so on."""

    question: str
    options: str
    """The names of the fields."""
    separator: str
    between: str
    item: str
    """How the letter of an option is written."""
    listed: str
    """What is between options."""

    def __call__(self, text: str) -> str:
        """`text` in this format; its fields' values stay as they are."""
        lead, options, rest = fields_of(text)
        parts = [f"{self.question}{self.separator}{lead}"] if lead else []
        if options:
            items = (f"{self.item.format(letter)} {value}" for letter, value in options)
            parts.append(f"{self.options}{self.separator}{self.listed.join(items)}")
        return self.between.join([*parts, rest] if rest else parts)

    def __str__(self) -> str:
        return self("...\n(A) ...\n(B) ...").replace("\n", "\\n").replace("\t", "\\t")


def fields_of(text: str) -> tuple[str, list[tuple[str, str]], str]:
    """What a question says, its options (the last lines that are lettered A, B, ... one after the other), and the rest.

    White space around them is no part of them.
    """
    lines, begin, options = text.split("\n"), 0, list[tuple[str, str]]()
    for i in range(len(lines)):
        run: list[tuple[str, str]] = []
        while (found := _OPTION.fullmatch(lines[i + len(run)] if i + len(run) < len(lines) else "")) and (
            letter := found[1] or found[2]
        ) == chr(ord("A") + len(run)):
            run.append((letter, found[3].rstrip()))
        if len(run) > 1:
            begin, options = i, run
    if not options:
        return text.strip(), [], ""
    return "\n".join(lines[:begin]).strip(), options, "\n".join(lines[begin + len(options) :]).strip()


def drawn_formats(n: int, seed: int) -> list[PromptFormat]:
    """`n` formats in random order; no two name and separate fields alike before all ways to do so have come."""
    rng = Random(f"format_spread {seed}")
    heads = list(product(NAMES, CASINGS, SEPARATORS))
    order = [head for _ in range(-(-n // len(heads))) for head in rng.sample(heads, len(heads))]
    return [
        PromptFormat(case(name), case("Options"), separator, *map(rng.choice, (BETWEEN, ITEMS, LISTED)))
        for name, case, separator in order[:n]
    ]


class FormatSpread(Voting):
    """N samples, the first of the question as it is, each other one in another format, which keeps the meaning.

    Formats differ in the names of fields, their case, what separates and what orders them; the seed of the run chooses
    them, the same for all problems. Answers vote, or the best verdict wins.
    """

    by: Literal["votes", "verdicts"] = "votes"
    """What selects."""
    bandit: bool = False
    """Whether a total budget goes to the formats that may be the best or the worst, by the verdicts so far (Thompson
    sampling), so that far fewer samples than problems times formats tell how far accuracy spreads."""
    batch: PositiveInt = 5
    """Problems that are asked in the format that the bandit has drawn before it draws again."""

    @model_validator(mode="after")
    def _counts_verdicts(self) -> Self:
        if self.bandit and self.by != "verdicts":
            raise ValueError("a bandit goes by what the verifier accepts: add by=verdicts, and perhaps verifier=oracle")
        return self

    @property
    def gains(self) -> Literal["arms"] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "arms" if self.bandit else None

    @property
    def independent(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.bandit

    @property
    def needs_verifier(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.weighted or self.by == "verdicts"

    @property
    def estimator(self) -> Estimator:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.by == "verdicts":
            return "replay" if self.bandit else "best_of_k"
        return super().estimator

    def ready(self, problem: Problem) -> None:
        if self.by == "votes":
            super().ready(problem)
        if isinstance(problem.messages, str):
            raise ConfigError(f"{problem.id} is a raw text, which has no format of its own; give it as chat messages")

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        asked = [("as given", problem)]
        asked += [(str(one), reworded(problem, one)) for one in drawn_formats(self.n - 1, session.seed)]
        if self.bandit:
            return _in_turn(asked, session)
        samples = merge(_noted(session.propose(one.messages), name) for name, one in asked)
        found = session.verified(samples) if self.needs_verifier else samples
        return found if self.by == "verdicts" else session.classified(found, answer_reader(problem, self.answer))

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        return best(candidates) if self.by == "verdicts" else super().select(candidates)

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        if self.by == "verdicts":
            return not self.bandit and any(one.passed for one in candidates)
        return super().settled(candidates)


async def _in_turn(asked: Sequence[tuple[str, Problem]], session: Session) -> AsyncGenerator[Candidate, None]:
    """A verified sample in each format that the total budget is spent on."""
    if session.turn is None:
        raise ConfigError(
            "format_spread:bandit=true needs a budget for all problems: tts run --total-budget requests=500"
        )
    found: list[Candidate] = []
    for turn in count():
        if not (told := await session.turn(turn, found, session.spent)):
            return
        name, one = asked[told - 1]
        async for candidate in session.verified(_noted(session.propose(one.messages), name, arm=told - 1)):
            found.append(candidate)
            yield candidate


async def _noted(drawn: AsyncGenerator[Candidate, None], name: str, **notes: Any) -> AsyncGenerator[Candidate, None]:
    """A sample with the name of its format; none where the server gives none, which loses this one alone."""
    with suppress(SamplingFailed):
        async with aclosing(drawn) as samples:
            async for one in samples:
                yield replace(one, notes={"format": name, **notes})
