"""Random programs of two to four pieces, what they may be confused with, and tests that tell them apart or do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tts.lab.lab_pieces import VARIABLES, Kind, Piece, pieces_from, readings

WORDS = (
    "red",
    "blue",
    "Green",
    "tree",
    "Apple",
    "bee",
    "See",
    "sun",
    "Moon",
    "cat",
    "Mouse",
    "the",
    "an",
    "Eve",
    "over",
    "jump",
    "Level",
    "tea",
    "egg",
    "house",
)
TRIED_INPUTS = 60
HIDDEN_TESTS = 16
HINTS: dict[Kind, str] = {"ints": "list", "words": "list", "text": "str", "value": ""}


@dataclass(frozen=True)
class Program:
    """A function that applies its pieces one after another."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def takes(self) -> Kind:
        """The kind of its argument."""
        return self.pieces[0].takes

    @property
    def signature(self) -> str:
        """Its first line: `def f(xs: list):`."""
        return f"def {self.name}({VARIABLES[self.takes]}: {HINTS[self.takes]}):"

    def source(self) -> str:
        """Its source, a line for each piece."""
        lines = [f"    {VARIABLES[piece.gives]} = {piece.code}" for piece in self.pieces[:-1]]
        return "\n".join([self.signature, *lines, f"    return {self.pieces[-1].code}"])

    def says(self, vague: frozenset[int] = frozenset()) -> str:
        """Its specification, a sentence; the pieces at the positions `vague` in the wording of their family."""
        parts = [piece.family if i in vague else piece.says for i, piece in enumerate(self.pieces)]
        return f"{', then '.join(parts).capitalize()}."

    def __call__(self, value: Any) -> Any:
        """What it returns for the argument `value`."""
        for piece in self.pieces:
            value = piece(value)
        return value

    def near_misses(self) -> list[Program]:
        """The programs that differ in the reading of one piece."""
        return [
            replace(self, pieces=(*self.pieces[:i], other, *self.pieces[i + 1 :]))
            for i, piece in enumerate(self.pieces)
            for other in readings(piece.family)
            if other != piece
        ]


def random_program(rng: Random, steps: int) -> Program:
    """A program of `steps` pieces of different families."""
    while True:
        kind: Kind = rng.choice(("ints", "ints", "text"))
        chosen: list[Piece] = []
        while len(chosen) < steps and kind != "value":
            used = {piece.family for piece in chosen}
            chosen.append(rng.choice([piece for piece in pieces_from(kind) if piece.family not in used]))
            kind = chosen[-1].gives
        if len(chosen) == steps:
            return Program(rng.choice(("f", "g", "solve", "run")), tuple(chosen))


def random_input(rng: Random, kind: Kind) -> Any:
    """An argument of `kind`: a short list of small numbers, or a few words."""
    if kind == "ints":
        return [rng.choice((rng.randrange(10), rng.randrange(-6, 13))) for _ in range(rng.randrange(3, 7))]
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(2, 5)))


@dataclass(frozen=True)
class Tests:
    """Inputs with what the program returns for them."""

    __test__ = False  # pytest collects what is called Test...

    public: tuple[tuple[Any, Any], ...]
    hidden: tuple[tuple[Any, Any], ...]
    survivors: tuple[Program, ...]
    """Near misses that pass the public tests and fail a hidden one."""


def make_tests(rng: Random, program: Program, count: int, weak: bool) -> Tests | None:
    """Tests of which `count` are public; None when no such tests were found among random inputs.

    Weak public tests let at least one near miss pass that a hidden test refutes; others refute every near miss that
    differs from the program on any of the inputs tried.
    """
    inputs = [random_input(rng, program.takes) for _ in range(TRIED_INPUTS)]
    expected = [program(given) for given in inputs]
    if len(set(map(repr, expected))) < (2 if isinstance(expected[0], bool) else 4):
        return None  # hardly depends on its input
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
    return Tests(public, rest, tuple(survivors))


def _cover(sets: Sequence[set[int]], allowed: set[int], limit: int) -> list[int]:
    """At most `limit` of the `allowed`, chosen greedily so that they hit as many of the `sets` as possible."""
    chosen: list[int] = []
    missing = [found & allowed for found in sets]
    while len(chosen) < min(limit, len(allowed)):
        best = max(sorted(allowed - set(chosen)), key=lambda i: sum(i in found for found in missing))
        chosen.append(best)
        missing = [found for found in missing if best not in found]
    return chosen
