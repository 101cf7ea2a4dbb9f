"""Whether an output is right, and words for what is wrong. A tolerance is for floats alone: where a whole number is
expected, only its exact value is right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import zip_longest
from typing import Any, Literal

from tts.verifiers.programs.equality import near
from tts.verifiers.sandbox import Opaque

Output = Literal["lines", "exact", "tokens", "numbers"]
"""How outputs are compared: line by line without space at the ends; to the character; word by word; line by line
and word by word, words that are numbers by value, within a tolerance where no whole number is expected."""

FEEDBACK = 500  # characters that the model reads
SHOWN = 160  # characters, of one value


# -- outputs -------------------------------------------------------------------------------------------------------


def same_output(got: str, expected: str, mode: Output = "lines", tolerance: float = 0.0) -> bool:
    """Whether a program printed what it should. `tolerance` is relative and absolute, for `numbers`."""
    if mode == "exact":
        return got == expected
    if mode == "tokens":
        return got.split() == expected.split()
    if mode == "lines":
        return _lines(got) == _lines(expected)
    lines, wanted = _lines(got.lstrip()), _lines(expected.lstrip())
    return len(lines) == len(wanted) and all(
        line == other or _same_words(line.split(), other.split(), tolerance)
        for line, other in zip(lines, wanted, strict=True)
    )


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _same_words(words: list[str], wanted: list[str], tolerance: float) -> bool:
    return len(words) == len(wanted) and all(
        word == other or _same_number(word, other, tolerance) for word, other in zip(words, wanted, strict=True)
    )


_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,6})?")
_WHOLE = re.compile(r"[-+]?[0-9]+")
_NOT_FINITE = {"inf", "infinity", "nan"}


def _same_number(word: str, other: str, tolerance: float) -> bool:
    """Whether two words are the same number. Where a whole number is expected only the same value is."""
    if not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(other)):
        known = word.lstrip("+-").lower() in _NOT_FINITE and other.lstrip("+-").lower() in _NOT_FINITE
        return known and near(float(word), float(other), 0.0, 0.0)
    if Decimal(word) == Decimal(other):
        return True
    if tolerance <= 0 or _WHOLE.fullmatch(other) or not math.isfinite(float(other)):
        return False
    return near(float(word), float(other), tolerance, tolerance)


def output_difference(got: str, expected: str) -> str:
    """The first line that differs, for the model."""
    for number, (line, wanted) in enumerate(zip_longest(_lines(got), _lines(expected)), 1):
        if line != wanted:
            place = f"line {number} of the output: " if number > 1 else "output: "
            return f"{place}expected {_end(wanted)}, got {_end(line)}"
    return f"output: expected {shown(expected)}, got {shown(got)}"


def _end(line: str | None) -> str:
    return "the end" if line is None else shown(line)


# -- words ---------------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A short `repr` of plain data."""
    if isinstance(value, Opaque):
        return f"an object of type {shortened(value.type, 60)}"
    try:
        return shortened(repr(value), SHOWN)
    except (ValueError, RecursionError):  # an int of too many digits, nesting too deep
        return f"a {type(value).__name__} too large to show"


def call_text(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], limit: int = 250) -> str:
    """A call as it is written, shortened."""
    words = [*map(shown, args), *(f"{key}={shown(value)}" for key, value in kwargs.items())]
    return f"{name}({shortened(', '.join(words), limit)})"


def shortened(text: str, limit: int = FEEDBACK) -> str:
    """`text` with its middle left out."""
    half = (limit - 5) // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"
