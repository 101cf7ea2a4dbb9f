"""Competition mathematics: files of problems whose answers are numbers or LaTeX.

MATH-500: the 500 problems of MATH (Hendrycks et al. 2021, arXiv 2103.03874) that Lightman et al. 2023 ("Let's Verify
Step by Step", arXiv 2305.20050) set apart for tests. AIME: both contests of a year, 30 problems, with whole numbers
from 0 to 999 as answers. Omni-MATH: 4,428 olympiad problems of difficulties 1 to 10 (Gao et al. 2024, arXiv
2410.07985).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from tts import registry
from tts.errors import ConfigError
from tts.tasks import Example, Task
from tts.tasks.loading import Record, data_file, read_jsonl
from tts.types import Problem

INSTRUCTION = "Solve the following problem step by step. Put the final answer, and nothing else, within \\boxed{}."


class Math500(Task):
    """MATH-500; an answer is right if it means the same as the reference."""

    source: ClassVar[tuple[str, str]] = (
        "math500.jsonl",
        "https://huggingface.co/datasets/HuggingFaceH4/MATH-500/resolve/main/test.jsonl",
    )
    """File name and URL of the data."""
    comparison: ClassVar[str] = "math_answer"
    """The verifier of answers."""
    kept: ClassVar[tuple[str, ...]] = ("subject", "level", "unique_id", "url")
    """Fields of the file that become metadata."""

    path: Path | None = None
    """A local file whose lines have `answer`, and `problem` or a ready-made `prompt`. Downloaded by default."""

    def examples(self) -> Iterator[Example]:
        """Problems `math500/0`, `math500/1`, ... in the order of the file."""
        for number, record in enumerate(read_jsonl(data_file(self.path, *self.source))):
            metadata = {key: record.fields[key] for key in self.kept if key in record.fields}
            id, reference = f"{self.name}/{number}", str(record.need("answer", str, int))
            problem = Problem.from_prompt(_question(record), id=id, answer=self.comparison, metadata=metadata)
            try:
                truth = registry.make("verifiers", {"name": self.comparison, "reference": reference})
            except ConfigError as error:
                raise record.error(str(error)) from error
            yield Example(problem, truth, str(record.fields.get("solution") or ""))


def _question(record: Record) -> str:
    """The prompt in the file, or the problem with an instruction."""
    if record.fields.get("prompt") is not None:
        return record.need("prompt", str)
    return f"{INSTRUCTION}\n\n{record.need('problem', str)}"


class Aime24(Math500):
    """AIME 2024; an answer is right if it is the reference's number."""

    source: ClassVar[tuple[str, str]] = (
        "aime24.jsonl",
        "https://raw.githubusercontent.com/QwenLM/Qwen2.5-Math/main/evaluation/data/aime24/test.jsonl",
    )
    comparison: ClassVar[str] = "numeric_answer"


class Aime25(Aime24):
    """AIME 2025; an answer is right if it is the reference's number."""

    source: ClassVar[tuple[str, str]] = (
        "aime25.jsonl",
        "https://huggingface.co/datasets/math-ai/aime25/resolve/main/test.jsonl",
    )


class OmniMath(Math500):
    """Omni-MATH; an answer is right if it means the same as the reference.

    Its authors let a model compare. Here answers are compared as mathematics, so where the reference is a sentence, a
    right answer in other words counts as wrong.
    """

    source: ClassVar[tuple[str, str]] = (
        "omni_math.jsonl",
        "https://huggingface.co/datasets/KbsdJames/Omni-MATH/resolve/main/test.jsonl",
    )
    kept: ClassVar[tuple[str, ...]] = ("domain", "difficulty", "source")

    easiest: float = 0.0
    """Leaves out problems of lower difficulty."""
    hardest: float = 10.0
    """Leaves out problems of higher difficulty."""

    def examples(self) -> Iterator[Example]:
        """Problems `omni_math/0`, ... numbered as in the file, within the difficulties asked for."""
        for example in super().examples():
            if self.easiest <= float(example.problem.metadata.get("difficulty", self.easiest)) <= self.hardest:
                yield example
