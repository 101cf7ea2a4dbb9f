"""The programs of `lab_code`: chains of small operations, their near misses, and tests that tell them apart or do not.

Operations come in families of readings that are easily confused. The vague wording of a family leaves open which
reading is meant; only the examples tell.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

Kind = Literal["ints", "text", "words", "value"]
VARIABLES: dict[Kind, str] = {"ints": "xs", "text": "s", "words": "ws"}
"""The variable that holds a value of each kind; a `value` can only be returned."""
HINTS: dict[Kind, str] = {"ints": "list", "words": "list", "text": "str", "value": ""}
WORDS = "red blue Green tree Apple bee See sun Moon cat Mouse the an Eve over jump Level tea egg house"
TRIED_INPUTS = 60
HIDDEN_TESTS = 16


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
    return eval(f"lambda {variable}: {code}")  # only ever an expression of pieces.toml


def _load_pieces() -> dict[str, Piece]:
    table: dict[Any, Any] = tomllib.loads(Path(__file__).with_name("pieces.toml").read_text())
    return {
        says: Piece(says, code, takes, gives, family)
        for kinds, families in table.items()
        for takes, gives in [kinds.split(" -> ")]
        for family, expressions in families.items()
        for says, code in expressions.items()
    }


PIECES = _load_pieces()
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
