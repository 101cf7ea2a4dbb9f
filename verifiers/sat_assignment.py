"""Truth values that satisfy clauses, checked clause by clause."""

from __future__ import annotations

import re
from typing import ClassVar

from tts.base import Verifier
from tts.errors import ConfigError
from tts.types import Candidate, Problem, Scale, Verdict
from tts.verifiers.answers.extraction import final_answer

Clause = tuple[int, ...]
"""Literals: i for variable i, counted from 1, and -i for its negation."""

NONE = "unsatisfiable"
SHOWN = 5
"""Violated clauses that feedback names."""
VALUES = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


class SatAssignment(Verifier):
    """Accepts an assignment that satisfies every clause of `problem.metadata["clauses"]`.

    The answer is `Answer: True, False, ...`, a value for each of `metadata["variables"]` variables, or `unsatisfiable`.
    The score is the share of satisfied clauses; feedback names some of the others.
    """

    scale: ClassVar[Scale | None] = "positive"

    satisfiable: bool | None = None
    """Whether such an assignment exists, known only to the task's truth; without it, the answer `unsatisfiable` is
    neither accepted nor refused."""

    def ready(self, problem: Problem) -> None:
        if not {"clauses", "variables"} <= set(problem.metadata):
            raise ConfigError(f"{problem.id} has no clauses and variables in its metadata, unlike the problems of sat3")

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        clauses, variables = problem.metadata["clauses"], problem.metadata["variables"]
        answer = final_answer(candidate.content)
        if answer.casefold() == NONE:
            if self.satisfiable is None:
                return Verdict(0.0, None, "whether no assignment exists is not checked")
            return Verdict(float(not self.satisfiable), not self.satisfiable)
        values = assignment(answer)
        if values is None or len(values) != variables:
            words = "no list of True and False" if values is None else f"{len(values)} values"
            return Verdict(0.0, False, f"{words} found; write `Answer:` and {variables} values, or `{NONE}`")
        violated = [clause for clause in clauses if not holds(clause, values)]
        named = "; ".join(in_words(clause) for clause in violated[:SHOWN])
        feedback = f"{len(violated)} of {len(clauses)} clauses are violated, such as: {named}" if violated else ""
        share = 1 - len(violated) / len(clauses) if clauses else 1.0
        return Verdict(share, not violated, feedback, {"violated": len(violated)})


def assignment(answer: str) -> list[bool] | None:
    """The values in a list such as `True, false, T, 0`; None for anything else."""
    words = [word for word in re.split(r"[\s,;\[\](){}'\"]+", answer.casefold()) if word]
    return [VALUES[word] for word in words] if words and VALUES.keys() >= set(words) else None


def holds(clause: Clause, values: list[bool]) -> bool:
    """Whether any literal is true."""
    return any(values[abs(literal) - 1] == (literal > 0) for literal in clause)


def in_words(clause: Clause) -> str:
    """The clause as problems state it: (x1 or not x2 or x3)."""
    return "(" + " or ".join(f"{'not ' if literal < 0 else ''}x{abs(literal)}" for literal in clause) + ")"
