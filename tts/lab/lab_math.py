"""Multi-step integer arithmetic generated from a seed: endless, exact, and checkable step by step.

    Start with 37, add 58, multiply by 4, subtract 129.          (37 + 58) * 4 - 129 = ?
    ->  37 + 58 = 95
        95 * 4 = 380
        380 - 129 = 251
        Answer: 251

An instance is a binary tree of numbers and operations. Its digest decides which part it belongs to, so training and
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
from typing import Annotated, Literal

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
    """`left` and `right`, each a number or an operation, combined by `sign`."""

    left: Operation | int
    sign: str
    right: Operation | int

    def __str__(self) -> str:
        inner = [f"({side})" if isinstance(side, Operation) else str(side) for side in (self.left, self.right)]
        return f"{inner[0]} {self.sign} {inner[1]}"

    def steps(self) -> list[str]:
        """The calculations in the order of the solution, the left side's first: `37 + 58 = 95`."""
        inner = [step for side in (self.left, self.right) if isinstance(side, Operation) for step in side.steps()]
        return [*inner, self.step]

    @property
    def step(self) -> str:
        """This operation's own calculation, on the values of its sides."""
        return f"{value_of(self.left)} {self.sign} {value_of(self.right)} = {self.value}"

    @cached_property
    def value(self) -> int:
        return OPERATIONS[self.sign](value_of(self.left), value_of(self.right))


def value_of(side: Operation | int) -> int:
    """The number that a side of an operation stands for."""
    return side.value if isinstance(side, Operation) else side


def solution(tree: Operation) -> str:
    """The worked solution."""
    return "\n".join([*tree.steps(), f"Answer: {tree.value}"])


def step_labels(tree: Operation, text: str) -> list[bool]:
    """For each non-empty line of `text`: whether the solution is right up to and including it.

    A step is right if its arithmetic is and it does an operation of the tree that is still to be done, on numbers that
    are given or already calculated; the order is free. The answer is right once nothing remains to be done. After the
    first wrong line every line is wrong (Lightman et al. 2023, arXiv 2305.20050, section 2.6).
    """
    steps = _steps_with_needs(tree)
    reached, labels = {frozenset[int]()}, []  # every set of steps that may be done by now: equal steps look alike
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
    """The steps in the order of the solution, each with the indices of those whose results it uses."""
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
    """The part that the instance written as `content` belongs to."""
    digest = hashlib.blake2b(content.encode(), digest_size=4).digest()
    return "test" if int.from_bytes(digest, "big") % TEST_SHARE == 0 else "train"


def random_tree(rng: Random, steps: int, digits: int, chain: bool) -> Operation | int:
    """A tree of `steps` operations on numbers of at most `digits` digits; in a chain every right side is a number.

    No intermediate value is negative or has more than `digits` + 1 digits. Of two factors, one has a single digit.
    """
    if not steps:
        return rng.randrange(2, 10 ** rng.randint(1, digits))
    before = steps - 1 if chain else rng.randrange(steps)
    left = random_tree(rng, before, digits, chain)
    right = random_tree(rng, steps - 1 - before, digits, chain)
    bound = 10 ** (digits + 1)
    if fitting := [sign for sign in OPERATIONS if _fits(value_of(left), sign, value_of(right), bound)]:
        return Operation(left, rng.choice(fitting), right)
    return Operation(right, "-", left)  # only a larger right side leaves nothing that fits; never in a chain


def _fits(left: int, sign: str, right: int, bound: int) -> bool:
    return 0 <= OPERATIONS[sign](left, right) < bound and (sign != "*" or 1 < min(left, right) < 10)


def wording(tree: Operation, style: Literal["words", "symbols"]) -> str:
    """The question; the style `words` needs a chain."""
    if style == "symbols":
        return f"{tree} = ?"
    said: list[str] = []
    rest: Operation | int = tree
    while isinstance(rest, Operation):
        said.append(f"{WORDS[rest.sign]} {rest.right}")
        rest = rest.left
    return ", ".join([f"Start with {rest}", *reversed(said)]) + "."


class SteppedAnswer(NumericAnswer):
    """The truth of a problem: its number. `details["steps"]` labels every line of the solution."""

    tree: Operation
    """The calculation asked for."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Pass if and only if the final number is right, however it came about."""
        verdict = await super().verify(problem, candidate, session)
        return replace(verdict, details={**verdict.details, "steps": step_labels(self.tree, candidate.content)})


def _in_order(steps: tuple[int, int]) -> tuple[int, int]:
    if steps[0] > steps[1]:
        raise ValueError(f"give the smaller number first: [{steps[1]}, {steps[0]}]")
    return steps


class LabMath(Task):
    """Step-by-step integer arithmetic in words and symbols; small models solve about half of it."""

    size: PositiveInt | None = 200
    """Number of problems; None: endless."""
    seed: NonNegativeInt = 0
    steps: Steps | Annotated[tuple[Steps, Steps], AfterValidator(_in_order)] = 5
    """Operations in a problem; `[least, most]`: drawn uniformly from the range."""
    digits: int = Field(default=2, ge=1, le=4)
    """Most digits of a given number; results have at most one more."""
    style: Style = "mixed"
    """In words, in symbols, or every other problem in each."""
    part: Part = "test"
    """Instances reserved for evaluation, or those that models are trained on."""

    @property
    def training(self) -> Task | None:
        return self.model_copy(update={"part": "train", "size": 1000}) if self.part == "test" else None

    def examples(self) -> Iterator[Example]:
        """Problems `lab_math/SEED/0`, ...; the same parameters give the same problems."""
        return islice(map(self._example, count()), self.size)

    def _example(self, number: int) -> Example:
        style = ("words", "symbols")[number % 2] if self.style == "mixed" else self.style
        tree = self._tree(number, chain=style == "words")
        prompt, name = wording(tree, style), f"lab_math/{self.seed}/{number}"
        problem = Problem.from_prompt(prompt, id=name, answer=NumericAnswer.name)
        return Example(problem, SteppedAnswer(reference=str(tree.value), tree=tree), solution(tree))

    def _tree(self, number: int, *, chain: bool) -> Operation:
        rng = Random(f"lab_math {self.seed} {self.steps} {self.digits} {number}")
        steps = self.steps if isinstance(self.steps, int) else rng.randint(*self.steps)
        while True:
            tree = random_tree(rng, steps, self.digits, chain)
            if isinstance(tree, Operation) and part_of(str(tree)) == self.part:
                return tree
