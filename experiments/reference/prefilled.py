"""HumanEval+ asked the way EvalPlus asks chat models: the answer is begun for the model, inside its code block.

EvalPlus (Liu et al. 2023, arXiv 2305.01210) puts a sentence and the opening fence into the model's mouth and lets it go
on up to the closing fence. The words here are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tts.tasks import Example
from tts.tasks.humaneval import HumanEvalPlus

INSTRUCTION = "Write a complete Python script, in one code block, that solves this problem:"
BEGUN = "This Python script has a complete function that solves the problem and passes its tests:\n```python\n"


class Prefilled(HumanEvalPlus):
    """HumanEval+ with the beginning of the answer given."""

    name: ClassVar[str] = "humaneval_plus_prefilled"

    def examples(self) -> Iterator[Example]:
        """The examples of `HumanEvalPlus` with the same tests."""
        for example in super().examples():
            problem = example.problem
            prompt = (problem.tests or {})["prompt"].strip()
            turns = (
                {"role": "user", "content": f"{INSTRUCTION}\n```\n{prompt}\n```"},
                {"role": "assistant", "content": BEGUN},
            )
            yield example._replace(problem=problem.model_copy(update={"messages": turns}))
