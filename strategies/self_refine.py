"""Attempt, read what is wrong with it, improve it (Madaan et al. 2023, "Self-Refine", arXiv 2303.17651).

What is wrong comes from the verifier: failed tests (`unit_tests`), a judge's reasons (`judge`), violated constraints;
or from the model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from tts.prompting import answer_of, fill, problem_text, template, without_thoughts
from tts.session import Session
from tts.strategies.sequential_feedback import Sequential
from tts.types import Candidate, Problem, Sample

REFINE = """\
This is what is to be improved in your answer:

$feedback

Correct it. Give the whole answer anew, in the form that was asked for."""
CRITIQUE = """\
This is a task and an answer to it. Say precisely and briefly what is wrong with the answer or missing from it, so \
that its author can correct it. Do not write the corrected answer.

<task>
$problem
</task>

<answer>
$answer
</answer>"""


class SelfRefine(Sequential):
    """Attempts in one conversation, each improved by the feedback on the one before, until the verifier accepts."""

    feedback: Literal["verifier", "self"] = "verifier"
    """Who says what is wrong. Where the verifier gives no words, the model criticises itself."""
    refine_prompt: Annotated[str, template("feedback")] = REFINE
    """What the author is told."""
    critique_prompt: Annotated[str, template("problem", "answer")] = CRITIQUE
    """What the model is asked when it criticises itself."""

    async def reply(
        self, problem: Problem, attempts: Sequence[Candidate], session: Session
    ) -> tuple[str, Sequence[Sample]]:
        verdict, samples = attempts[-1].verdict, []
        words = verdict.feedback if verdict is not None and self.feedback == "verifier" else ""
        if not words:
            asked = fill(self.critique_prompt, problem=problem_text(problem), answer=answer_of(attempts[-1]))
            critique = await session.one([{"role": "user", "content": asked}])
            samples = [] if critique is None else [critique]
            words = without_thoughts(critique.text).strip() if critique else "It is not right yet."
        return fill(self.refine_prompt, feedback=words), samples
