"""Judges code by running it on tests: isolated (`tts.verifiers.sandbox`), and compared out of the program's reach.

The program only computes. Its values come back as plain data and are compared here, so that nothing it defines,
patches, prints or forges affects its verdict (`tts.verifiers.programs`).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tts.base import Verifier
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict
from tts.verifiers.programs.extract import extract_program
from tts.verifiers.programs.judging import Conditions, VerdictCache, verdict_of
from tts.verifiers.programs.suite import (
    Call,
    InputOutput,
    Interaction,
    Kind,
    MethodCall,
    Reference,
    TestOutcome,
    TestSuite,
    as_elements,
)
from tts.verifiers.sandbox import ProgramLimits, Sandbox

__all__ = [
    "Call",
    "InputOutput",
    "Interaction",
    "Kind",
    "MethodCall",
    "Reference",
    "TestSuite",
    "UnitTests",
]


class UnitTests(Verifier):
    """Runs the program in the candidate on tests. The score is the share of tests passed.

    Without tests, and where the machinery keeps failing, there is no verdict (`passed` and `score` are None).
    `details` has `kind` (a `Kind`, of the first failure), `passed` and `total` (numbers of tests), `outcomes` (the kind
    of each test, in the order calls, interactions, reference, asserts, check, stdin) and `isolation` (the layers that
    contained the program). An identical program does not run again on the same tests: `details` then has `cached`.
    """

    runs_code: ClassVar[bool] = True
    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    tests: TestSuite | None = None
    """By default the problem's public tests."""
    first: PositiveInt | None = None
    """Use only the first so many tests: a weaker verifier, to study what imperfection costs."""
    timeout: PositiveFloat = 10.0
    """Seconds of CPU time for all tests that share a run of the program, and for each input of `stdin`."""
    test_timeout: PositiveFloat | None = None
    """Seconds of CPU time for each test; by default only the total is limited."""
    wall: PositiveFloat | None = None
    """Elapsed seconds after which an idle program is ended: by default 10 times `timeout`, at least 30."""
    memory_mb: PositiveInt = 4096
    """Address space of the program, in MB."""
    output_kb: int = Field(default=16384, ge=64)
    """KB that the program may print and return, beyond twice the size of the right answers."""
    stop_at_failure: bool = False
    """Stop at the first test that fails; the score is then 1 or 0."""
    preload: tuple[str, ...] = ()
    """Modules that many programs import and that load slowly (numpy): they are imported once, in advance."""
    elements: bool = False
    """Report the first tests one by one as `elements` in `details`, for `prompt_redesign`."""
    isolation: Literal["required", "best_effort"] = "required"
    """What to do where programs cannot be isolated well: refuse to run them, or run them with resource limits alone."""

    @property
    def tells_elements(self) -> bool:
        return self.elements

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Run the program. Raises `ConfigError` when the problem's tests do not have the form of a `TestSuite`."""
        verdicts, sandbox = session.resources.get(VerdictCache), session.resources.get(Sandbox)
        suite = self.tests or await verdicts.suite(problem)
        if not suite:
            return Verdict(None, details={"kind": Kind.untested.value, "reason": "there are no tests"})
        suite = suite.first(self.first) if self.first is not None else suite
        program, suite = await self.prepared(problem, candidate, suite, session)
        if program is None:
            verdict = verdict_of([TestOutcome(Kind.error, "there is no program in the answer")], len(suite))
        else:
            verdict = await verdicts.verdict(sandbox, program, suite, self._conditions())
        details = dict(verdict.details)
        said = details.pop("said")
        if self.elements:
            details["elements"] = as_elements(suite, details["outcomes"], said)
        return replace(verdict, details=details)

    async def prepared(
        self, problem: Problem, candidate: Candidate, suite: TestSuite, session: Session
    ) -> tuple[str | None, TestSuite]:
        """The program in the candidate, None where there is none, and the tests to run on it."""
        where = (candidate.content, suite.entry_point, suite.prompt, suite.container)
        return await asyncio.to_thread(extract_program, *where, language=suite.language), suite

    def _conditions(self) -> Conditions:
        limits = ProgramLimits(
            cpu_seconds=self.timeout,
            case_cpu_seconds=self.test_timeout,
            wall_seconds=self.wall,
            memory_mb=self.memory_mb,
            output_kb=self.output_kb,
        )
        return Conditions(limits, self.preload, self.isolation, run_all=not self.stop_at_failure)
