"""Tests that the model writes: programs and tests vouch for each other.

Chen et al. 2022, "CodeT: Code Generation with Generated Tests" (arXiv 2207.10397), section 2.2, dual execution
agreement: programs that pass the same tests form a consensus set, worth its number of programs times that of tests.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, PositiveFloat, PositiveInt

from tts.base import ScoreVerifier
from tts.prompting import ask, constrained, filled, json_of, template
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict
from tts.verifiers.programs.extract import fenced_blocks, syntax
from tts.verifiers.programs.judging import VerdictCache
from tts.verifiers.unit_tests import InputOutput, Kind, TestSuite, UnitTests

ASSERTS = """\
Write tests for a program that solves this task. Do not solve it.

<task>
$problem
</task>

Work each expected result out from the task's words alone: ordinary cases, limits, odd ones. Give $count statements,
one a line, in a fenced Python block: assert NAME_OF_THE_FUNCTION(arguments) == expected"""

LONGEST_TESTS = 20_000
"""Characters of an answer in which asserts are looked for."""

STDIN = """\
Write tests for a program that solves this task, which reads its input and prints its output. Do not solve it.

<task>
$problem
</task>

Work each output out from the task's words alone: ordinary cases, limits, odd ones. Give $count tests.
Reply with JSON: {"tests": [{"input": "the whole input", "output": "all that must be printed"}]}"""


class WrittenTests(BaseModel):
    """Tests of whole programs, as a model writes them."""

    __test__: ClassVar[bool] = False

    tests: list[InputOutput]


class GeneratedTests(ScoreVerifier):
    """Scores by agreement on tests that the policy writes, once for the problem; no public test is needed.

    Among other candidates the score is how many pass the very same tests, times how many tests those are; alone it is
    the number of tests passed. `details` has `agreed`, the numbers of these tests, and `tests`, how many there are.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"policy"})
    runs_code: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    form: Literal["asserts", "stdin"] = "asserts"
    """Whether tests call the function that the task names, or feed input to the program."""
    prompt: Annotated[str, template("problem", "count")] | None = None
    """The request: for a block of asserts, or for JSON with `tests`, each with `input` and `output`."""
    writers: PositiveInt = 4
    """How many samples of tests to draw."""
    count: PositiveInt = 10
    """How many tests to ask for in each."""
    timeout: PositiveFloat = 20.0
    """Seconds of CPU time for all tests of a program together, each at most a fifth of it."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Run the program on the tests. Raises `ValueError` where the policy wrote no usable test."""
        suite = await session.once(("tests", self.spec), lambda inner: self._written(problem, inner))
        runner = UnitTests(tests=suite, timeout=self.timeout, test_timeout=self.timeout / 5)
        verdict = await session.verify(candidate, runner)
        if verdict.score is None:
            return Verdict(None, feedback=verdict.feedback, details=verdict.details)
        outcomes = verdict.details.get("outcomes", ())
        agreed = [i for i, kind in enumerate(outcomes) if kind == Kind.passed]
        return self.rated(float(len(agreed)), verdict.feedback, agreed=agreed, tests=len(suite))

    def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Each with the worth of its consensus set."""
        agreed = [c.verdict.details.get("agreed") if c.verdict is not None else None for c in candidates]
        sizes = Counter(tuple(tests) for tests in agreed if tests is not None)
        return [
            candidate if tests is None else self.rescored(candidate, float(sizes[tuple(tests)] * len(tests)))
            for candidate, tests in zip(candidates, agreed, strict=True)
        ]

    async def _written(self, problem: Problem, session: Session) -> TestSuite:
        prompt = self.prompt or (ASSERTS if self.form == "asserts" else STDIN)
        messages = [{"role": "user", "content": await filled(prompt, problem=problem, count=self.count)}]
        known = await session.resources.get(VerdictCache).suite(problem) or TestSuite()
        kept: dict[str, Any] = {
            name: getattr(known, name) for name in ("entry_point", "container", "prompt", "setup", "output")
        }
        stdin = self.form == "stdin"
        read, form = (json_of(WrittenTests), constrained(WrittenTests)) if stdin else (_asserts, {})
        answers = ask(session, messages, read, role="policy", n=self.writers, **form)
        written = sorted([(sample.index, found) async for sample, found in answers], key=lambda one: one[0])
        if not written:
            raise ValueError("the policy wrote no usable test")
        tests = [test for _, found in written for test in (found.tests if isinstance(found, WrittenTests) else found)]
        kept["stdin" if stdin else "asserts"] = tuple({str(test): test for test in tests}.values())
        return TestSuite.model_validate(kept)


def _asserts(text: str) -> list[str]:
    """The assert statements in a text. Raises `ValueError` where there is none."""
    found, text = [], text[:LONGEST_TESTS]
    for block in fenced_blocks(text) or [text]:
        for part in [block] if not isinstance(syntax(block), int) else block.splitlines():
            tree = syntax(part.strip()) if "assert" in part else None  # most lines of other text have none
            with suppress(RecursionError):
                found += [ast.unparse(node) for node in getattr(tree, "body", ()) if isinstance(node, ast.Assert)]
    if not found:
        raise ValueError("it has no assert statement")
    return found
