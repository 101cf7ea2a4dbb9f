"""GPQA: graduate-level questions in biology, physics and chemistry, each with four options (Rein et al. 2023,
arXiv 2311.12022).

Its authors ask that examples not be published in plain text, where models would be trained on them.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tts.errors import ConfigError
from tts.tasks import Example, Task
from tts.tasks.building import choice_example, lettered
from tts.tasks.loading import Record, data_file, not_text

URL = "https://openaipublic.blob.core.windows.net/simple-evals/gpqa_diamond.csv"
INSTRUCTION = (
    "Answer the following question. Think it through first; then write the letter of the right option, and nothing "
    "else, on a last line of the form\nAnswer: x"
)
FIELDS = ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class GPQA(Task):
    """GPQA Diamond (198 questions), or any part of GPQA from a local file; right is the letter of the right option."""

    path: Path | None = None
    """A local file in the original format (CSV): gpqa_diamond.csv, gpqa_main.csv, ...; downloaded by default."""
    seed: int = 0
    """Another seed shuffles the options differently."""

    def examples(self) -> Iterator[Example]:
        """Problems `gpqa/RECORD-ID`, or the number of the record, in the order of the file."""
        path = data_file(self.path, "gpqa_diamond.csv", URL)
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                for number, record in enumerate(csv.DictReader(file)):
                    yield self._example(Record(path, number + 1, record), number)
        except UnicodeDecodeError as error:
            raise ConfigError(f"cannot read {path} as CSV: {not_text(error)}") from error
        except (OSError, csv.Error) as error:
            raise ConfigError(f"cannot read {path} as CSV: {error}") from error

    def _example(self, record: Record, number: int) -> Example:
        question, *options = (_text(record, key) for key in FIELDS)
        digest = hashlib.blake2b(f"{self.seed}\0{question}".encode(), digest_size=8).digest()
        order = Random(int.from_bytes(digest, "big")).sample(range(4), 4)
        shown = [options[i] for i in order]
        id, domain = record.fields.get("Record ID") or number, record.fields.get("High-level domain") or ""
        text = f"{INSTRUCTION}\n\n{question}\n\n{lettered(shown)}"
        return choice_example(f"gpqa/{id}", text, shown, order.index(0), {"domain": domain})


def _text(record: Record, key: str) -> str:
    if not (text := record.need(key, str).strip()):
        raise record.error(f"'{key}' is empty")
    return text
