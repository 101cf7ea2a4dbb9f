"""Runs programs on test suites: how each test ended, and the verdict, which is reached only once for each program."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import time
from typing import Any, Literal
from uuid import uuid4

from tts.concurrency import Once
from tts.types import Charge, Problem, Usage, Verdict
from tts.verifiers.programs.asserts import Case, Undecided
from tts.verifiers.programs.compare import output_difference, same_output, shortened, shown
from tts.verifiers.programs.extract import defines, with_setup
from tts.verifiers.programs.plan import SuitePlan, expected_values, make_plan
from tts.verifiers.programs.remote_tests import HOST, RemoteCalls, RemoteTest, run_remote_tests
from tts.verifiers.programs.suite import TOLD, InputOutput, Kind, TestOutcome, TestSuite, public_tests
from tts.verifiers.sandbox import CaseResult, Invocation, Job, JobResult, ProgramLimits, Sandbox, encode

ATTEMPTS = 3
"""Runs of a program while the machinery fails."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions under which a program runs."""

    limits: ProgramLimits
    preload: tuple[str, ...] = ()
    isolation: Literal["required", "best_effort"] = "required"
    run_all: bool = True
    """Whether to go on after a test that fails."""

    def job(self, program: str, **what: Any) -> Job:
        """A job under these conditions."""
        return Job(program, limits=self.limits, preload=self.preload, isolation=self.isolation, **what)


