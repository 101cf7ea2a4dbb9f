"""Multi-step integer arithmetic made from a seed: endless, exact, and every single step can be checked.

    Start with 37, add 58, multiply by 4, subtract 129.          (37 + 58) * 4 - 129 = ?
    ->  37 + 58 = 95
        95 * 4 = 380
        380 - 129 = 251
        Answer: 251

An instance is a binary tree of numbers and operations. Its digest decides to which part it belongs, so training and
evaluation never share one, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, islice
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt

from tts.session import Session
from tts.tasks import Example, Task
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.numeric_answer import NumericAnswer

Part = Literal["test", "train"]
Style = Literal["mixed", "words", "symbols"]
Steps = Annotated[int, Field(ge=1, le=12)]

TEST_SHARE = 8
"""One instance in this many belongs to the part `test`."""
OPERATIONS: dict[str, Callable[[int, int], int]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}
WORDS = {"+": "add", "-": "subtract", "*": "multiply by"}


@dataclass(frozen=True)
class Operation:
    """`left` and `right`, numbers or operations themselves, combined by `sign`."""

    left: Operation | int
    sign: str
    right: Operation | int

    def __str__(self) -> str:
        inner = [f"({side})" if isinstance(side, Operation) else str(side) for side in (self.left, self.right)]
        return f"{inner[0]} {self.sign} {inner[1]}"

    def steps(self) -> list[str]:
        """The calculations in the order of the solution, the left side's first: `37 + 58 = 95`."""
        return [
            *(step for side in (self.left, self.right) if isinstance(side, Operation) for step in side.steps()),
            self.step,
        ]

    @property
    def step(self) -> str:
        """Its own calculation, with the values of its sides."""
        return f"{value_of(self.left)} {self.sign} {value_of(self.right)} = {self.value}"

    @cached_property
    def value(self) -> int:
        """What it amounts to."""
        return OPERATIONS[self.sign](value_of(self.left), value_of(self.right))


def value_of(side: Operation | int) -> int:
    """What a side of an operation amounts to."""
    return side.value if isinstance(side, Operation) else side


def solution(tree: Operation) -> str:
    """The worked solution."""
    return "\n".join([*tree.steps(), f"Answer: {tree.value}"])


def step_labels(tree: Operation, text: str) -> list[bool]:
    """For each line of `text` that is not empty: whether the solution is right up to its end.

    A step is right when its arithmetic is and when it does an operation of the tree that is still to be done, on
    numbers that are given or were calculated; the order is free. The answer is right when nothing remains to be
    done. After the first wrong line every line is wrong (Lightman et al. 2023, arXiv 2305.20050, section 2.6).
    """
    steps = _steps_with_needs(tree)
    reached, labels = {frozenset[int]()}, []  # sets of steps that may be what was done so far; equal steps are alike
    for line in map(str.strip, filter(str.strip, text.splitlines())):
        if line == f"Answer: {tree.value}":
            reached = {done for done in reached if len(done) == len(steps)}
        else:
            reached = {
                done | {i}
                for done in reached
                for i, (step, needs) in enumerate(steps)
                if step == line and i not in done and needs <= done
            }
        labels.append(bool(reached))
    return labels


def _steps_with_needs(tree: Operation) -> list[tuple[str, frozenset[int]]]:
    """The steps in the order of the solution, each with the numbers of those whose results it uses."""
    found: list[tuple[str, frozenset[int]]] = []

    def add(side: Operation | int) -> set[int]:
        if isinstance(side, int):
            return set()
        needs = add(side.left) | add(side.right)
        found.append((side.step, frozenset(needs)))
        return {len(found) - 1}

    add(tree)
    return found


def part_of(content: str) -> Part:
    """The part to which the instance written as `content` belongs."""
    digest = hashlib.blake2b(content.encode(), digest_size=4).digest()
    return "test" if int.from_bytes(digest, "big") % TEST_SHARE == 0 else "train"


