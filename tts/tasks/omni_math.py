"""Omni-MATH: 4,428 problems of mathematical olympiads with difficulties from 1 to 10 (Gao et al. 2024, arXiv
2410.07985)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tts.tasks import Example
from tts.tasks.math500 import Math500

URL = "https://huggingface.co/datasets/KbsdJames/Omni-MATH/resolve/main/test.jsonl"


class OmniMath(Math500):
    """Omni-MATH; an answer is right when it means the same as the reference.

    Its authors let a model compare. Answers here are compared as mathematics: where the reference is a sentence, a
    right answer in other words counts as wrong.
    """

    name: ClassVar[str] = "omni_math"
    source: ClassVar[tuple[str, str]] = ("omni_math.jsonl", URL)
    kept: ClassVar[tuple[str, ...]] = ("domain", "difficulty", "source")

    easiest: float = 0.0
    """Leaves out problems of a lower difficulty."""
    hardest: float = 10.0
    """Leaves out problems of a higher difficulty."""

    def examples(self) -> Iterator[Example]:
        """Problems `omni_math/0`, ... numbered as in the file, those of the difficulties that are wanted."""
        for example in super().examples():
            if self.easiest <= float(example.problem.metadata.get("difficulty", self.easiest)) <= self.hardest:
                yield example
