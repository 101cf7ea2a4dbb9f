"""The programs of `lab_code`: chains of small operations, their near misses, and tests that tell them apart or do not.

Operations come in families of readings that are easily confused. The vague wording of a family leaves open which
reading is meant; only the examples tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any, Literal

Kind = Literal["ints", "text", "words", "value"]
VARIABLES: dict[Kind, str] = {"ints": "xs", "text": "s", "words": "ws"}
"""The variable that holds a value of each kind; a `value` can only be returned."""
HINTS: dict[Kind, str] = {"ints": "list", "words": "list", "text": "str", "value": ""}
WORDS = "red blue Green tree Apple bee See sun Moon cat Mouse the an Eve over jump Level tea egg house"
TRIED_INPUTS = 60
HIDDEN_TESTS = 16

_PIECES: dict[tuple[Kind, Kind], dict[str, dict[str, str]]] = {
    ("ints", "ints"): {
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
    },
    ("ints", "value"): {
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
    },
    ("text", "text"): {
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
    },
    ("text", "words"): {
        "split it": {
            "split it into words": "s.split()",
            "split it into characters": "list(s)",
            "split it at every e": "s.split('e')",
        },
    },
    ("text", "value"): {
        "measure it": {
            "return its length": "len(s)",
            "return the number of words": "len(s.split())",
            "return the number of different characters": "len(set(s))",
            "return the number of vowels": "sum(c in 'aeiou' for c in s)",
        },
    },
    ("words", "words"): {
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
    },
    ("words", "text"): {
        "join them": {
            "join them with spaces": "' '.join(ws)",
            "join them with dashes": "'-'.join(ws)",
            "join them without a gap": "''.join(ws)",
        },
    },
    ("words", "ints"): {
        "measure the words": {
            "take the length of each word": "[len(w) for w in ws]",
            "count the vowels of each word": "[sum(c in 'aeiou' for c in w) for w in ws]",
            "count the e's of each word": "[w.count('e') for w in ws]",
        },
    },
}
"""By the kinds taken and returned: families by their vague wording, in them expressions by their exact wording."""


@dataclass(frozen=True)
class Piece:
    """One operation: an expression over the variable that holds its argument."""

    says: str
    """Its exact wording, an imperative."""
    code: str
    takes: Kind
    gives: Kind
    family: str
    """The vague wording of its family; also the family's name."""

    def __call__(self, value: Any) -> Any:
        return _compiled(VARIABLES[self.takes], self.code)(value)


@cache
def _compiled(variable: str, code: str) -> Callable[[Any], Any]:
    return eval(f"lambda {variable}: {code}")  # only ever the expressions above


PIECES: dict[str, Piece] = {
    says: Piece(says, code, takes, gives, family)
    for (takes, gives), families in _PIECES.items()
    for family, expressions in families.items()
    for says, code in expressions.items()
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


@dataclass(frozen=True)
class LabProgram:
    """A function that applies its pieces in order."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def takes(self) -> Kind:
        return self.pieces[0].takes

    @property
    def signature(self) -> str:
        """The first line: `def f(xs: list):`."""
        return f"def {self.name}({VARIABLES[self.takes]}: {HINTS[self.takes]}):"

    def source(self) -> str:
        """The code, a line for each piece."""
        lines = [f"    {VARIABLES[piece.gives]} = {piece.code}" for piece in self.pieces[:-1]]
        return "\n".join([self.signature, *lines, f"    return {self.pieces[-1].code}"])

    def says(self, vague: frozenset[int] = frozenset()) -> str:
        """The specification, a sentence; pieces at the positions `vague` have the wording of their family."""
        parts = [piece.family if i in vague else piece.says for i, piece in enumerate(self.pieces)]
        return f"{', then '.join(parts).capitalize()}."

    def __call__(self, value: Any) -> Any:
        for piece in self.pieces:
            value = piece(value)
        return value

    def near_misses(self) -> list[LabProgram]:
        """The programs that read one piece differently."""
        return [
            replace(self, pieces=(*self.pieces[:i], other, *self.pieces[i + 1 :]))
            for i, piece in enumerate(self.pieces)
            for other in readings(piece.family)
            if other != piece
        ]


def random_program(rng: Random, steps: int) -> LabProgram:
    """A program of `steps` pieces of different families."""
    while True:
        kind: Kind = rng.choice(("ints", "ints", "text"))
        chosen: list[Piece] = []
        while len(chosen) < steps and kind != "value":
            used = {piece.family for piece in chosen}
            chosen.append(rng.choice([piece for piece in pieces_from(kind) if piece.family not in used]))
            kind = chosen[-1].gives
        if len(chosen) == steps:
            return LabProgram(rng.choice(("f", "g", "solve", "run")), tuple(chosen))


def random_input(rng: Random, kind: Kind) -> Any:
    """A short list of small numbers, or a few words."""
    if kind == "ints":
        return [rng.choice((rng.randrange(10), rng.randrange(-6, 13))) for _ in range(rng.randrange(3, 7))]
    return " ".join(rng.choice(WORDS.split()) for _ in range(rng.randrange(2, 5)))


@dataclass(frozen=True)
class LabTests:
    """Pairs of an input and what the program returns for it."""

    public: tuple[tuple[Any, Any], ...]
    hidden: tuple[tuple[Any, Any], ...]
    survivors: tuple[LabProgram, ...]
    """Near misses that pass the public tests and fail a hidden one."""


def make_tests(rng: Random, program: LabProgram, count: int, weak: bool) -> LabTests | None:
    """Tests, `count` of them public; None if random inputs yield none that fit.

    Weak public tests pass at least one near miss that a hidden test refutes; strong ones refute every near miss that
    differs from the program on any input tried.
    """
    inputs = [random_input(rng, program.takes) for _ in range(TRIED_INPUTS)]
    expected = [program(given) for given in inputs]
    if len(set(map(repr, expected))) < (2 if isinstance(expected[0], bool) else 4):
        return None  # the program hardly depends on its input
    refuting = {
        miss: {i for i, given in enumerate(inputs) if miss(given) != expected[i]} for miss in program.near_misses()
    }
    refuting = {miss: refuted for miss, refuted in refuting.items() if refuted}
    usable = {i for i, value in enumerate(expected) if value not in ("", [])}
    if weak:
        spared = rng.choice(list(refuting.values())) if refuting else usable
        shown = sorted(usable - spared)[:count]
    else:
        shown = _cover(list(refuting.values()), usable, count)
    if len(shown) < count:
        return None
    others = [i for i in range(TRIED_INPUTS) if i not in shown]
    needed = _cover([refuted - set(shown) for refuted in refuting.values()], set(others), HIDDEN_TESTS)
    hidden = (needed + [i for i in others if i not in needed])[:HIDDEN_TESTS]
    survivors = [miss for miss, refuted in refuting.items() if not refuted & set(shown) and refuted & set(hidden)]
    if bool(survivors) != weak:
        return None
    public, rest = (tuple((inputs[i], expected[i]) for i in chosen) for chosen in (shown, hidden))
    return LabTests(public, rest, tuple(survivors))


def _cover(sets: Sequence[set[int]], allowed: set[int], limit: int) -> list[int]:
    """At most `limit` of `allowed`, chosen greedily to hit as many of the `sets` as possible."""
    chosen: list[int] = []
    missing = [found & allowed for found in sets]
    while len(chosen) < min(limit, len(allowed)):
        best = max(sorted(allowed - set(chosen)), key=lambda i: sum(i in found for found in missing))
        chosen.append(best)
        missing = [found for found in missing if best not in found]
    return chosen
