"""A condition on the answer: a Python expression that runs in the sandbox."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pydantic import PositiveFloat, field_validator

from tts.base import Verifier
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict
from tts.verifiers.answers.extraction import final_answer
from tts.verifiers.programs.extract import syntax
from tts.verifiers.sandbox import Invocation, Job, ProgramLimits, Sandbox, SandboxError, encode

LONGEST_TEXT = 200_000
"""Characters; a longer text is refused, since handing it over would hold up the loop."""

PROGRAM = """
import json, math, re, statistics
def judge(text, answer, metadata):
    value = (
{expression}
    )
    return value if type(value) in (bool, int, float) else bool(value)
"""


class PythonExpr(Verifier):
    """Accepts a text for which an expression is true; an expression that gives a number gives the score instead.

    It sees `text`, `answer` (the final answer, or the whole text if none is announced), the problem's `metadata`, and
    the modules json, math, re and statistics. It runs in the sandbox, so `eval(answer) == 24` is safe. If it raises or
    takes too long, the text is refused.
    """

    runs_code: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    expression: str
    """`len(text.split()) <= 100`, `eval(answer) == metadata['target']`, ..."""
    timeout: PositiveFloat = 2.0
    """Seconds of CPU time."""

    @field_validator("expression")
    @classmethod
    def _is_expression(cls, expression: str) -> str:
        if isinstance(line := syntax(f"(\n{expression}\n)"), int):
            raise ValueError(f"not an expression of Python, line {max(1, line - 1)}: {expression!r}")
        return expression

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Raises `SandboxError` where programs cannot be isolated or the sandbox fails."""
        text = candidate.content
        if len(text) > LONGEST_TEXT:
            return Verdict(0.0, False, f"the text is longer than {LONGEST_TEXT:,} characters")
        arguments = (text, final_answer(text) or text, dict(problem.metadata))
        limits = ProgramLimits(cpu_seconds=self.timeout)
        call = Invocation("judge", encode(arguments))
        job = Job(PROGRAM.format(expression=self.expression), ((call,),), limits=limits)
        result = await session.resources.get(Sandbox).run(job)
        case = result.cases[0] if result.cases else result.loaded
        if case.status == "infra":
            raise SandboxError(f"cannot run the expression: {case.error}")
        if case.status != "ok":
            why = f"{self.expression}: {case.error or case.status}"
            return Verdict(0.0, False, why, {"kind": case.status}, result.cpu_seconds)
        return self._verdict(case.values[0], result.cpu_seconds)

    def _verdict(self, value: Any, cpu_seconds: float) -> Verdict:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return Verdict(float(value), None, cpu_seconds=cpu_seconds)
        passed = value is True
        return Verdict(float(passed), passed, "" if passed else f"not true: {self.expression}", {}, cpu_seconds)
