"""Verdicts, each reached once: what is identical in program, tests and conditions is not run again."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from tts.concurrency import Once
from tts.types import Verdict
from tts.verifiers.programs.extract import defines, with_setup
from tts.verifiers.programs.plan import Plan, make_plan
from tts.verifiers.programs.reference import expected_values
from tts.verifiers.programs.suite import TestSuite
from tts.verifiers.programs.suite_run import Conditions, Run
from tts.verifiers.programs.verdicts import Kind
from tts.verifiers.sandbox import Sandbox

ATTEMPTS = 3
"""Runs of a program where the machinery fails."""


class Judge:
    """The verdicts of a run; get it with `session.resources.get(Judge)`."""

    def __init__(self) -> None:
        self._verdicts: Once[Verdict] = Once(4096)
        self._plans: Once[Plan] = Once(512)

    async def verdict(self, sandbox: Sandbox, program: str, suite: TestSuite, conditions: Conditions) -> Verdict:
        """The verdict on `program`. One that is remembered says so in `details`, and took no CPU time.

        A run in which the machinery fails is repeated, and in the end has no score; it is not remembered.
        Raises `ConfigError` when the suite's reference cannot be used, `SandboxError` where nothing can be isolated.
        """
        digest = hashlib.blake2b(program.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        key = (digest, suite.fingerprint, conditions, sandbox.version)
        try:
            verdict, known = await self._verdicts.get(key, lambda: self._judged(sandbox, program, suite, conditions))
        except Unjudged as error:
            return error.verdict
        if not known:
            return verdict
        return replace(verdict, cpu_seconds=0.0, details={**verdict.details, "cached": True})

    async def _judged(self, sandbox: Sandbox, program: str, suite: TestSuite, conditions: Conditions) -> Verdict:
        in_container = bool(suite.container and defines(program, suite.container))
        plan = await self._plan(sandbox, suite, conditions, in_container)
        program = with_setup(suite.setup, program)
        verdict = Verdict(None)
        for _ in range(ATTEMPTS):
            report = await Run(sandbox, program, plan, conditions).report()
            verdict = report.verdict()
            if verdict.details["kind"] != Kind.infra:
                return verdict
        raise Unjudged(verdict)

    async def _plan(self, sandbox: Sandbox, suite: TestSuite, conditions: Conditions, in_container: bool) -> Plan:
        async def made() -> Plan:
            expected = await expected_values(sandbox, suite, conditions.isolation)
            return make_plan(suite, expected, in_container=in_container)

        return (await self._plans.get((suite.fingerprint, in_container), made))[0]


class Unjudged(Exception):
    """The machinery failed each time; `verdict` has no score."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.details.get("reason"))
        self.verdict = verdict
