"""Runs a program on a plan, and says how each test ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Literal

from tts.verifiers.programs.asserts import Case
from tts.verifiers.programs.compare import output_difference, same_output, shown
from tts.verifiers.programs.plan import Plan
from tts.verifiers.programs.remote_tests import HOST, hold
from tts.verifiers.programs.suite import InputOutput
from tts.verifiers.programs.verdicts import Kind, Outcome, Report
from tts.verifiers.sandbox import Call, CaseResult, Job, JobResult, Limits, Sandbox
from tts.verifiers.sandbox.codec import encode


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which a program is run."""

    limits: Limits
    preload: tuple[str, ...] = ()
    isolation: Literal["required", "best_effort"] = "required"
    run_all: bool = True
    """Whether to go on after a test that fails."""

    def job(self, program: str, **what: Any) -> Job:
        """A job under these conditions."""
        return Job(program, limits=self.limits, preload=self.preload, isolation=self.isolation, **what)


class Run:
    """One program on one plan."""

    def __init__(self, sandbox: Sandbox, program: str, plan: Plan, conditions: Conditions) -> None:
        self.sandbox, self.program, self.plan = sandbox, program, plan
        limits = conditions.limits
        roomy = replace(limits, output_kb=limits.output_kb + 2 * plan.answers_kb)
        self.conditions, self.run_all = replace(conditions, limits=roomy), conditions.run_all
        self.cpu, self.isolation = 0.0, ""

    async def report(self) -> Report:
        """The outcomes, of all tests or up to the first failure."""
        outcomes: dict[int, Outcome] = {}
        for part in (self._cases, self._dialogues, self._scripts):
            outcomes |= await part()
            if not self.run_all and any(one.kind is not Kind.passed for one in outcomes.values()):
                break
        ordered = [outcome for _, outcome in sorted(outcomes.items(), key=itemgetter(0))]
        failed = next((place for place, one in enumerate(ordered) if one.kind is not Kind.passed), None)
        if failed is not None and not self.run_all:
            ordered = ordered[: failed + 1]
        return Report(ordered, len(self.plan.suite), self.cpu, self.isolation, self.run_all)

    async def _run(self, job: Job) -> JobResult:
        result = await self.sandbox.run(job)
        self.cpu += result.cpu_seconds
        self.isolation = result.isolation
        return result

    async def _cases(self) -> dict[int, Outcome]:
        """The tests made of cases: each the outcome of its first case that is not right."""
        cases = self.plan.cases
        found = {number: Outcome(Kind.passed) for number, test in enumerate(self.plan.tests) if isinstance(test, tuple)}
        if not cases:
            return found
        early: dict[int, Outcome] = {}

        def stop(place: int, result: CaseResult) -> bool:
            early[place] = _of_case(cases[place][1], result)
            return early[place].kind is not Kind.passed and not self.run_all

        calls = tuple(case.calls for _, case in cases)
        job = self.conditions.job(self.program, cases=calls, stop_at_failure=stop)
        result = await self._run(job)
        judged = [early.get(place) or _of_case(cases[place][1], one) for place, one in enumerate(result.cases)]
        if result.loaded.status != "ok":
            judged = [Outcome.of(result.loaded)]
        elif self.plan.suite.checker:
            judged = await self._checked(cases, result.cases, judged)
        rest = judged[-1] if judged else Outcome(Kind.infra, "the program gave no results")
        if rest.kind is Kind.passed and len(judged) < len(cases):
            rest = Outcome(Kind.infra, "the program's results are not complete")
        judged += [rest] * (len(cases) - len(judged))
        for (number, _), outcome in reversed(list(zip(cases, judged, strict=True))):
            if outcome.kind is not Kind.passed:
                found[number] = outcome
        return found

    async def _checked(
        self, cases: Sequence[tuple[int, Case]], results: Sequence[CaseResult], judged: Sequence[Outcome]
    ) -> list[Outcome]:
        """`judged`, with the checker's word in the place of the comparison's."""
        asked = [
            (place, (*case.question, result.values[-1]))
            for place, ((_, case), result) in enumerate(zip(cases, results, strict=False))
            if case.question and result.status == "ok"
        ]
        said = await self._ask([(given, got, expected) for _, (given, expected, got) in asked])
        outcomes = list(judged)
        for (place, (_, _, got)), outcome in zip(asked, said, strict=True):
            outcomes[place] = outcome
            if outcome.kind is Kind.wrong:
                words = f"{cases[place][1].shown} gave {shown(got)}, which the checker refuses"
                outcomes[place] = replace(outcome, feedback=words)
        return outcomes

    async def _ask(self, questions: Sequence[tuple[object, object, object]]) -> list[Outcome]:
        """What the suite's checker says, in an interpreter of its own, of (given, got, expected)."""
        calls = tuple((Call("accepts", encode(question)),) for question in questions)
        if not calls:
            return []
        result = await self._run(self.conditions.job(self.plan.suite.checker or "", cases=calls))
        if result.loaded.status != "ok":
            return [Outcome(Kind.infra, f"the checker cannot be used: {result.loaded.error}")] * len(calls)
        said = [_of_checker(one) for one in result.cases]
        return said + [said[-1] if said else Outcome(Kind.infra)] * (len(calls) - len(said))

    async def _dialogues(self) -> dict[int, Outcome]:
        dialogues = self.plan.dialogues
        if not dialogues:
            return {}
        outcomes, cpu, self.isolation = await hold(
            self.sandbox,
            self.conditions.job(self.program),
            self.conditions.job(HOST),
            self.plan.stage,
            [dialogue for _, dialogue in dialogues],
            run_all=self.run_all,
        )
        self.cpu += cpu
        return {number: outcome for (number, _), outcome in zip(dialogues, outcomes, strict=False)}

    async def _scripts(self) -> dict[int, Outcome]:
        """The tests of standard input and output, each a run of its own; none after one that hangs."""
        tests = self.plan.suite.stdin
        if not tests:
            return {}

        def stop(place: int, result: CaseResult) -> bool:
            if result.status in ("cpu", "wall"):
                return True
            return not self.run_all and self._of_script(tests[place], result).kind is not Kind.passed

        scripts = tuple(test.input for test in tests)
        language = self.plan.suite.language
        job = self.conditions.job(self.program, scripts=scripts, stop_at_failure=stop, language=language)
        result = await self._run(job)
        first = len(self.plan.tests)
        if result.loaded.status != "ok" and not result.cases:
            return {first: Outcome.of(result.loaded)}
        outcomes = [self._of_script(test, one) for test, one in zip(tests, result.cases, strict=False)]
        if self.plan.suite.checker:
            asked = [place for place, one in enumerate(result.cases) if one.status == "ok"]
            said = await self._ask(
                [(tests[place].input, result.cases[place].stdout, tests[place].output) for place in asked]
            )
            for place, outcome in zip(asked, said, strict=True):
                outcomes[place] = outcome
                if outcome.kind is Kind.wrong:
                    words = f"the checker refuses the output {shown(result.cases[place].stdout)}"
                    outcomes[place] = replace(outcome, feedback=_on(tests[place], words))
        return {first + place: outcome for place, outcome in enumerate(outcomes)}

    def _of_script(self, test: InputOutput, result: CaseResult) -> Outcome:
        if result.status != "ok":
            outcome = Outcome.of(result)
            return replace(outcome, feedback=_on(test, outcome.feedback))
        suite = self.plan.suite
        if suite.checker or same_output(result.stdout, test.output, suite.output, suite.tolerance):
            return Outcome(Kind.passed)
        return Outcome(Kind.wrong, _on(test, output_difference(result.stdout, test.output)))


def _on(test: InputOutput, words: str) -> str:
    return f"on the input {shown(test.input)}: {words}"


def _of_case(case: Case, result: CaseResult) -> Outcome:
    if result.status != "ok":
        return Outcome.of(result, case.shown)
    if len(result.values) != len(case.calls):
        return Outcome(Kind.crashed, f"{case.shown}: its answers are not those of these calls")
    complaint = "" if case.question else case.complaint(result.values)
    return Outcome(Kind.wrong, complaint) if complaint else Outcome(Kind.passed)


def _of_checker(result: CaseResult) -> Outcome:
    """Only a plain True accepts; a checker that fails is at fault itself, unless what it was given made it fail."""
    if result.status in ("ok", "error"):
        return Outcome(Kind.passed if result.status == "ok" and result.values[-1] is True else Kind.wrong)
    return Outcome(Kind.infra, f"the checker failed: {result.status}")
