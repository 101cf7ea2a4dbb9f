"""The model that answered looks for mistakes in its own answer.

Madaan et al. 2023, "Self-Refine" (arXiv 2303.17651), section 2: the feedback step. What it finds becomes the verdict's
feedback, which guides strategies that revise an answer. It is only as good as the model itself; where there is another
model, `judge` is the stronger choice.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from tts.prompting import template
from tts.verifiers.judge import Judge

PROMPT = """\
You gave the answer below to a task. Assume that there is a mistake in it and find it: do the decisive steps again in
another way, test it on a small case, and compare it with each thing that the task asks for ($rubric)

<task>
$problem
</task>

<answer>
$answer
</answer>

Then say how sure you are that the answer holds, from $low (certainly wrong) to $high (certainly right).
Reply with JSON: {"reasons": "each mistake and how to repair it, or why there is none", "grade": a whole number}"""


class SelfCheck(Judge):
    """`judge` with the model that gave the answer: scores by how sure the model is on a second look."""

    roles: ClassVar[frozenset[str]] = frozenset({"policy"})

    prompt: Annotated[str, template("problem", "answer", "rubric", "low", "high")] = PROMPT
    """The prompt; the reply must be JSON with `reasons` and `grade`."""
