"""GPQA: graduate-level questions in biology, physics and chemistry, each with four options (Rein et al. 2023,
arXiv 2311.12022).

Its authors ask that examples are not published in plain text, where models would be trained on them.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import ClassVar

from tts.errors import ConfigError
from tts.tasks import Example, Task
from tts.tasks.loading import Line, data_file
from tts.types import Problem
from tts.verifiers.choice import Choice

URL = "https://openaipublic.blob.core.windows.net/simple-evals/gpqa_diamond.csv"
INSTRUCTION = (
    "Answer the following question. Think it through first; then write the letter of the right option, and nothing "
    "else, on a last line of the form\nAnswer: x"
)
WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class GPQA(Task):
    """GPQA Diamond (198 questions), or any part of GPQA from a local file; right is the letter of the right option."""

    name: ClassVar[str] = "gpqa"

    path: Path | None = None
    """A local file in the original format (CSV): gpqa_diamond.csv, gpqa_main.csv, ...; downloaded by default."""
    seed: int = 0
    """Another seed puts the options in another order."""

    def examples(self) -> Iterator[Example]:
        """Problems `gpqa/RECORD-ID`, or the number of the record, in the order of the file."""
        path = data_file(self.path, "gpqa_diamond.csv", URL)
        try:
            with path.open(encoding="utf-8", newline="") as file:
                for number, record in enumerate(csv.DictReader(file)):
                    yield self._example(Line(path, number + 1, record), number)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"cannot read {path} as CSV: {error}") from error

    def _example(self, line: Line, number: int) -> Example:
        question, *options = (_text(line, key) for key in ("Question", "Correct Answer", *WRONG))
        id = f"gpqa/{line.record.get('Record ID') or number}"
        digest = hashlib.blake2b(f"{self.seed}\0{question}".encode(), digest_size=8).digest()
        order = Random(int.from_bytes(digest, "big")).sample(range(4), 4)
        shown = tuple(options[i] for i in order)
        lines = "\n".join(f"({letter}) {option}" for letter, option in zip("ABCD", shown, strict=True))
        reader = Choice(options=shown)
        problem = Problem.from_prompt(
            f"{INSTRUCTION}\n\n{question}\n\n{lines}",
            id=id,
            answer=reader.spec,
            metadata={"domain": line.record.get("High-level domain") or ""},
        )
        return Example(problem, Choice(options=shown, reference="ABCD"[order.index(0)]))


def _text(line: Line, key: str) -> str:
    if not (text := line.need(key, str).strip()):
        raise line.error(f"'{key}' is empty")
    return text
