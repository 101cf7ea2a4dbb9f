"""A condition on the answer, as an expression in Python that runs in the sandbox."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pydantic import PositiveFloat, field_validator

from tts.base import Verifier
from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.answers.extraction import final_answers
from tts.verifiers.programs.extract import syntax
from tts.verifiers.sandbox import Call, Job, Limits, Sandbox, SandboxError
from tts.verifiers.sandbox.codec import encode

PROGRAM = """
import json, math, re, statistics
def judge(text, answer, metadata):
    value = (
{expression}
    )
    return value if type(value) in (bool, int, float) else bool(value)
"""


class PythonExpr(Verifier):
    """Accepts a text for which an expression is true; an expression that is a number is the score.

    It sees `text`, `answer` (the final answer, the whole text where none is announced), `metadata` (of the problem),
    and the modules json, math, re and statistics. It runs in the sandbox, so that `eval(answer) == 24` is safe. One
    that raises or takes too long refuses.
    """

    runs_code: ClassVar[bool] = True

    expression: str
    """`len(text.split()) <= 100`, `eval(answer) == metadata['target']`, ..."""
    timeout: PositiveFloat = 2.0
    """Seconds of CPU time."""

    @field_validator("expression")
    @classmethod
    def _is_expression(cls, expression: str) -> str:
        if isinstance(line := syntax(f"(\n{expression}\n)"), int):
            raise ValueError(f"not an expression in Python, line {max(1, line - 1)}: {expression!r}")
        return expression

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Evaluate it. Raises `SandboxError` where programs cannot be isolated or the machinery fails."""
        answers = final_answers(candidate.content)
        arguments = (candidate.content, answers[0] if answers else candidate.content, dict(problem.metadata))
        limits = Limits(cpu_seconds=self.timeout)
        job = Job(PROGRAM.format(expression=self.expression), ((Call("judge", encode(arguments)),),), limits=limits)
        result = await session.resources.get(Sandbox).run(job)
        case = result.cases[0] if result.cases else result.loaded
        if case.status == "infra":
            raise SandboxError(f"the expression could not be run: {case.error}")
        if case.status != "ok":
            why = f"{self.expression}: {case.error or case.status}"
            return Verdict(0.0, False, why, {"kind": case.status}, result.cpu_seconds)
        return self._verdict(case.values[0], result.cpu_seconds)

    def _verdict(self, value: Any, cpu_seconds: float) -> Verdict:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return Verdict(float(value), None, cpu_seconds=cpu_seconds)
        passed = value is True
        return Verdict(float(passed), passed, "" if passed else f"not true: {self.expression}", {}, cpu_seconds)
