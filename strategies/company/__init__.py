"""Answers that are shown to a model, which writes a new one or chooses: one call, which five papers make a method of.

`show` is the call. `Company` draws answers, from all policies of a set, and has new ones written in rounds, each by a
model that reads some of the round before: mixture of agents (`fuse`), recursive self-aggregation (`aggregate`) and
debate (`debate`) differ in who reads what. In `gen_select` a model that reads them chooses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Annotated

from pydantic import PositiveInt

from tts.base import AnswerField, AnswerVerifier, Strategy, answer_reader, best, majority, selectable
from tts.concurrency import Flow, flow, merge
from tts.errors import SamplingFailed
from tts.prompting import answer_of, filled, template, without_thoughts
from tts.session import Session
from tts.types import Candidate, Problem, Sample

SUMMARISE = """\
<task>
$problem
</task>

$candidates

Sum up in a few sentences how this answer goes about the task, what it rests on and what it comes to, so that it can \
be compared with others. Keep its result word by word. Do not judge it."""

Prompted = Annotated[str, template("problem", "candidates", "own")]


async def show(
    session: Session,
    problem: Problem,
    candidates: Sequence[Candidate],
    prompt: str,
    *,
    own: str = "",
    role: str = "policy",
    inner: bool = False,
) -> Sample | None:
    """What a model says to `prompt`, in which `$candidates` are the answers, numbered from 1, and `$own` its own.

    None where no answer could be had, which is noted.
    """
    answers = {f"answer{i}": one for i, one in enumerate(candidates, 1)}
    frames = (f'<answer number="{i}">\n${name}\n</answer>' for i, name in enumerate(answers, 1))
    told = await filled("\n\n".join(frames), **answers)
    words = await filled(prompt, problem=problem, candidates=told, own=own)
    try:
        return await session.one([{"role": "user", "content": words}], role=role, inner=inner)
    except SamplingFailed:  # loses this answer; the others go on
        return None


async def summary(problem: Problem, session: Session, one: Candidate, made: list[Sample]) -> Candidate:
    """`one` in a model's summary, to be shown in its place; the sample that it took is added to `made`."""
    said = await show(session.at(one.spawned), problem, [one], SUMMARISE, inner=True)
    if said is None:
        return one
    made.append(said)
    return replace(one, content=without_thoughts(said.text).strip() or one.content)


class Company(Strategy):
    """Answers drawn from every policy, and rounds in which each is written anew in the light of others."""

    several = True

    n: PositiveInt = 4
    """Answers drawn at first, spread evenly over the policies."""
    answer: AnswerField | None = None
    """How answers are parsed and compared for votes; by default the problem's own way, if it has one."""

    def reader(self, problem: Problem) -> AnswerVerifier | None:
        """What votes go by; None: nothing."""
        return answer_reader(problem, self.answer) if self.answer or problem.answer else None

    def first(self, session: Session) -> Sequence[str]:
        """The policies that write the first answers."""
        return session.policies

    async def drawn(self, problem: Problem, session: Session) -> AsyncGenerator[Candidate, None]:
        """The first answers, each verified where there is a verifier."""
        roles = self.first(session)
        counts = Counter(roles[i % len(roles)] for i in range(self.n))
        proposed = merge(session.propose(n=counts[role], role=role) for role in roles if counts[role])
        async with aclosing(session.verified(proposed) if session.verifier is not None else proposed) as answers:
            async for one in answers:
                yield replace(one, spawned=(0, *one.spawned), notes={**one.notes, "round": 1})

    async def voting(
        self, problem: Problem, session: Session, answers: AsyncGenerator[Candidate, None], known: list[str]
    ) -> AsyncGenerator[Candidate, None]:
        """`answers`, each with what a vote needs to know of it."""
        reader = self.reader(problem)
        async with aclosing(answers if reader is None else session.classified(answers, reader, known)) as found:
            async for one in found:
                yield one

    def elect(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The best verdict where there are verdicts, else the commonest answer, else the first."""
        if any(one.verdict is not None for one in candidates):
            return best(candidates)
        return majority(candidates) or next(iter(candidates), None)


class Rounds(Company):
    """Answers, and rounds of new ones, each written by the model of an answer of the round before."""

    rounds: PositiveInt = 2
    """Rounds in all, the first answers included."""
    prompt: Prompted = ""
    """What the model is asked, with the answers it reads."""

    def written(self, previous: Sequence[Candidate], last: bool) -> Sequence[Candidate]:
        """Those of the `previous` round in whose place, and by whose model, a new answer is written."""
        return previous

    def writer(self, before: Candidate, session: Session, last: bool) -> str:
        """The policy that writes in the place of `before`: its own."""
        return before.samples[-1].role

    def read(self, place: int, previous: Sequence[Candidate], session: Session) -> Sequence[Candidate]:
        """What the writer in the place of `previous[place]` reads of it."""
        return previous

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        known: list[str] = []
        previous: list[Candidate] = []
        for number in range(self.rounds):
            answers = flow(partial(self._write_all, problem, session, number, previous)) if number else None
            current: list[Candidate] = []
            async for one in self.voting(problem, session, answers or self.drawn(problem, session), known):
                current.append(one)
                yield one
            previous = sorted(selectable(current), key=lambda one: one.spawned)
            if not previous:
                return

    async def _write_all(
        self, problem: Problem, session: Session, number: int, previous: Sequence[Candidate], out: Flow[Candidate]
    ) -> None:
        for place, before in enumerate(self.written(previous, last=number + 1 == self.rounds)):
            at = session.at((number, place))
            out.start(self._write(problem, at, previous.index(before), (number, place), previous, out))

    async def _write(
        self,
        problem: Problem,
        session: Session,
        index: int,
        spawned: tuple[int, int],
        previous: Sequence[Candidate],
        out: Flow[Candidate],
    ) -> None:
        before, read = previous[index], self.read(index, previous, session)
        role = self.writer(before, session, last=spawned[0] + 1 == self.rounds)
        sample = await show(session, problem, read, self.prompt, own=answer_of(before), role=role)
        if sample is None:
            return
        one = session.candidate(sample, parents=[*read], spawned=spawned, round=spawned[0] + 1)
        out.emit(await session.judged(one) if session.verifier is not None else one)

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """Elected among the answers of the last round that has any."""
        rounds = [one.notes.get("round", 0) for one in candidates]
        return self.elect([one for one, number in zip(candidates, rounds, strict=True) if number == max(rounds)])
