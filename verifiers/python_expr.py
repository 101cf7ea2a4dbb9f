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
from tts.verifiers.programs.remote_tests import HOST
from tts.verifiers.sandbox import Invocation, Job, ProgramLimits, Sandbox, SandboxError, encode

LONGEST_TEXT = 200_000
"""Characters; a longer text is refused, since handing it over would hold up the loop."""

NAMES = ("json", "math", "re", "statistics")
MODULES = f"import {', '.join(NAMES)}"
EVALUATED = f"{MODULES}\ndef evaluated(source, *names):\n    return eval(source, *names)\n"
"""The program in which `eval` runs what the answer says."""


class PythonExpr(Verifier):
    """Accepts a text for which an expression is true; an expression that gives a number gives the score instead.

    It sees `text`, `answer` (the final answer, or the whole text if none is announced), the problem's `metadata`, and
    the modules json, math, re and statistics. It runs in the sandbox, and what `eval` is given runs in a program of its
    own that returns plain data, so `eval(answer) == 24` is safe: the answer sees and decides nothing. If the expression
    raises or takes too long, the text is refused.
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
        names = {"text": text, "answer": final_answer(text) or text, "metadata": dict(problem.metadata)}
        limits = ProgramLimits(cpu_seconds=self.timeout)
        sandbox = session.resources.get(Sandbox)
        async with (
            sandbox.open(Job(EVALUATED, limits=limits, preload=NAMES)) as program,
            sandbox.open(Job(HOST, limits=limits, preload=NAMES), remote=program) as host,
        ):
            order = Invocation("prepare", encode((MODULES, "", {"eval": "evaluated"})))
            result = await host.call(order)
            if result.status == "ok":
                result = await host.call(Invocation("compute", encode((self.expression, names))))
            cpu = host.cpu_seconds + program.cpu_seconds
        if result.status == "infra":
            raise SandboxError(f"cannot run the expression: {result.error}")
        if result.status != "ok" or type(result.values[0]) is tuple:
            kind, words = ("error", str(result.values[0][1])) if result.values else (result.status, result.error)
            return Verdict(0.0, False, f"{self.expression}: {words or kind}", {"kind": kind}, cpu)
        return self._verdict(result.values[0], cpu)

    def _verdict(self, value: Any, cpu_seconds: float) -> Verdict:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return Verdict(float(value), None, cpu_seconds=cpu_seconds)
        passed = value is True
        return Verdict(float(passed), passed, "" if passed else f"not true: {self.expression}", {}, cpu_seconds)