def random_tree(rng: Random, steps: int, digits: int, chain: bool) -> Operation | int:
    """A tree of `steps` operations on numbers of at most `digits` digits; a chain has a number on every right side.

    No value on the way is negative or has more than `digits` + 1 digits. Factors are of one digit.
    """
    if not steps:
        return rng.randrange(2, 10 ** rng.randint(1, digits))
    before = steps - 1 if chain else rng.randrange(steps)
    left = random_tree(rng, before, digits, chain)
    right = random_tree(rng, steps - 1 - before, digits, chain)
    bound = 10 ** (digits + 1)
    if fitting := [sign for sign in OPERATIONS if _fits(value_of(left), sign, value_of(right), bound)]:
        return Operation(left, rng.choice(fitting), right)
    return Operation(right, "-", left)  # nothing fits only where the right side is larger; never in a chain


def _fits(left: int, sign: str, right: int, bound: int) -> bool:
    return 0 <= OPERATIONS[sign](left, right) < bound and (sign != "*" or 1 < min(left, right) < 10)


def wording(tree: Operation, style: Literal["words", "symbols"]) -> str:
    """The question. Words need a chain."""
    if style == "symbols":
        return f"{tree} = ?"
    said: list[str] = []
    rest: Operation | int = tree
    while isinstance(rest, Operation):
        said.append(f"{WORDS[rest.sign]} {rest.right}")
        rest = rest.left
    return ", ".join([f"Start with {rest}", *reversed(said)]) + "."


class SteppedAnswer(NumericAnswer):
    """The truth of a problem: its number. `details["steps"]` has the label of every line of the solution."""

    tree: Operation
    """What is to be calculated."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Accepted iff the final number is right, however it came about."""
        verdict = await super().verify(problem, candidate, session)
        return replace(verdict, details={**verdict.details, "steps": step_labels(self.tree, candidate.content)})


def _in_order(steps: tuple[int, int]) -> tuple[int, int]:
    if steps[0] > steps[1]:
        raise ValueError(f"give the smaller number first: [{steps[1]}, {steps[0]}]")
    return steps


class LabMath(Task):
    """Step-by-step integer arithmetic, in words and in symbols, that small models can half do."""

    name: ClassVar[str] = "lab_math"

    size: PositiveInt | None = 200
    """Number of problems; without end if None."""
    seed: NonNegativeInt = 0
    steps: Steps | Annotated[tuple[Steps, Steps], AfterValidator(_in_order)] = 5
    """Operations in a problem; `[least, most]`: each number of them equally often."""
    digits: int = Field(default=2, ge=1, le=4)
    """Of the given numbers; what is calculated has one more at most."""
    style: Style = "mixed"
    """In words, in symbols, or every other problem in each."""
    part: Part = "test"
    """Instances kept for evaluation, or those that models are trained on."""

    def examples(self) -> Iterator[Example]:
        """Problems `lab_math/SEED/0`, ...; the same for the same parameters."""
        return islice(self._endless(), self.size)

    def _endless(self) -> Iterator[Example]:
        for number in count():
            style = self._style(number)
            tree = self._tree(number, style)
            prompt = wording(tree, style)
            yield Example(
                Problem.from_prompt(prompt, id=f"lab_math/{self.seed}/{number}", answer=NumericAnswer.name),
                SteppedAnswer(reference=str(tree.value), tree=tree),
            )

    def _style(self, number: int) -> Literal["words", "symbols"]:
        if self.style == "mixed":
            return "symbols" if number % 2 else "words"
        return self.style

    def _tree(self, number: int, style: str) -> Operation:
        rng = Random(f"lab_math {self.seed} {self.steps} {self.digits} {number}")
        steps = self.steps if isinstance(self.steps, int) else rng.randint(*self.steps)
        while True:
            tree = random_tree(rng, steps, self.digits, chain=style == "words")
            if isinstance(tree, Operation) and part_of(str(tree)) == self.part:
                return tree
