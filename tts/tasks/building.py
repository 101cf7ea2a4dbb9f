"""What tasks share that build their problems themselves: endless procedural problems, and multiple-choice questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from random import Random
from typing import Any, ClassVar

from pydantic import PositiveInt

from tts.tasks import Example, Task
from tts.types import Problem
from tts.verifiers.choice import Choice

LETTERS = "ABCD"


class Procedural(Task):
    """Makes its problems from a seed; a problem is the same whichever others are made with it."""

    each: PositiveInt = 20
    """Problems of each difficulty and kind."""
    seed: int = 0
    """Another seed makes other problems."""

    varied: ClassVar[tuple[str, ...]] = ()
    """The parameters by whose values problems differ."""

    def difficulties(self) -> Iterable[tuple[Any, ...]]:
        """What distinguishes the problems; it becomes part of their ids."""
        return product(*(getattr(self, name) for name in self.varied))

    def make(self, id: str, rng: Random, difficulty: tuple[Any, ...]) -> Example:
        """The problem that `rng` draws at a difficulty. Raises `ConfigError` if there is none."""
        raise NotImplementedError

    def examples(self) -> Iterator[Example]:
        """Problems `maze/5-turns-0`, ...: the first of every difficulty, as --limit takes them, then the second, ..."""
        for number in range(self.each):
            for difficulty in self.difficulties():
                id = f"{self.name}/{'-'.join(map(str, difficulty))}-{number}"
                yield self.make(id, Random(f"{self.seed} {id}"), difficulty)


def lettered(options: Sequence[str]) -> str:
    """The options of a question, a line each: (A) ..."""
    return "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True))


def choice_example(id: str, text: str, options: Sequence[str], right: int, metadata: Mapping[str, Any]) -> Example:
    """A question whose `text` lists the `options`; `right` is the index of the right one."""
    reader = Choice(options=tuple(options))
    truth = reader.model_copy(update={"reference": LETTERS[right]})
    return Example(Problem.from_prompt(text, id=id, answer=reader.spec, metadata=dict(metadata)), truth)


def options_around(right: int, rng: Random, count: int = 4) -> list[int]:
    """`count` different numbers from 0 on in random order: `right`, and others as close to it as possible."""
    low = rng.randint(max(0, right - count + 1), right)
    return rng.sample(range(low, low + count), count)
