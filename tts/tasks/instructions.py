"""Instruction following: texts to write under constraints that a program can check, made from a seed.

After "IFEval" (Zhou et al. 2023, arXiv 2311.07911); problems and wording are our own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field, PositiveInt

from tts.tasks import Example, Task
from tts.types import Problem
from tts.verifiers.constraints import Constraint, Constraints

TOPICS = (
    "how bees find their way",
    "a bridge that was never finished",
    "why bread rises",
    "the first day at a new school",
    "a night train through the mountains",
    "how a library is put in order",
    "what the sea sounds like in winter",
    "repairing an old bicycle",
)
FORMS = ("a short article", "a letter to a friend", "a notice for a board", "a piece for a newsletter")
WORDS = ("river", "lantern", "copper", "window", "signal", "harvest", "paper", "morning", "market", "stone")


class Instructions(Task):
    """Texts to write under several constraints of different kinds; all must be met."""

    count: PositiveInt = 200
    """The number of problems."""
    constraints: int = Field(default=5, ge=1, le=6)
    """Constraints per problem."""
    seed: int = 0

    def examples(self) -> Iterator[Example]:
        """Problems `instructions/SEED/0`, ...; problem i does not depend on how many there are."""
        for i in range(self.count):
            rng = np.random.default_rng((self.seed, i))
            chosen = self._chosen(rng)
            said = "\n".join(f"- {one.text}" for one in chosen)
            text = f"Write {_one(rng, FORMS)} about {_one(rng, TOPICS)}. Reply with the text alone.\n\n{said}"
            problem = Problem.from_prompt(text, id=f"instructions/{self.seed}/{i}")
            yield Example(problem, Constraints(constraints=chosen))

    def _chosen(self, rng: np.random.Generator) -> tuple[Constraint, ...]:
        """One constraint from each of several groups; no two contradict each other."""
        has, lacks, heading = (str(word) for word in rng.choice(WORDS, size=3, replace=False))
        bullets, paragraphs = (int(number) for number in rng.integers(2, 6, size=2))
        groups = (
            [("words_at_least", 20 * int(rng.integers(4, 9))), ("words_at_most", 20 * int(rng.integers(3, 6)))],
            [("bullets", bullets), ("paragraphs", paragraphs)],
            [("heading", heading), ("lower_case", "")],
            [("has", has), ("no_commas", "")],
            [("lacks", lacks), ("language", _one(rng, ("German", "French", "Spanish", "English")))],
            [("ends", "and that is all."), ("ends", "see you soon!")],
        )
        picked = [group[int(rng.integers(len(group)))] for group in groups]
        places = sorted(rng.choice(len(groups), size=self.constraints, replace=False))
        return tuple(Constraint(kind=picked[i][0], value=str(picked[i][1])) for i in places)


def _one(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]
