"""What strategies that plan before they answer share: the prompts, the models, and the choice at the end."""

from __future__ import annotations

from asyncio import Task
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from tts import registry
from tts.base import AnswerVerifier, Strategy, rank
from tts.concurrency import Flow
from tts.errors import SamplingFailed
from tts.prompting import NoAnswer, problem_text
from tts.session import Session
from tts.strategies.planning.author import Author
from tts.strategies.planning.prompts import CODE, PromptsField
from tts.types import Candidate, Problem
from tts.verifiers.programs.extract import extract_program
from tts.verifiers.programs.static_analysis import normal_form


class Planning(Strategy):
    """Plans in words first. Candidates carry the steps that led to them in `notes["lineage"]`."""

    exhaustive = True

    prompts: PromptsField = CODE
    """What the models are asked: `code`, `general`, `lab`, or one of them with some prompts replaced."""
    idea_role: str = "policy"
    """The role that plans; `policy` writes the answers. Give another role a model with [models.NAME.ROLE]."""
    idea_temperature: float | None = None
    """Temperature of the calls that plan. None: the endpoint's own, else 0.9."""
    code_temperature: float | None = None
    """Temperature of the calls that write. None: the endpoint's own, else 0.9."""
    vote: bool = True
    """Whether the most frequent answer (for code: the same program apart from names) wins among those that the
    verifier rates alike, instead of the earliest."""

    @property
    def roles(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return frozenset({"policy", self.idea_role})

    def ready(self, problem: Problem) -> None:
        problem_text(problem)

    def author(self, session: Session, **settings: Any) -> Author:
        """What makes the calls."""
        return Author(
            session,
            self.prompts,
            self.idea_role,
            self.idea_temperature,
            self.code_temperature,
            **settings,
        )

    def judged(self, session: Session, candidates: AsyncGenerator[Candidate, None]) -> AsyncGenerator[Candidate, None]:
        """`candidates` with what they vote for, verified where there is a verifier."""
        candidates = _voting(session, candidates)
        return session.verified(candidates) if session.verifier else candidates

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """Among those with the best verdict, the one with the most frequent answer; the earliest among equals."""
        if not self.vote:
            return super().select(candidates)
        highest = max(map(rank, candidates), default=None)
        best = [candidate for candidate in candidates if rank(candidate) == highest]
        answers = [candidate.notes.get("answer") for candidate in best]
        votes = Counter(answer for answer in answers if answer is not None)
        return max(best, key=lambda candidate: votes[candidate.notes.get("answer")], default=None)

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        """Whether one is accepted; a vote stays open to the end."""
        return not self.vote and super().settled(candidates)


def branch(
    out: Flow[Candidate], work: Coroutine[Any, Any, object], lost: Callable[[], None] = lambda: None
) -> Task[object]:
    """Start `work` in the flow. A model that gives no usable answer costs only what would have followed from it."""

    async def guarded() -> None:
        try:
            await work
        except (NoAnswer, SamplingFailed):  # noted in the ledger where it happened
            lost()

    return out.start(guarded())


async def _voting(session: Session, candidates: AsyncGenerator[Candidate, None]) -> AsyncGenerator[Candidate, None]:
    """`candidates` with what each votes for: its answer, or its program apart from the names in it."""
    problem, known = session.problem, list[str]()
    reader = None if problem.answer is None else registry.make("verifiers", problem.answer)
    async with aclosing(candidates):
        async for candidate in candidates:
            if isinstance(reader, AnswerVerifier):
                yield await session.classify(candidate, reader, known)
            else:
                answer = _same_program(problem, candidate.content) if problem.tests is not None else None
                yield replace(candidate, notes={**candidate.notes, "answer": answer})


def _same_program(problem: Problem, text: str) -> str | None:
    tests = problem.tests or {}
    program = extract_program(text, tests.get("entry_point"), tests.get("prompt", ""), tests.get("container"))
    return normal_form(program) if program else None
