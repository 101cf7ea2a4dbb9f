"""Attempt, be told "wrong" with a hint, attempt again.

The sequential protocol of Balachandran et al. 2025 (arXiv 2504.00294): a critic sees the question and all attempts, is
told that they are wrong and nothing else, and gives a hint without the answer. In the paper the truth decides whether
to go on (`verifier=oracle`, labelled as such); with any other verifier this is a method, with its false acceptances.

`Sequential` is what it shares with `self_refine`: one attempt after another in one conversation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import PositiveInt

from tts.base import Strategy, best
from tts.concurrency import Flow, flow
from tts.prompting import answer_of, fill, filled, template, without_thoughts
from tts.session import Session
from tts.types import Candidate, Problem, Sample


class Sequential(Strategy):
    """Attempts until one is accepted; `reply` makes what the model is told in between."""

    stated = frozenset({"rounds", "chains"})
    needs_verifier = True

    rounds: PositiveInt = 3
    """Attempts at most, in one conversation."""
    chains: PositiveInt = 1
    """Independent conversations, side by side."""

    async def reply(
        self, problem: Problem, attempts: Sequence[Candidate], session: Session
    ) -> tuple[str, Sequence[Sample]]:
        """The user's turn after the last of `attempts`, and the samples that it took; empty: nothing to say."""
        raise NotImplementedError

    def check(self, session: Session) -> None:
        """Raise `ConfigError` for what is missing; asked before anything is spent."""

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Every attempt with its verdict, the first ones of all conversations, then the second, ..."""
        self.check(session)

        async def converse_all(out: Flow[Candidate]) -> None:
            async for first in session.sample(problem.turns, n=self.chains):
                out.start(self._converse(problem, session, first, out))

        return flow(converse_all)

    async def _converse(self, problem: Problem, session: Session, first: Sample, out: Flow[Candidate]) -> None:
        turns, attempts = problem.turns, list[Candidate]()
        sample: Sample | None = first
        told: Sequence[Sample] = ()
        for number in range(self.rounds):
            candidate = session.candidate(
                sample,
                *told,
                parents=attempts[-1:],
                spawned=(number, first.index),
                round=number + 1,
                chain=first.index,
            )
            if session.verifier is not None:
                candidate = await session.judged(candidate)
            out.emit(candidate)
            attempts.append(candidate)
            if candidate.passed or number + 1 == self.rounds:
                return
            words, told = await self.reply(problem, attempts, session)
            if not words:  # what it took to know that belongs to this attempt
                out.emit(replace(candidate, charges=candidate.charges.union(*(one.charges for one in told))))
                return
            turns += [{"role": "assistant", "content": answer_of(candidate)}, {"role": "user", "content": words}]
            if (sample := await session.one(turns)) is None:  # say because the conversation is too long; it is noted
                return

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The best verdict; the latest among equals, which knows most."""
        return best(candidates[::-1])


CRITIC = """\
A student tries to solve a problem. All attempts so far were marked wrong; what is right is not known to you either.

<problem>
$problem
</problem>

$attempts

List the final answers that were given, all of which are wrong. Look for where the reasoning fails and what has not \
been considered. Then write a short hint that helps the student to a better attempt. Do not give a final answer."""
AGAIN = """\
That is not right. You have made $count so far. A teacher who has read them says:

$hint

Try again from the beginning, and give your final answer in the form that was asked for."""


class SequentialFeedback(Sequential):
    """Attempts in one conversation; after each rejected one a critic, who knows no more than that, gives a hint."""

    critic: Literal["policy", "judge"] = "policy"
    """The role of the critic; in the paper it is the same model."""
    critic_prompt: Annotated[str, template("problem", "attempts")] = CRITIC
    """What the critic is asked, outside the conversation."""
    again_prompt: Annotated[str, template("count", "hint")] = AGAIN
    """What the student is told."""

    def check(self, session: Session) -> None:
        session.sampler(self.critic)

    async def reply(
        self, problem: Problem, attempts: Sequence[Candidate], session: Session
    ) -> tuple[str, Sequence[Sample]]:
        """The critic's hint; without one the student is only told to try again."""
        shown = "\n\n".join(
            f'<attempt number="{i}">\n{answer_of(attempt)}\n</attempt>' for i, attempt in enumerate(attempts, 1)
        )
        asked = await filled(self.critic_prompt, problem=problem, attempts=shown)
        said = await session.one([{"role": "user", "content": asked}], role=self.critic, inner=True)
        hint = without_thoughts(said.text).strip() if said else "Look for your mistake."
        count = "one attempt" if len(attempts) == 1 else f"{len(attempts)} attempts"
        return fill(self.again_prompt, count=count, hint=hint), () if said is None else (said,)
