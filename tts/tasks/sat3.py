"""3-SAT: find truth values that satisfy clauses of three literals, or say that there are none.

After the 3SAT task of Balachandran et al. 2025 (arXiv 2504.00294): 4 to 15 variables, four kinds of problems.
"""

from __future__ import annotations

from random import Random
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tts.tasks import Example
from tts.tasks.building import Procedural
from tts.types import Problem
from tts.verifiers.exact_answer import ExactAnswer
from tts.verifiers.sat_assignment import NONE, Clause, SatAssignment, in_words

Kind = Literal["hard", "under", "over", "unique"]
CLAUSES_PER_VARIABLE: dict[Kind, float] = {"hard": 4.26, "under": 2.13, "over": 8.52, "unique": 4.26}
PROMPT = """\
Find truth values for the {n} variables {names} such that all of the following {m} clauses are true. It may be that \
there are none.

{clauses}

Think step by step. Then end with a last line of the form
Answer: True, False, ...
with the values of {names} in this order, {n} in all. If no truth values satisfy all clauses, end with
Answer: {none}"""


class Sat3(Procedural):
    """Each clause has three different variables, each negated with probability one half.

    Strategies may check an assignment (`sat_assignment`, which says what is violated); only the truth knows, by
    enumeration, whether there is one.
    """

    varied: ClassVar[tuple[str, ...]] = ("variables", "kinds")

    variables: tuple[Annotated[int, Field(ge=3, le=20)], ...] = tuple(range(4, 16))
    """The numbers of variables."""
    kinds: tuple[Kind, ...] = ("hard", "under", "over", "unique")
    """Clauses per variable: 4.26 (`hard`, at the threshold of satisfiability), 2.13 (`under`), 8.52 (`over`), and 4.26
    with exactly one solution (`unique`)."""

    def make(self, id: str, rng: Random, difficulty: tuple[Any, ...]) -> Example:
        n, kind = difficulty
        clauses = random_clauses(n, kind, rng)
        while (count := solutions(n, clauses)) != 1 and kind == "unique":
            clauses = random_clauses(n, kind, rng)
        names = ", ".join(f"x{i}" for i in range(1, n + 1))
        lines = "\n".join(map(in_words, clauses))
        problem = Problem.from_prompt(
            PROMPT.format(n=n, m=len(clauses), names=names, clauses=lines, none=NONE),
            id=id,
            verifier=SatAssignment.name,
            answer=ExactAnswer.name,
            metadata={"variables": n, "clauses": clauses, "kind": kind},
        )
        return Example(problem, SatAssignment(satisfiable=count > 0))


def random_clauses(n: int, kind: Kind, rng: Random) -> list[Clause]:
    """The clauses of a problem of the given kind with `n` variables."""
    return [
        tuple(rng.choice((1, -1)) * variable for variable in rng.sample(range(1, n + 1), 3))
        for _ in range(round(CLAUSES_PER_VARIABLE[kind] * n))
    ]


def solutions(n: int, clauses: list[Clause]) -> int:
    """The number of the 2^n assignments that satisfy all clauses."""
    left = np.arange(1 << n)  # the assignments, as bits, that satisfy the clauses so far
    for clause in clauses:
        left = left[np.logical_or.reduce([(left >> (abs(literal) - 1) & 1) == (literal > 0) for literal in clause])]
    return len(left)
