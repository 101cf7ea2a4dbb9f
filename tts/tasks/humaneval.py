"""HumanEval: 164 Python functions to complete (Chen et al. 2021, "Evaluating Large Language Models Trained on Code",
arXiv 2107.03374). The examples in a prompt are its public tests; the benchmark's own `test` is the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from tts.tasks import Example, Task
from tts.tasks.loading import Line, data_file, read_jsonl
from tts.tasks.prompt_examples import prompt_examples
from tts.types import Problem
from tts.verifiers.unit_tests import TestSuite, UnitTests

URL = "https://raw.githubusercontent.com/openai/human-eval/master/data/HumanEval.jsonl.gz"
INSTRUCTION = (
    "Complete the following Python function. Reply with the whole function, with the imports it needs, "
    "in one fenced python block."
)

WRONG_EXAMPLES = {
    "HumanEval/47": {
        "assert median([-10, 4, 6, 1000, 10, 20]) == 15.0": "the two middle values are 6 and 10",
    },
    "HumanEval/116": {
        "assert sort_array([1, 5, 2, 3, 4]) == [1, 2, 3, 4, 5]": "4 has fewer ones in binary than 3",
        "assert sort_array([-2, -3, -4, -5, -6]) == [-6, -5, -4, -3, -2]": "sorts by value, not by ones",
    },
    "HumanEval/130": {
        "assert tri(1) == 3": "defines the sequence; the function returns a list",
        "assert tri(2) == 2": "defines the sequence; the function returns a list",
        "assert tri(4) == 3": "defines the sequence; the function returns a list",
    },
    "HumanEval/148": {
        "assert bf('Earth', 'Mercury') == 'Venus'": "meant is a tuple of one name",
    },
}
"""By problem: examples of the original prompts that its reference solution does not satisfy, and why."""


class HumanEval(Task):
    """HumanEval; a program is right when it passes the benchmark's hidden tests."""

    name: ClassVar[str] = "humaneval"

    source: ClassVar[tuple[str, str]] = ("HumanEval.jsonl.gz", URL)
    """Name and address of the data."""

    path: Path | None = None
    """A local file in the original format (.jsonl or .jsonl.gz); downloaded by default."""
    style: Literal["chat", "completion"] = "chat"
    """A question to a chat model, or the bare beginning of the function for a base model. For the latter give the
    sampler stop sequences, such as "\\ndef", "\\nclass", "\\nif" and "\\nprint"."""

    def examples(self) -> Iterator[Example]:
        """Problems `HumanEval/0` to `HumanEval/163`."""
        for line in read_jsonl(data_file(self.path, *self.source)):
            id, prompt, name = (line.need(key, str) for key in ("task_id", "prompt", "entry_point"))
            wrong = WRONG_EXAMPLES.get(id, {})
            asserts = [text for text in prompt_examples(prompt, name) if text not in wrong]
            problem = Problem(
                id=id,
                messages=self._messages(prompt),
                tests={"entry_point": name, "prompt": prompt, "asserts": asserts},
                verifier=UnitTests.name,
                metadata={"entry_point": name},
            )
            yield Example(problem, self._truth(line, id, prompt, name))

    def _truth(self, line: Line, id: str, prompt: str, name: str) -> UnitTests:
        suite = TestSuite(entry_point=name, prompt=prompt, check=line.need("test", str))
        return UnitTests(tests=suite, stop_at_failure=True)

    def _messages(self, prompt: str) -> tuple[dict[str, Any], ...] | str:
        if self.style == "completion":
            return prompt
        return ({"role": "user", "content": f"{INSTRUCTION}\n\n```python\n{prompt.strip()}\n```"},)
