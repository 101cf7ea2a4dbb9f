"""Code judged by running it on tests.

Isolation is against accidents, not against malice: see `tts.verifiers.runner`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveFloat, PositiveInt, ValidationError
from pydantic import model_validator as validates

from tts.base import Verifier
from tts.errors import ConfigError
from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.programs import extract_program
from tts.verifiers.runner import Outcome, ProgramRunner, Report


class Call(BaseModel):
    """A call of the entry point and what it must return, as plain JSON values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    args: tuple[JsonValue, ...] = ()
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    expected: JsonValue
    """A returned tuple counts as the list of its items, and floats may differ by 1e-6."""


class InputOutput(BaseModel):
    """What a program reads from its standard input, and what it must print."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str
    output: str
    """Compared line by line, without space at the lines' ends and empty lines at the end."""


class TestSuite(BaseModel):
    """Tests of one program; any of the kinds together. `Problem.tests` has this form as plain data."""

    __test__ = False  # pytest collects what is called Test...
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    entry_point: str | None = None
    """The function or class that the program must define; needed by `calls` and `check`."""
    prompt: str = ""
    """Code that a completion continues; also gives imports and helpers to programs that are whole."""
    setup: str = ""
    """Code executed before the program, in the same module."""
    calls: tuple[Call, ...] = ()
    asserts: tuple[str, ...] = ()
    """Statements, each a test: `assert f(1) == 2`."""
    check: str | None = None
    """Code that defines `check(candidate)`, which is called with the entry point: one test."""
    stdin: tuple[InputOutput, ...] = ()
    """Each runs the program anew as a script."""

    @validates(mode="after")
    def _entry_point_is_named(self) -> TestSuite:
        if (self.calls or self.check) and not self.entry_point:
            raise ValueError("calls and check need entry_point, the name of the function under test")
        return self

    @property
    def in_module(self) -> int:
        """Tests that share one run of the program."""
        return len(self.calls) + len(self.asserts) + bool(self.check)

    def __len__(self) -> int:
        return self.in_module + len(self.stdin)


class UnitTests(Verifier):
    """Runs the program in the candidate on tests. The score is the share of tests passed.

    Without a test there is no verdict (`passed` and `score` are None). `details` has `kind` (passed, wrong, error,
    timeout, memory, output, crashed or untested: of the first failure), `passed` and `total` (numbers of tests)
    and `outcomes` (the kind of each test, in the order calls, asserts, check, stdin).
    """

    tests: TestSuite | None = None
    """The public tests of the problem by default."""
    timeout: PositiveFloat = 10.0
    """Seconds, elapsed and of CPU, for all calls and assertions together and for each input of `stdin`."""
    memory_mb: PositiveInt = 1024
    """Address space of the program."""
    output_kb: int = Field(default=1024, ge=64)
    """Largest output, and largest file that the program may write."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Run the program. Raises `ConfigError` when the problem's tests do not have the form of a `TestSuite`."""
        suite = self.tests or public_tests(problem)
        if not suite:
            return Verdict(None, details={"kind": "untested", "reason": "there are no tests"})
        program = extract_program(candidate.content, suite.entry_point, suite.prompt)
        if program is None:
            outcomes = [Outcome(kind="error", feedback="there is no program in the answer")]
            return _verdict(outcomes, len(suite), 0.0)
        reports = await session.shared.get(ProgramRunner).run(
            program,
            _runs(suite),
            timeout=self.timeout,
            memory=self.memory_mb << 20,
            output=self.output_kb << 10,
        )
        return _verdict(_outcomes(suite, reports), len(suite), sum(report["cpu"] for report in reports))


def public_tests(problem: Problem) -> TestSuite | None:
    """The tests that the problem shows. Raises `ConfigError` when they do not have the right form."""
    if problem.tests is None:
        return None
    try:
        return TestSuite.model_validate(problem.tests)
    except ValidationError as error:
        raise ConfigError(f"the tests of {problem.id} do not have the form of a TestSuite: {error}") from error


def _runs(suite: TestSuite) -> list[dict[str, Any]]:
    tests = suite.model_dump(exclude={"stdin", "prompt"})
    return [tests] * bool(suite.in_module) + [{"input": test.input} for test in suite.stdin]


def _outcomes(suite: TestSuite, reports: list[Report]) -> list[Outcome]:
    """The outcome of each test; those after one that hangs are missing."""
    outcomes, scripts = [], list(reports)
    if suite.in_module:
        report = scripts.pop(0)
        outcomes += report["outcomes"]
        outcomes += [_of_exit(report)] * (suite.in_module - len(outcomes))
    return outcomes + [_of_output(report, test.output) for report, test in zip(scripts, suite.stdin, strict=False)]


def _failed(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome["kind"] != "passed"]


def _of_output(report: Report, expected: str) -> Outcome:
    if report["exit"] != 0 or report["timed_out"]:
        return _of_exit(report)
    if _lines(report["stdout"]) == _lines(expected):
        return Outcome(kind="passed", feedback="")
    return Outcome(kind="wrong", feedback=f"expected output {expected[:200]!r}, got {report['stdout'][:200]!r}")


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _of_exit(report: Report) -> Outcome:
    """What the end of a run that did not come to an end by itself means."""
    if report["timed_out"]:
        return Outcome(kind="timeout", feedback="the time limit was exceeded")
    if report["signal"] == "SIGXFSZ":
        return Outcome(kind="output", feedback="too much output")
    if report["signal"]:
        return Outcome(kind="crashed", feedback=f"the program was ended by {report['signal']}")
    error = (report["stderr"].strip().splitlines() or [""])[-1]
    if report["exit"] == 1 and error:
        return Outcome(kind="memory" if error.startswith("MemoryError") else "error", feedback=error)
    return Outcome(kind="crashed", feedback=f"the program ended itself with exit status {report['exit']}")


def _verdict(outcomes: list[Outcome], total: int, cpu: float) -> Verdict:
    failed = _failed(outcomes)
    passed = len(outcomes) - len(failed)
    details = {
        "kind": failed[0]["kind"] if failed else "passed",
        "passed": passed,
        "total": total,
        "outcomes": [outcome["kind"] for outcome in outcomes],
    }
    feedback = ""
    if passed < total:
        count = f"{passed} of {total} tests passed; " if total > 1 else ""
        feedback = count + (failed[0]["feedback"] or failed[0]["kind"])
    return Verdict(passed / total, passed == total, feedback, details, cpu)
