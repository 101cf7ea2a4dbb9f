"""The calls to the models that plan and write, and the trail that leads from the problem to an answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tts.prompting import NoAnswer, ask, constrained, fill, insist, problem_text, prose
from tts.session import Session
from tts.strategies.planning.prompts import Observations, Prompts
from tts.types import Candidate, Sample

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
        turns = [self._fill(first, count=count, observations=_listed(known) or prompts.nothing)]
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
        words = self._fill(asked, observations=_listed(observations) or prompts.nothing)
        return await self._step("plan", trail, words)

    async def ideas(self, n: int) -> AsyncGenerator[Trail, None]:
        """`n` independent plans without observations, as they complete; unusable ones are left out."""
        prompt = self.prompts.dialogue(self._fill(self.prompts.idea))
        async for sample, plan in ask(self.session, prompt, prose, role=self.idea_role, n=n, **self._ideas):
            yield Trail().then("plan", plan, [sample])

    async def fix(self, trail: Trail) -> Trail:
        """A plan to replace the one that the trail ends with."""
        plan = trail.steps[-1][1]
        if not self.prompts.criticise:
            return await self._step("fix", trail, self._fill(self.prompts.fix, plan=plan))
        asked = self._fill(self.prompts.criticise, plan=plan)
        criticised = await self._step("criticism", trail, asked)
        return await self._step("fix", criticised, asked, criticised.steps[-1][1], self._fill(self.prompts.fix))

    async def write(self, trail: Trail, spawned: tuple[int, ...]) -> Candidate:
        """The answer that follows the plan with which the trail ends."""
        if self.pseudocode and self.prompts.pseudocode:
            words = self._fill(self.prompts.pseudocode, plan=trail.steps[-1][1])
            trail = await self._step("pseudocode", trail, words)
        prompt = self.prompts.dialogue(self._fill(self.prompts.answer, plan=trail.steps[-1][1]))
        sample = await self.session.one(prompt, **self._writing)  # whatever it is, as in repeated sampling
        if sample is None:
            raise NoAnswer("the server rejects the request for the answer")
        lineage = [list(step) for step in trail.steps]
        return self.session.candidate(sample, *trail.samples, spawned=spawned, lineage=lineage)

    async def _step(self, kind: str, trail: Trail, *turns: str) -> Trail:
        role, params = ("policy", self._writing) if kind == "pseudocode" else (self.idea_role, self._ideas)
        samples, said = await insist(self.session, self.prompts.dialogue(*turns), prose, role=role, tries=[params])
        return trail.then(kind, said, samples)

    def _fill(self, prompt: str, **values: object) -> str:
        return fill(prompt, problem=self._problem, **values)

    @cached_property
    def _problem(self) -> str:
        return problem_text(self.session.problem)

    @cached_property
    def _ideas(self) -> dict[str, Any]:
        return self._heat(self.idea_role, self.idea_temperature)

    @cached_property
    def _writing(self) -> dict[str, Any]:
        return self._heat("policy", self.code_temperature)

    def _heat(self, role: str, asked: float | None) -> dict[str, Any]:
        if asked is None and "temperature" in self.session.sampler(role).endpoint.params:
            return {}
        return {"temperature": TEMPERATURE if asked is None else asked}


def _listed(observations: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in observations)
