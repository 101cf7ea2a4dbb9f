"""Idea diversity as a model judges it: every program is put into words, and every pair compared.

Wang et al. 2024, "Planning In Natural Language Improves LLM Search For Code Generation" (arXiv 2409.03733), section
6.1 and appendix S. An answer that cannot be had or read leaves its pair out; it is no "different".
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PositiveInt

from tts.concurrency import concurrent_map
from tts.curves import CurveError
from tts.prompting import NoAnswer, fill, insist, prose, template
from tts.runs.run import Track
from tts.runs.store import Store
from tts.sampler import Endpoint, Sampler
from tts.session import Session
from tts.studies.diversity import programs_of
from tts.studies.diversity_math import pair_diversity
from tts.types import Problem, Usage, sum_usage

T = TypeVar("T")
Floats = NDArray[np.float64]


class IdeaJudge(BaseModel):
    """How ideas are judged."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    programs: PositiveInt = 40
    """Programs of a problem that are compared, drawn at random."""
    summarise: Annotated[str, template("program")] = (
        "Say in a few sentences by which idea this program solves its problem: the approach and the main steps, "
        "neither names nor details of the language.\n\n```python\n$program\n```"
    )
    same: Annotated[str, template("first", "second", "first_idea", "second_idea")] = (
        "Two programs were written for the same problem.\n\nThe first, by the idea: $first_idea\n\n```python\n$first\n"
        "```\n\nThe second, by the idea: $second_idea\n\n```python\n$second\n```\n\nDo they rest on the same idea? "
        "Differences in names, style and details do not matter. Reply with yes or no alone."
    )
    seed: int = 42
    """Of the draw."""

    def draw(self, programs: Sequence[str]) -> list[str]:
        """Those that are compared."""
        order = np.random.default_rng(self.seed).permutation(len(programs))
        return [programs[int(i)] for i in order[: self.programs]]

    async def similar(self, session: Session, programs: Sequence[str]) -> Floats:
        """Whether each pair shares its idea: 1, 0, or NaN where the judge (role `judge`) gave no usable answer."""

        async def summarise(i: int) -> tuple[int, str | None]:
            return i, await _answer(session, fill(self.summarise, program=programs[i]), prose)

        async def compare(pair: tuple[int, int]) -> tuple[tuple[int, int], bool | None]:
            i, j = pair
            texts = {"first": programs[i], "second": programs[j], "first_idea": ideas[i], "second_idea": ideas[j]}
            return pair, await _answer(session, fill(self.same, **texts), yes_or_no)

        ideas = {i: idea async for i, idea in concurrent_map(summarise, _each(range(len(programs)))) if idea}
        matrix = np.full((len(programs), len(programs)), np.nan)
        async with aclosing(concurrent_map(compare, _each(combinations(sorted(ideas), 2)))) as compared:
            async for (i, j), same in compared:
                matrix[i, j] = matrix[j, i] = np.nan if same is None else float(same)
        return matrix


async def _each(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


async def _answer(session: Session, question: str, read: Callable[[str], T]) -> T | None:
    try:
        _, said = await insist(
            session, [{"role": "user", "content": question}], read, role="judge", tries=[{"temperature": 0.0}]
        )
    except NoAnswer:
        return None
    return said


def yes_or_no(text: str) -> bool:
    """Reads an answer that begins with yes or no. Raises `ValueError` for any other."""
    match = re.match(r"\W*(yes|no)\b", text, re.I)
    if match is None:
        raise ValueError("it is neither yes nor no")
    return match[1].lower() == "yes"


@dataclass(frozen=True)
class JudgedIdeas:
    """What a judge said of a track, and what that took."""

    diversity: Mapping[int, float]
    """By cell; those with fewer than two programs, or without a judged pair, are left out."""
    usage: Usage
    unanswered: int
    """Questions without a usable answer."""


async def judged_ideas(track: Track, judge: Endpoint, settings: IdeaJudge | None = None) -> JudgedIdeas:
    """The idea diversity of each cell of a track. Answers are kept beside the run and used again."""
    settings = settings or IdeaJudge()
    found: dict[int, float] = {}
    usages, unanswered = [], 0
    async with Sampler(judge) as sampler, Store(track.run.path / "diversity.sqlite") as store:
        await sampler.check()
        for row in track.rows:
            session = Session(Problem.from_prompt("", id=row.problem), {"judge": sampler}, store=store)
            programs = settings.draw(list(programs_of(track.candidates(row)).values()))
            with suppress(CurveError):
                found[row.cell] = pair_diversity(await settings.similar(session, programs))
            usages.append(session.spent)
            unanswered += len(session.ledger.failures)
    return JudgedIdeas(found, sum_usage(usages), unanswered)
