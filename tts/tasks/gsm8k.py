"""GSM8K: 1,319 grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from tts.tasks import Example, Task
from tts.tasks.loading import data_file, read_jsonl
from tts.types import Problem
from tts.verifiers.numeric_answer import NumericAnswer

URL = "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/{split}.jsonl"
INSTRUCTION = (
    "Work out the following problem step by step. Then write the result, a number and nothing else, "
    "on a last line of the form\nAnswer: x"
)

_CALCULATED = re.compile(r"<<[^<>]*>>")
"""What a calculator was asked: 48/<<48/2=24>>24."""


class GSM8K(Task):
    """GSM8K; an answer is right if its final number is the reference's."""

    name: ClassVar[str] = "gsm8k"

    split: Literal["test", "train"] = "test"
    """1,319 problems to test with, or 7,473 to show as solved examples."""
    path: Path | None = None
    """A local file in the original format; downloaded by default."""

    @property
    def training(self) -> Task | None:
        return GSM8K(split="train") if self.split == "test" else None

    def examples(self) -> Iterator[Example]:
        """Problems `gsm8k/0`, `gsm8k/1`, ... in the order of the file; of the other split `gsm8k/train/0`, ..."""
        prefix = "gsm8k/" if self.split == "test" else f"gsm8k/{self.split}/"
        path = data_file(self.path, f"gsm8k_{self.split}.jsonl", URL.format(split=self.split))
        for number, record in enumerate(read_jsonl(path)):
            worked, mark, reference = record.need("answer", str).rpartition("####")
            if not mark:
                raise record.error("'answer' has no '#### x' at its end")
            text = f"{INSTRUCTION}\n\n{record.need('question', str)}"
            yield Example(
                Problem.from_prompt(text, id=f"{prefix}{number}", answer=NumericAnswer.name),
                NumericAnswer(reference=reference.strip()),
                f"{_CALCULATED.sub('', worked).strip()}\nAnswer: {reference.strip()}",
            )
