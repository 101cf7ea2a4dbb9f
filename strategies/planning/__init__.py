"""What strategies that plan in words before they answer share: the calls, the prompts and the choice at the end.

Wang et al. 2024, "Planning In Natural Language Improves LLM Search For Code Generation" (arXiv 2409.03733).
"""

from __future__ import annotations

from asyncio import Task
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tts import registry
from tts.base import AnswerVerifier, Strategy, answer_classes, rank
from tts.concurrency import Flow
from tts.errors import SamplingFailed
from tts.prompting import NoAnswer, ask, constrained, fill, filled, insist, problem_text, prose
from tts.session import Session
from tts.strategies.planning.prompts import CODE, Observations, Prompts, PromptsField
from tts.types import Candidate, Problem, Sample
from tts.verifiers.programs.extract import extract_program, normal_form

TEMPERATURE = 0.9
"""The paper's, used where neither the strategy nor the endpoint sets one."""
FORMATTING = (0.0, 0.2, 0.4)
"""Temperatures of successive tries to get well-formed observations."""


@dataclass(frozen=True, slots=True)
class Trail:
    """What was said on the way to an answer, and every sample that was paid for."""

    steps: tuple[tuple[str, str], ...] = ()
    """Kind and text: observations, plan, criticism, fix, pseudocode."""
    samples: tuple[Sample, ...] = ()

    def then(self, kind: str, text: str, samples: Iterable[Sample] = ()) -> Trail:
        """The trail one step further."""
        return Trail((*self.steps, (kind, text)), (*self.samples, *samples))


@dataclass(frozen=True)
class Author:
    """Plans in one role and writes in `policy`. Every method raises `NoAnswer` where a model gives no usable answer."""

    session: Session
    prompts: Prompts
    idea_role: str = "policy"
    idea_temperature: float | None = None
    code_temperature: float | None = None
    pseudocode: bool = True

    def at(self, place: tuple[int, ...]) -> Author:
        """This author at work on what candidates spawned at `place` will descend from."""
        return replace(self, session=self.session.at(place))

    async def observe(self, known: Sequence[str], trail: Trail, count: int) -> tuple[list[str], tuple[Sample, ...]]:
        """New observations, derived from those `known`, and the samples they took."""
        prompts = self.prompts
        first = prompts.derive if known or (trail.steps and prompts.nothing) else prompts.observe
        turns = [await self._fill(first, count=count, observations=_listed(known) or prompts.nothing)]
        paid: tuple[Sample, ...] = ()
        for further in prompts.refine:
            samples, said = await insist(
                self.session, self.prompts.dialogue(*turns), prose, role=self.idea_role, tries=[self._ideas]
            )
            turns, paid = [*turns, said, fill(further)], paid + samples
        tries = [{"temperature": heat} if prompts.refine else self._ideas for heat in FORMATTING]
        if prompts.form == "schema":  # a server that cannot hold the model to it may refuse; the next try does without
            tries[0] = {**tries[0], **constrained(Observations)}
        samples, found = await insist(
            self.session, self.prompts.dialogue(*turns), prompts.reader, role=self.idea_role, tries=tries
        )
        return [text for text in found if text not in known], paid + samples

    async def sketch(self, observations: Sequence[str], trail: Trail) -> Trail:
        """A plan that uses the observations."""
        prompts = self.prompts
        asked = prompts.sketch if observations or prompts.nothing else prompts.idea
        words = await self._fill(asked, observations=_listed(observations) or prompts.nothing)
        return await self._step("plan", trail, words)

    async def ideas(self, n: int) -> AsyncGenerator[Trail, None]:
        """`n` independent plans without observations, as they complete; unusable ones are left out."""
        prompt = self.prompts.dialogue(await self._fill(self.prompts.idea))
        async for sample, plan in ask(self.session, prompt, prose, role=self.idea_role, n=n, **self._ideas):
            yield Trail().then("plan", plan, [sample])

    async def fix(self, trail: Trail) -> Trail:
        """A plan to replace the one that the trail ends with."""
        plan = trail.steps[-1][1]
        if not self.prompts.criticise:
            return await self._step("fix", trail, await self._fill(self.prompts.fix, plan=plan))
        asked = await self._fill(self.prompts.criticise, plan=plan)
        criticised = await self._step("criticism", trail, asked)
        return await self._step("fix", criticised, asked, criticised.steps[-1][1], await self._fill(self.prompts.fix))

    async def write(self, trail: Trail, spawned: tuple[int, ...]) -> Candidate:
        """The answer that follows the plan with which the trail ends."""
        if self.pseudocode and self.prompts.pseudocode:
            words = await self._fill(self.prompts.pseudocode, plan=trail.steps[-1][1])
            trail = await self._step("pseudocode", trail, words)
        prompt = self.prompts.dialogue(await self._fill(self.prompts.answer, plan=trail.steps[-1][1]))
        sample = await self.session.one(prompt, **self._writing)  # whatever it is, as in repeated sampling
        if sample is None:
            raise NoAnswer("the server rejects the request for the answer")
        lineage = [list(step) for step in trail.steps]
        return self.session.candidate(sample, *trail.samples, spawned=spawned, lineage=lineage)

    async def _step(self, kind: str, trail: Trail, *turns: str) -> Trail:
        role, params = ("policy", self._writing) if kind == "pseudocode" else (self.idea_role, self._ideas)
        samples, said = await insist(self.session, self.prompts.dialogue(*turns), prose, role=role, tries=[params])
        return trail.then(kind, said, samples)

    async def _fill(self, prompt: str, **values: object) -> str:
        return await filled(prompt, problem=self.session.problem, **values)

    @cached_property
    def _ideas(self) -> dict[str, Any]:
        return self._heat(self.idea_role, self.idea_temperature)

    @cached_property
    def _writing(self) -> dict[str, Any]:
        return self._heat("policy", self.code_temperature)

    def _heat(self, role: str, asked: float | None) -> dict[str, Any]:
        given = self.session.sampling if role == "policy" else {}
        if asked is None and "temperature" in {**given, **self.session.sampler(role).endpoint.params}:
            return {}
        return {"temperature": TEMPERATURE if asked is None else asked}


def _listed(observations: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in observations)


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
        answers = answer_classes([candidate.notes for candidate in best])
        votes = Counter(answer for answer in answers if answer is not None)
        voted = max(zip(best, answers, strict=True), key=lambda one: votes[one[1] or ""], default=None)
        return None if voted is None else voted[0]

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
