"""Small Python functions to write from a specification in plain language: endless, with hidden tests as truth.

    def f(xs: list):
        \"\"\"Keep the large numbers, then square each, then return the sum.

        >>> f([7, 2, 9])
        130
        \"\"\"

What makes it hard: some pieces are worded vaguely (how large is large?), so only the examples tell what is meant; and
a share of the problems has weak examples, which a wrong program can pass. The digest of a program's exact wording
reserves it for evaluation or for training, whatever the seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from random import Random
from typing import Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from tts.lab.lab_math import Part, part_of
from tts.lab.lab_programs import LabProgram, LabTests, make_tests, random_program, readings
from tts.tasks import Example, Task
from tts.types import Problem
from tts.verifiers.unit_tests import TestSuite, UnitTests


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

    name: ClassVar[str] = "lab_code"

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
