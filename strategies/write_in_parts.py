"""A long text, planned first and then written part by part.

AgentWrite: Bai et al. 2024, "LongWriter" (arXiv 2408.07055), section 3. Models end a text long before they have to; a
plan of parts makes it as long as was asked for. Each part reads all before it, so that prompts grow with the square.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated

from pydantic import PositiveInt

from tts.base import Strategy
from tts.concurrency import Flow, flow
from tts.errors import BudgetSpent
from tts.prompting import fill, problem_text, template, without_thoughts
from tts.sampler.parameters import merged, token_limit
from tts.session import Session
from tts.types import Candidate, Problem, Sample

PLAN = """\
This is a request for a text:

<request>
$problem
</request>

Plan the text. Divide it into parts of one or a few paragraphs that follow on each other, $parts at most. Write one \
line for each part: what it says, and how many words it has, between 200 and 1000; together as many as were asked for. \
Write nothing else."""
PART = """\
This is a request for a text:

<request>
$problem
</request>

This is the plan of the text, a part to a line:

<plan>
$plan
</plan>

This is what has been written so far:

<text>
$written
</text>

Go on with part $number, and with nothing else of the plan: $part

Write this part alone, without a title or remarks, so that it follows on the text so far."""


class WriteInParts(Strategy):
    """N texts, each made of the parts of a plan of its own, written one after the other in the light of those before.

    A text is one candidate. It ends early where its tokens or the budget do.
    """

    in_pieces = True

    n: PositiveInt = 1
    """Texts; of several the verifier says which."""
    parts: PositiveInt = 50
    """Most parts of a text; what a plan has beyond that is left out, and noted."""
    plan_prompt: Annotated[str, template("problem", "parts")] = PLAN
    """What the model is asked first."""
    part_prompt: Annotated[str, template("problem", "plan", "written", "part", "number")] = PART
    """What it is asked for each part: `$part` is its line of the `$plan`."""

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        asked = fill(self.plan_prompt, problem=problem_text(problem), parts=str(self.parts))

        async def write_all(out: Flow[Candidate]) -> None:
            plans = session.sample([{"role": "user", "content": asked}], n=self.n, inner=True)
            async with aclosing(plans):
                async for plan in plans:
                    out.start(self._write(problem, session.at((plan.index,)), plan, out))

        return flow(write_all)

    async def _write(self, problem: Problem, session: Session, plan: Sample, out: Flow[Candidate]) -> None:
        samples, texts, spent = [plan], list[str](), None
        lines = [line.strip() for line in without_thoughts(plan.text).splitlines() if line.strip(" \t`")]
        lines = lines or ["the whole text"]
        if len(lines) > self.parts:
            session.ledger.failures.append(f"a plan has {len(lines)} parts; the first {self.parts} are written")
        known = merged(session.sampler("policy").endpoint.params, session.sampling)
        limit, left = token_limit(known), session.longest
        for number, line in enumerate(lines[: self.parts], 1):
            room = {} if left is None else {limit: min(left, known.get(limit) or left)}
            words = fill(
                self.part_prompt,
                problem=problem_text(problem),
                plan="\n".join(lines),
                written="\n\n".join(texts),
                part=line,
                number=str(number),
            )
            try:
                part = await session.one([{"role": "user", "content": words}], **room)
            except BudgetSpent as error:
                spent, samples[-1] = error, replace(samples[-1], finish_reason="budget")
                break
            if part is None:  # say because the text so far is too long; it is noted
                break
            samples.append(part)
            texts.append(without_thoughts(part.text).strip())
            if left is not None:
                left -= round(sum(charge.usage.completion_tokens for charge in part.charges))
                if left <= 0:
                    samples[-1] = replace(part, finish_reason="length")
                    break
        if texts:
            whole = session.candidate("\n\n".join(texts), *samples, spawned=(plan.index,), parts=len(texts))
            out.emit(await session.judged(whole) if session.verifier is not None and spent is None else whole)
        if spent is not None:
            raise spent
