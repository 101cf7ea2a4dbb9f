"""MATH-500: the 500 problems of MATH (Hendrycks et al. 2021, arXiv 2103.03874) that Lightman et al. 2023 ("Let's Verify
Step by Step", arXiv 2305.20050) set apart for tests. Answers are LaTeX of any kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tts import registry
from tts.errors import ConfigError
from tts.tasks import Example, Task
from tts.tasks.loading import Line, data_file, read_jsonl
from tts.types import Problem

URL = "https://huggingface.co/datasets/HuggingFaceH4/MATH-500/resolve/main/test.jsonl"
INSTRUCTION = "Solve the following problem step by step. Put the final answer, and nothing else, within \\boxed{}."


class Math500(Task):
    """MATH-500; an answer is right when it means the same as the reference."""

    name: ClassVar[str] = "math500"

    source: ClassVar[tuple[str, str]] = ("math500.jsonl", URL)
    """Name and address of the data."""
    comparison: ClassVar[str] = "math_answer"
    """The answer verifier."""
    kept: ClassVar[tuple[str, ...]] = ("subject", "level", "unique_id", "url")
    """Fields of the file that become metadata."""

    path: Path | None = None
    """A local file: each line has `answer`, and `problem`, or `prompt` as it is to be asked. Downloaded by default."""

    def examples(self) -> Iterator[Example]:
        """Problems `math500/0`, `math500/1`, ... in the order of the file."""
        for number, line in enumerate(read_jsonl(data_file(self.path, *self.source))):
            known = {key: line.record[key] for key in self.kept if key in line.record}
            id, reference = f"{self.name}/{number}", str(line.need("answer", str, int))
            problem = Problem.from_prompt(_question(line), id=id, answer=self.comparison, metadata=known)
            try:
                truth = registry.make("verifiers", {"name": self.comparison, "reference": reference})
            except ConfigError as error:
                raise line.error(str(error)) from error
            yield Example(problem, truth)


def _question(line: Line) -> str:
    """The prompt that the file gives, or the problem with an instruction."""
    if line.record.get("prompt") is not None:
        return line.need("prompt", str)
    return f"{INSTRUCTION}\n\n{line.need('problem', str)}"