class VerdictCache:
    """The verdicts of a run: what is identical in program, tests and conditions does not run again.

    Get it with `session.resources.get(VerdictCache)`.
    """

    def __init__(self) -> None:
        self._verdicts: Once[Verdict] = Once(4096)
        self._plans: Once[SuitePlan] = Once(512)
        self._suites: Once[tuple[Any, TestSuite | None]] = Once(512)

    async def suite(self, problem: Problem) -> TestSuite | None:
        """The tests that `problem` shows, read once. Raises `ConfigError` when they do not have the right form."""

        async def read() -> tuple[Any, TestSuite | None]:
            return problem.tests, await asyncio.to_thread(public_tests, problem)  # kept with what its number is of

        (_, suite), _ = await self._suites.get(id(problem.tests), read)
        return suite

    async def verdict(self, sandbox: Sandbox, program: str, suite: TestSuite, conditions: Conditions) -> Verdict:
        """The verdict on `program`. A remembered one says so in `details`; each search is charged for it once.

        A run in which the machinery fails is repeated; if it keeps failing, the verdict has no score and is not
        remembered. Raises `ConfigError` when the suite's reference cannot be used, `SandboxError` where programs
        cannot be isolated.
        """
        digest = hashlib.blake2b(program.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if "fingerprint" not in vars(suite):
            await asyncio.to_thread(lambda: suite.fingerprint)
        key = (digest, suite.fingerprint, conditions, sandbox.version)
        verdict, known = await self._verdicts.get(
            key,
            partial(self._judged, sandbox, program, suite, conditions),
            keep=lambda verdict: verdict.details["kind"] != Kind.infra,
        )
        if not known:
            return verdict
        return replace(verdict, cpu_seconds=0.0, details={**verdict.details, "cached": True})

    async def _judged(self, sandbox: Sandbox, program: str, suite: TestSuite, conditions: Conditions) -> Verdict:
        in_container = bool(suite.container and defines(program, suite.container))

        async def planned() -> SuitePlan:
            expected = await expected_values(sandbox, suite, conditions.isolation)
            return await asyncio.to_thread(make_plan, suite, expected, in_container=in_container)

        plan, _ = await self._plans.get((suite.fingerprint, in_container), planned)
        if suite.setup:
            program = with_setup(suite.setup, program)
        for _ in range(ATTEMPTS - 1):
            verdict = await SuiteRun(sandbox, program, plan, conditions).verdict()
            if verdict.details["kind"] != Kind.infra:
                return verdict
        return await SuiteRun(sandbox, program, plan, conditions).verdict()


class SuiteRun:
    """One program on one plan."""

    def __init__(self, sandbox: Sandbox, program: str, plan: SuitePlan, conditions: Conditions) -> None:
        self.sandbox: Sandbox = sandbox
        self.program: str = program
        self.plan: SuitePlan = plan
        limits = conditions.limits
        roomy = replace(limits, output_kb=limits.output_kb + 2 * plan.answers_kb)
        self.conditions: Conditions = replace(conditions, limits=roomy)
        self.run_all: bool = conditions.run_all
        self.began: float = time()
        self.cpu: float = 0.0
        self.isolation: str = ""

    async def verdict(self) -> Verdict:
        """The verdict by all tests, or by those up to the first failure."""
        outcomes: dict[int, TestOutcome] = {}
        for part in (self._cases, self._remote_tests, self._scripts):
            outcomes |= await part()
            if not self.run_all and any(one.kind is not Kind.passed for one in outcomes.values()):
                break
        ordered = [outcomes[number] for number in sorted(outcomes)]
        failed = next((place for place, one in enumerate(ordered) if one.kind is not Kind.passed), None)
        if failed is not None and not self.run_all:
            ordered = ordered[: failed + 1]
        usage = Usage(verifier_seconds=self.cpu, seconds=time() - self.began)
        return verdict_of(
            ordered,
            self.plan.total,
            cpu_seconds=self.cpu,
            charges=frozenset({Charge(uuid4().hex, "verifier", usage, self.began)}),
            isolation=self.isolation,
            run_all=self.run_all,
        )

    async def _run(self, job: Job) -> JobResult:
        result = await self.sandbox.run(job)
        self.cpu += result.cpu_seconds
        self.isolation = result.isolation
        return result

    async def _cases(self) -> dict[int, TestOutcome]:
        """The tests made of cases: each has the outcome of its first case that is not right."""
        cases = self.plan.cases
        found = {number: TestOutcome(Kind.passed) for number in self.plan.compared}
        if not cases:
            return found
        seen: dict[int, TestOutcome | None] = {}  # None: undecided here
        got: dict[int, Any] = {}  # what the checker is asked about

        def judge(place: int, result: CaseResult) -> bool:
            outcome = seen[place] = _of_case(cases[place][1], result)
            if cases[place][1].question and outcome is not None and outcome.kind is Kind.passed:
                got[place] = result.values[-1]
            return not self.run_all and outcome is not None and outcome.kind is not Kind.passed

        calls = tuple(case.calls for _, case in cases)
        result = await self._run(self.conditions.job(self.program, cases=calls, stop_at_failure=judge))
        judged = [
            seen[place] if one.status == "ok" else _of_case(cases[place][1], one)
            for place, one in enumerate(result.cases)
        ]
        if result.loaded.status != "ok":
            judged = [TestOutcome.of(result.loaded)]
        elif self.plan.suite.checker:
            asked = {}
            for place, value in got.items():
                (_, case), outcome = cases[place], judged[place]
                if case.question and outcome is not None and outcome.kind is Kind.passed:
                    given, expected = case.question
                    words = f"{case.shown} gave {shown(value)}, which the checker refuses"
                    asked[place] = (given, value, expected), words
            judged = await self._checked(judged, asked)
        rest = judged[-1] if judged else TestOutcome(Kind.infra, "the program gave no results")
        if (rest is None or rest.kind is Kind.passed) and len(judged) < len(cases):
            rest = TestOutcome(Kind.infra, "the program's results are not complete")
        judged += [rest] * (len(cases) - len(judged))
        undecided: set[int] = set()
        for (number, _), outcome in reversed(list(zip(cases, judged, strict=True))):
            if outcome is None:
                undecided.add(number)
            elif outcome.kind is not Kind.passed:
                found[number] = outcome
        left = [number for number in sorted(undecided) if found[number].kind is Kind.passed]
        return found | await self._beside({number: self.plan.beside[number] for number in left})

    async def _checked(
        self, outcomes: Sequence[TestOutcome | None], asked: Mapping[int, tuple[tuple[object, object, object], str]]
    ) -> list[TestOutcome | None]:
        """`outcomes`, with the checker's word in their place. `asked` has questions, and the words where it refuses."""
        checked: list[TestOutcome | None] = [
            TestOutcome(Kind.output, "too much for the checker") if one is None else one for one in outcomes
        ]
        said = await self._ask([question for question, _ in asked.values()])
        for (place, (_, words)), outcome in zip(asked.items(), said, strict=True):
            checked[place] = replace(outcome, feedback=words) if outcome.kind is Kind.wrong else outcome
        return checked

    async def _ask(self, questions: Sequence[tuple[object, object, object]]) -> list[TestOutcome]:
        """What the suite's checker, in an interpreter of its own, says of each (given, got, expected)."""
        if not questions:
            return []
        calls = await asyncio.to_thread(_to_checker, questions)
        result = await self._run(self.conditions.job(self.plan.suite.checker or "", cases=calls))
        if result.loaded.status != "ok":
            return [TestOutcome(Kind.infra, f"the checker cannot be used: {result.loaded.error}")] * len(calls)
        said = [_of_checker(one) for one in result.cases]
        if said and result.cases[-1].status not in ("ok", "error", "memory"):
            # It was ended: by what the program gave, unless it cannot even take the right answer.
            given, _, expected = questions[len(said) - 1]
            alone = (Invocation("accepts", encode((given, expected, expected))),)
            again = await self._run(self.conditions.job(self.plan.suite.checker or "", cases=(alone,)))
            if not again.cases or again.cases[0].status not in ("ok", "error"):
                said[-1] = TestOutcome(Kind.infra, f"the checker failed: {result.cases[-1].status}")
        return said + [said[-1] if said else TestOutcome(Kind.infra)] * (len(calls) - len(said))

    async def _remote_tests(self) -> dict[int, TestOutcome]:
        return await self._beside(dict(self.plan.remote))

    async def _beside(self, tests: Mapping[int, RemoteTest | RemoteCalls]) -> dict[int, TestOutcome]:
        """The outcomes of tests in an interpreter of their own, by their numbers."""
        if not tests:
            return {}
        outcomes, cpu, self.isolation = await run_remote_tests(
            self.sandbox,
            self.conditions.job(self.program),
            self.conditions.job(HOST),
            self.plan.stage,
            list(tests.values()),
            run_all=self.run_all,
        )
        self.cpu += cpu
        return dict(zip(tests, outcomes, strict=False))

    async def _scripts(self) -> dict[int, TestOutcome]:
        """The tests of standard input and output, each a run of its own; none after one that hangs."""
        tests = self.plan.suite.stdin
        if not tests:
            return {}

        seen: dict[int, TestOutcome] = {}

        def judge(place: int, result: CaseResult) -> bool:
            outcome = seen[place] = self._of_script(tests[place], result)
            return result.status in ("cpu", "wall") or (not self.run_all and outcome.kind is not Kind.passed)

        scripts = tuple(test.input for test in tests)
        language, limits = self.plan.suite.language, self.conditions.limits
        roomy = replace(limits, output_kb=limits.output_kb + 2 * max(len(test.output) for test in tests) // 1024)
        conditions = replace(self.conditions, limits=roomy)
        job = conditions.job(self.program, scripts=scripts, stop_at_failure=judge, language=language)
        result = await self._run(job)
        first = self.plan.total - len(tests)
        if result.loaded.status != "ok" and not result.cases:
            return {first: TestOutcome.of(result.loaded)}
        outcomes: list[TestOutcome | None] = [seen[place] for place in range(len(result.cases))]
        if self.plan.suite.checker:
            asked = {}
            for place, (test, one) in enumerate(zip(tests, result.cases, strict=False)):
                if one.status == "ok":
                    words = _on(test, f"the checker refuses the output {shown(one.stdout)}")
                    asked[place] = (test.input, one.stdout, test.output), words
            outcomes = await self._checked(outcomes, asked)
        return {first + place: outcome for place, outcome in enumerate(outcomes) if outcome is not None}

    def _of_script(self, test: InputOutput, result: CaseResult) -> TestOutcome:
        if result.status != "ok":
            outcome = TestOutcome.of(result)
            return replace(outcome, feedback=_on(test, outcome.feedback))
        suite = self.plan.suite
        if suite.checker or same_output(result.stdout, test.output, suite.output, suite.tolerance):
            return TestOutcome(Kind.passed)
        return TestOutcome(Kind.wrong, _on(test, output_difference(result.stdout, test.output)))


def verdict_of(
    outcomes: Sequence[TestOutcome],
    total: int,
    *,
    cpu_seconds: float = 0.0,
    charges: frozenset[Charge] = frozenset(),
    isolation: str = "",
    run_all: bool = True,
) -> Verdict:
    """The verdict on one program from the outcomes of its tests, fewer than `total` where the rest was not run.

    The outcomes are in the order calls, interactions, reference, asserts, check, stdin. The score is the share of
    tests passed where all were run, else 1 or 0; None where the machinery failed.
    """
    failed = next((one for one in outcomes if one.kind is not Kind.passed), None)
    broken = next((one for one in outcomes if one.kind is Kind.infra), None)
    passed = sum(one.kind is Kind.passed for one in outcomes)
    details: dict[str, Any] = {
        "kind": (broken or failed or TestOutcome(Kind.passed)).kind.value,
        "passed": passed,
        "total": total,
        "outcomes": [one.kind.value for one in outcomes],
        "said": [one.feedback and shortened(one.feedback, 200) for one in outcomes[:TOLD]],
        "isolation": isolation,
    }
    if broken:
        details["reason"] = broken.feedback
        return Verdict(None, None, details=details, cpu_seconds=cpu_seconds, charges=charges)
    feedback = ""
    if failed:
        count = f"{passed} of {total} tests passed; " if run_all and total > 1 else ""
        feedback = shortened(count + (failed.feedback or failed.kind))
    accepted = passed == total
    return Verdict(passed / total if run_all else float(accepted), accepted, feedback, details, cpu_seconds, charges)


def _on(test: InputOutput, words: str) -> str:
    return f"on the input {shown(test.input)}: {words}"


def _of_case(case: Case, result: CaseResult) -> TestOutcome | None:
    """How a case ended; None where that cannot be decided here."""
    if result.status == "large":
        return TestOutcome(Kind.passed) if case.right and result.values[-1:] == (case.right,) else None
    if result.status != "ok":
        return TestOutcome.of(result, case.shown)
    if len(result.values) != len(case.calls):
        return TestOutcome(Kind.crashed, f"{case.shown}: its answers are not those of these calls")
    complaint = "" if case.question else case.complaint(result.values)
    if isinstance(complaint, Undecided) or (result.objects and not case.question):
        return None
    return TestOutcome(Kind.wrong, complaint) if complaint else TestOutcome(Kind.passed)


def _to_checker(questions: Sequence[tuple[object, object, object]]) -> tuple[tuple[Invocation], ...]:
    return tuple((Invocation("accepts", encode(question)),) for question in questions)


def _of_checker(result: CaseResult) -> TestOutcome:
    """Only a plain True accepts."""
    accepts = result.status == "ok" and len(result.values) == 1 and result.values[0] is True
    return TestOutcome(Kind.passed if accepts else Kind.wrong)
