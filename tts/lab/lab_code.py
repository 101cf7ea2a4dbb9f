"""Small Python functions to write from a specification in plain language: endless, with hidden tests as truth.

    def f(xs: list):
        \"\"\"Keep the large numbers, then square each, then return the sum.

        >>> f([7, 2, 9])
        130
        \"\"\"

The programs are chains of small operations, which come in families of readings that are easily confused. What makes it
hard: some pieces have the vague wording of their family (how large is large?), so only the examples tell what is meant;
and a share of the problems has weak examples, which a wrong program can pass. The digest of a program's exact wording
reserves it for evaluation or for training, whatever the seeds.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from tts.lab.lab_math import Part, part_of
from tts.tasks import Example, Task
from tts.types import Problem
from tts.verifiers.unit_tests import TestSuite, UnitTests

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


@dataclass(frozen=True)
class Instance:
    """A program, its tests, and the positions of the pieces that are worded vaguely."""

    program: LabProgram
    tests: LabTests
    vague: frozenset[int]

    def prompt(self) -> str:
        """What the model sees: the signature and a docstring with the public tests."""
        return prompt_for(self.program.signature, self.program.says(self.vague), self.tests.public)


def prompt_for(signature: str, says: str, examples: tuple[tuple[Any, Any], ...] = ()) -> str:
    """The start of a function: its signature and a docstring with examples."""
    name = signature[4 : signature.index("(")]
    if not examples:
        return f'{signature}\n    """{says}"""'
    shown = "".join(f"    >>> {name}({given!r})\n    {expected!r}\n" for given, expected in examples)
    return f'{signature}\n    """{says}\n\n{shown}    """'


def suite_of(program: LabProgram, tests: tuple[tuple[Any, Any], ...], prompt: str = "") -> TestSuite:
    """The tests as the verifier `unit_tests` reads them."""
    calls = tuple({"args": (given,), "expected": expected} for given, expected in tests)
    return TestSuite.model_validate({"entry_point": program.name, "prompt": prompt, "calls": calls})


def random_instance(rng: Random, *, steps: int, vague: int, examples: int, weak: bool, part: Part) -> Instance:
    """An instance of `part` with `vague` vague pieces, or as many as the program has that can be vague."""
    while True:
        program = random_program(rng, steps)
        if part_of(program.says()) != part:
            continue
        if (tests := make_tests(rng, program, examples, weak)) is None:
            continue
        places = [i for i, piece in enumerate(program.pieces) if len(readings(piece.family)) > 1]
        return Instance(program, tests, frozenset(rng.sample(places, min(vague, len(places)))))


class LabCode(Task):
    """Python functions of two to four operations on lists and texts; small models write about half of them."""

    size: PositiveInt | None = 200
    """Number of problems; None: endless."""
    seed: NonNegativeInt = 0
    steps: int = Field(default=3, ge=2, le=4)
    """Operations in a program."""
    vague: int = Field(default=1, ge=0, le=4)
    """How many of them are worded so that only the examples tell what is meant."""
    public: int = Field(default=3, ge=1, le=5)
    """Examples in the prompt."""
    weak: float = Field(default=0.25, ge=0, le=1)
    """Share of the problems whose examples pass a wrong program, by design."""
    part: Part = "test"
    """Programs reserved for evaluation, or those that models are trained on."""

    def examples(self) -> Iterator[Example]:
        """Problems `lab_code/SEED/0`, ...; the same parameters give the same problems."""
        return islice(map(self._example, count()), self.size)

    def instance(self, number: int) -> Instance:
        """What problem `number` is made from: the program and the hidden tests, which a solver must not see."""
        rng = Random(f"lab_code {self.seed} {self.steps} {self.public} {number}")
        weak = rng.random() < self.weak
        return random_instance(rng, steps=self.steps, vague=self.vague, examples=self.public, weak=weak, part=self.part)

    def _example(self, number: int) -> Example:
        instance = self.instance(number)
        program, tests, prompt = instance.program, instance.tests, instance.prompt()
        problem = Problem.from_prompt(
            prompt,
            id=f"lab_code/{self.seed}/{number}",
            tests=suite_of(program, tests.public, prompt).model_dump(mode="json", exclude_defaults=True),
            verifier=UnitTests.name,
            metadata={"entry_point": program.name, "public_tests": "weak" if tests.survivors else "strong"},
        )
        return Example(problem, UnitTests(tests=suite_of(program, tests.hidden, prompt), stop_at_failure=True))
