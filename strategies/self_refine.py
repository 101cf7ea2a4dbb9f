"""Attempt, read what is wrong with it, improve it (Madaan et al. 2023, "Self-Refine", arXiv 2303.17651).

What is wrong comes from the model itself, as in the paper, or from a verifier, where there is one: failed tests
(`unit_tests`), a judge's reasons (`judge`), violated constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from tts.prompting import fill, filled, template, without_thoughts
from tts.session import Session
from tts.strategies.sequential_feedback import Sequential
from tts.types import Candidate, Problem, Sample

REFINE = """\
This is what is to be improved in your answer:

$feedback

Correct it. Give the whole answer anew, in the form that was asked for."""
CRITIQUE = """\
This is a task and an answer to it. Say precisely and briefly what is wrong with the answer or missing from it, so \
that its author can correct it. Do not write the corrected answer. If nothing is wrong or missing, reply with these \
words alone: Nothing is wrong

<task>
$problem
</task>

<answer>
$answer
</answer>"""


class SelfRefine(Sequential):
    """Attempts in one conversation, each improved by the feedback on the one before.

    It ends when the verifier accepts, or when the model finds nothing wrong with what no verifier has refused. Without
    a verifier the last attempt is the answer.
    """

    needs_verifier = False

    feedback: Literal["verifier", "self"] = "verifier"
    """Who says what is wrong. Where no verifier gives words, the model criticises itself."""
    refine_prompt: Annotated[str, template("feedback")] = REFINE
    """What the author is told."""
    critique_prompt: Annotated[str, template("problem", "answer")] = CRITIQUE
    """What the model is asked when it criticises itself."""
    stop: str = "Nothing is wrong"
    """What it is to reply when there is nothing to criticise."""

    async def reply(
        self, problem: Problem, attempts: Sequence[Candidate], session: Session
    ) -> tuple[str, Sequence[Sample]]:
        verdict = attempts[-1].verdict
        if verdict is not None and verdict.feedback and self.feedback == "verifier":
            return fill(self.refine_prompt, feedback=verdict.feedback), ()
        asked = await filled(self.critique_prompt, problem=problem, answer=attempts[-1])
        critique = await session.one([{"role": "user", "content": asked}], inner=True)
        words = without_thoughts(critique.text).strip() if critique else ""
        samples = () if critique is None else (critique,)
        if words.strip(" .!*\"'").casefold() == self.stop.casefold():
            if verdict is None or verdict.passed is not False:
                return "", samples
            words = ""
        return fill(self.refine_prompt, feedback=words or "It is not right yet."), samples
