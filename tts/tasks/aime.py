"""AIME 2024 and 2025: both contests of a year, 30 problems, whose answers are whole numbers from 0 to 999."""

from __future__ import annotations

from typing import ClassVar

from tts.tasks.math500 import Math500


class Aime24(Math500):
    """AIME 2024; an answer is right when it is the reference's number."""

    name: ClassVar[str] = "aime24"
    source: ClassVar[tuple[str, str]] = (
        "aime24.jsonl",
        "https://raw.githubusercontent.com/QwenLM/Qwen2.5-Math/main/evaluation/data/aime24/test.jsonl",
    )
    comparison: ClassVar[str] = "numeric_answer"


class Aime25(Aime24):
    """AIME 2025; an answer is right when it is the reference's number."""

    name: ClassVar[str] = "aime25"
    source: ClassVar[tuple[str, str]] = (
        "aime25.jsonl",
        "https://huggingface.co/datasets/math-ai/aime25/resolve/main/test.jsonl",
    )
