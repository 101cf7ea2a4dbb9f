"""ThinkSum: what a model thinks of in parallel is summed up by arithmetic, not by the model.

Ozturkler et al. 2023, "ThinkSum: Probabilistic Reasoning over Sets Using Large Language Models" (arXiv 2210.01293),
section 2. *Think* asks for pieces of knowledge, each by itself, and how likely each option is in the light of each of
them; *Sum* aggregates the probabilities.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, field_validator

from tts.base import Strategy, answer_reader
from tts.concurrency import Flow, flow, in_order
from tts.errors import ConfigError, SamplingFailed
from tts.prompting import fill, problem_text, template, without_thoughts
from tts.session import Session
from tts.types import Candidate, Charge, Problem, Sample
from tts.verifiers.choice import Choice

Floats = NDArray[np.float64]

THINK = """\
$problem

Do not answer yet. Write down one thing that is known and bears on this, in one sentence."""
SUM = """\
$problem

Known: $thought

Give the answer and nothing else, in the form
Answer: x"""
PRIOR = """\
A question is not shown. Give the answer to it and nothing else, in the form
Answer: x"""


class ThinkSum(Strategy):
    """N thoughts, each followed by the log-probabilities of all options; their sum decides.

    Each candidate is the likeliest option in the light of all thoughts so far. Takes problems with a closed set of
    answers, and a policy whose server gives log-probabilities of a prompt (vLLM).
    """

    name: ClassVar[str] = "thinksum"
    in_pieces = True

    n: PositiveInt = 8
    """Thoughts (the paper's set S)."""
    options: tuple[str, ...] = ()
    """The answers to choose from; by default the letters of the problem's own options."""
    by: Literal["mixture", "product"] = "mixture"
    """What sums up the probabilities in the light of each thought: their mean, or their product, in which a thought may
    veto an option."""
    prior: bool = False
    """Whether they are divided by how likely the options are without the question, against a habit of naming one."""
    think: Annotated[str, template("problem")] = THINK
    """What asks for a thought."""
    think_tokens: PositiveInt = 64
    """The longest thought."""
    weigh: Annotated[str, template("problem", "thought")] = SUM
    """What the options answer."""

    @field_validator("options")
    @classmethod
    def _differ(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        if options and len(set(options)) < max(2, len(options)):
            raise ValueError("name two options or more, each once")
        return options

    def closed(self, problem: Problem) -> Sequence[str]:
        """The answers to choose from. Raises `ConfigError` where they are not known."""
        reader = answer_reader(problem) if problem.answer is not None else None
        if self.options or not isinstance(reader, Choice):
            if not self.options:
                raise ConfigError(f"{problem.id} does not say which answers there are: {self.name}:options=[yes,no]")
            return self.options
        return reader.letters[: len(reader.options) or None]

    def ready(self, problem: Problem) -> None:
        self.closed(problem)
        problem_text(problem)

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        options, before, charges = self.closed(problem), None, frozenset[Charge]()
        if self.prior:
            before, charges = await _weighed(PRIOR, options, session)
        seen: list[Candidate] = []
        async for one in in_order(flow(partial(self._think, problem, session, options)), lambda one: one.spawned[0]):
            seen.append(one)
            sums = self.summed([candidate.notes["logprobs"] for candidate in seen], before)
            words = f"Answer: {options[int(sums.argmax())]}"
            paid = charges.union(*(candidate.charges for candidate in seen))
            notes = {**one.notes, "chances": dict(zip(options, np.exp(sums).tolist(), strict=True))}
            answer = replace(one.samples[-1], text=words, finish_reason="stop")
            answered = replace(one, content=words, samples=(*one.samples[:-1], answer), charges=paid, notes=notes)
            yield await session.judged(answered) if session.verifier is not None else answered

    async def _think(self, problem: Problem, session: Session, options: Sequence[str], out: Flow[Candidate]) -> None:
        for place in range(self.n):
            out.start(self._thought(problem, session.at((place,)), options, place, out))

    async def _thought(
        self, problem: Problem, session: Session, options: Sequence[str], place: int, out: Flow[Candidate]
    ) -> None:
        text = problem_text(problem)
        asked = [{"role": "user", "content": fill(self.think, problem=text)}]
        thought = None
        with suppress(SamplingFailed):  # loses this thought alone
            thought = await session.one(asked, inner=True, max_tokens=self.think_tokens)
        if thought is None:
            return
        known = without_thoughts(thought.text).strip()
        logs, charges = await _weighed(fill(self.weigh, problem=text, thought=known), options, session)
        answer = Sample("", charges=tuple(charges), index=thought.index, role=thought.role, model=thought.model)
        out.emit(session.candidate(answer, thought, spawned=(place,), thought=known, logprobs=logs))

    def summed(self, logprobs: Sequence[Sequence[float]], prior: Sequence[float] | None = None) -> Floats:
        """Log-probabilities of the options in the light of all thoughts, given those in the light of each."""
        each = np.array([normal(np.array(one)) for one in logprobs])
        joined = np.logaddexp.reduce(each, axis=0) if self.by == "mixture" else each.sum(axis=0)
        return normal(joined if prior is None else joined - np.array(prior))

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The last, which sums up all."""
        return max(candidates, key=lambda one: one.spawned, default=None)

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        """Never: a verifier may accept what further thoughts overturn."""
        return False


async def _weighed(prompt: str, options: Sequence[str], session: Session) -> tuple[list[float], frozenset[Charge]]:
    """The log-probability of each option as the answer to `prompt`, and what they cost."""
    asked = [{"role": "user", "content": prompt}]
    scores = await session.together(session.score(asked, f"Answer: {one}", role="policy") for one in options)
    return [sum(one.logprobs) for one in scores], frozenset[Charge]().union(*(one.charges for one in scores))


def normal(logprobs: Floats) -> Floats:
    """Log-probabilities of the options among each other."""
    return logprobs - np.logaddexp.reduce(logprobs)
