"""What the programs of `lab_code` are made of: small operations in families of readings that are easily confused.

A family may have a vague wording, which leaves open which of its readings is meant; the examples then decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

Kind = Literal["ints", "text", "words", "value"]
VARIABLES: dict[Kind, str] = {"ints": "xs", "text": "s", "words": "ws"}
"""The variable that holds a value of each kind; a value of the kind `value` can only be returned."""


@dataclass(frozen=True)
class Piece:
    """One operation: an expression over the variable of the kind that it takes."""

    says: str
    """Its exact wording, an imperative."""
    code: str
    takes: Kind
    gives: Kind
    family: str
    """The vague wording of its family; also the family's name."""

    def __call__(self, value: Any) -> Any:
        """Its result on `value`."""
        return _compiled(VARIABLES[self.takes], self.code)(value)


@cache
def _compiled(variable: str, code: str) -> Callable[[Any], Any]:
    return eval(f"lambda {variable}: {code}")  # the expressions below and no others


_NUMBERS: dict[str, dict[str, str]] = {
    "keep the large numbers": {
        "keep the numbers above 3": "[x for x in xs if x > 3]",
        "keep the numbers above 6": "[x for x in xs if x > 6]",
        "keep the numbers of at least 6": "[x for x in xs if x >= 6]",
        "keep the numbers of at least 9": "[x for x in xs if x >= 9]",
    },
    "keep the small numbers": {
        "keep the numbers below 3": "[x for x in xs if x < 3]",
        "keep the numbers below 6": "[x for x in xs if x < 6]",
        "keep the numbers of at most 6": "[x for x in xs if x <= 6]",
        "keep the numbers of at most 9": "[x for x in xs if x <= 9]",
    },
    "keep one kind of number": {
        "keep the even numbers": "[x for x in xs if x % 2 == 0]",
        "keep the odd numbers": "[x for x in xs if x % 2 == 1]",
        "keep the multiples of 3": "[x for x in xs if x % 3 == 0]",
        "keep the multiples of 5": "[x for x in xs if x % 5 == 0]",
    },
    "keep the useful numbers": {
        "keep the positive numbers": "[x for x in xs if x > 0]",
        "drop the negative numbers": "[x for x in xs if x >= 0]",
        "drop the zeros": "[x for x in xs if x != 0]",
    },
    "shift each number": {
        "add 1 to each": "[x + 1 for x in xs]",
        "add 2 to each": "[x + 2 for x in xs]",
        "subtract 1 from each": "[x - 1 for x in xs]",
        "subtract 3 from each": "[x - 3 for x in xs]",
    },
    "scale each number": {
        "double each": "[x * 2 for x in xs]",
        "multiply each by 3": "[x * 3 for x in xs]",
        "square each": "[x * x for x in xs]",
        "multiply each by 10": "[x * 10 for x in xs]",
    },
    "change the signs": {
        "negate each": "[-x for x in xs]",
        "make each absolute": "[abs(x) for x in xs]",
        "make each negative": "[-abs(x) for x in xs]",
    },
    "reduce each number": {
        "halve each, rounded down": "[x // 2 for x in xs]",
        "take each modulo 2": "[x % 2 for x in xs]",
        "take each modulo 3": "[x % 3 for x in xs]",
        "take each modulo 5": "[x % 5 for x in xs]",
    },
    "put them in order": {
        "sort them": "sorted(xs)",
        "sort them downwards": "sorted(xs, reverse=True)",
        "sort them by absolute value": "sorted(xs, key=abs)",
        "reverse them": "xs[::-1]",
    },
    "remove repeats": {
        "keep the first of equal ones": "list(dict.fromkeys(xs))",
        "sort them without repeats": "sorted(set(xs))",
        "drop those that repeat": "[x for x in xs if xs.count(x) == 1]",
    },
    "take a few": {
        "take the first two": "xs[:2]",
        "take the first three": "xs[:3]",
        "take the last two": "xs[-2:]",
        "take the last three": "xs[-3:]",
    },
    "leave some out": {
        "drop the first": "xs[1:]",
        "drop the last": "xs[:-1]",
        "drop the first and the last": "xs[1:-1]",
        "take every second one": "xs[::2]",
    },
}
_NUMBERS_TO_VALUE: dict[str, dict[str, str]] = {
    "sum them up": {
        "return the sum": "sum(xs)",
        "return the sum of the squares": "sum(x * x for x in xs)",
        "return the sum of the absolute values": "sum(abs(x) for x in xs)",
    },
    "return the extreme": {
        "return the largest, or 0": "max(xs, default=0)",
        "return the smallest, or 0": "min(xs, default=0)",
        "return the largest by absolute value, or 0": "max(xs, key=abs, default=0)",
    },
    "count them": {
        "return how many there are": "len(xs)",
        "return how many different ones there are": "len(set(xs))",
        "return how many are positive": "sum(x > 0 for x in xs)",
    },
    "check them": {
        "return whether all are positive": "all(x > 0 for x in xs)",
        "return whether any is negative": "any(x < 0 for x in xs)",
        "return whether all are even": "all(x % 2 == 0 for x in xs)",
        "return whether they are sorted": "xs == sorted(xs)",
    },
}
_TEXT: dict[str, dict[str, str]] = {
    "change the case": {
        "make it upper case": "s.upper()",
        "make it lower case": "s.lower()",
        "swap the case": "s.swapcase()",
        "capitalize each word": "s.title()",
    },
    "strip some characters": {
        "remove the vowels": "''.join(c for c in s if c not in 'aeiou')",
        "remove the spaces": "s.replace(' ', '')",
        "remove every e": "s.replace('e', '')",
        "remove repeated characters": "''.join(dict.fromkeys(s))",
    },
    "shorten it": {
        "keep the first 5 characters": "s[:5]",
        "keep the first 9 characters": "s[:9]",
        "keep the last 5 characters": "s[-5:]",
        "drop the first and the last character": "s[1:-1]",
    },
    "rearrange it": {
        "reverse it": "s[::-1]",
        "sort its characters": "''.join(sorted(s))",
        "move its first character to the end": "s[1:] + s[:1]",
    },
    "extend it": {
        "repeat it twice": "s * 2",
        "add its reverse": "s + s[::-1]",
        "add an exclamation mark": "s + '!'",
    },
}
_TEXT_TO_WORDS = {
    "split it": {
        "split it into words": "s.split()",
        "split it into characters": "list(s)",
        "split it at every e": "s.split('e')",
    },
}
_TEXT_TO_VALUE = {
    "measure it": {
        "return its length": "len(s)",
        "return the number of words": "len(s.split())",
        "return the number of different characters": "len(set(s))",
        "return the number of vowels": "sum(c in 'aeiou' for c in s)",
    },
}
_WORDS = {
    "sort the words": {
        "sort the words by alphabet": "sorted(ws)",
        "sort the words by length": "sorted(ws, key=len)",
        "reverse the list of words": "ws[::-1]",
    },
    "keep the long words": {
        "keep the words of at least 4 letters": "[w for w in ws if len(w) >= 4]",
        "keep the words of more than 4 letters": "[w for w in ws if len(w) > 4]",
        "keep the words of more than 2 letters": "[w for w in ws if len(w) > 2]",
    },
    "change each word": {
        "reverse each word": "[w[::-1] for w in ws]",
        "capitalize every word": "[w.title() for w in ws]",
        "keep the first letter of each word": "[w[:1] for w in ws]",
        "drop the first letter of each word": "[w[1:] for w in ws]",
    },
    "pick some words": {
        "take the first two words": "ws[:2]",
        "drop the first word": "ws[1:]",
        "drop the last word": "ws[:-1]",
        "take every second word": "ws[::2]",
    },
}
_WORDS_TO_TEXT = {
    "join them": {
        "join them with spaces": "' '.join(ws)",
        "join them with dashes": "'-'.join(ws)",
        "join them without a gap": "''.join(ws)",
    },
}
_WORDS_TO_NUMBERS = {
    "measure the words": {
        "take the length of each word": "[len(w) for w in ws]",
        "count the vowels of each word": "[sum(c in 'aeiou' for c in w) for w in ws]",
        "count the e's of each word": "[w.count('e') for w in ws]",
    },
}

_TABLES: list[tuple[Kind, Kind, dict[str, dict[str, str]]]] = [
    ("ints", "ints", _NUMBERS),
    ("ints", "value", _NUMBERS_TO_VALUE),
    ("text", "text", _TEXT),
    ("text", "words", _TEXT_TO_WORDS),
    ("text", "value", _TEXT_TO_VALUE),
    ("words", "words", _WORDS),
    ("words", "text", _WORDS_TO_TEXT),
    ("words", "ints", _WORDS_TO_NUMBERS),
]
PIECES: dict[str, Piece] = {
    says: Piece(says, code, takes, gives, family)
    for takes, gives, table in _TABLES
    for family, readings in table.items()
    for says, code in readings.items()
}
"""All pieces by their exact wording."""


@cache
def readings(family: str) -> tuple[Piece, ...]:
    """The pieces of a family."""
    return tuple(piece for piece in PIECES.values() if piece.family == family)


@cache
def pieces_from(kind: Kind) -> tuple[Piece, ...]:
    """The pieces that take a value of `kind`."""
    return tuple(piece for piece in PIECES.values() if piece.takes == kind)
