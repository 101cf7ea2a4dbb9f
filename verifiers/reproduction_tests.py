"""Tests that the model writes to show the fault, and those of the repository that a repair must not break.

Xia et al. 2024, "Agentless: Demystifying LLM-based Software Engineering Agents" (arXiv 2407.01489), section 3.3:
patches are chosen by regression tests, and by reproduction tests that the model writes.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from math import prod
from typing import Annotated, Any, ClassVar

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from tts.base import ScoreVerifier
from tts.concurrency import now
from tts.environments.folder import Folder, PatchError, text_of, visible
from tts.environments.workspace import Ran, Workspace
from tts.prompting import ask, filled, template, without_thoughts
from tts.session import Session
from tts.trajectories import shortened
from tts.types import Candidate, Problem, Scale, Verdict
from tts.verifiers.folder_tests import TESTS, begun, left
from tts.verifiers.programs.extract import fenced_blocks, syntax
from tts.verifiers.sandbox import Sandbox

PROMPT = """\
A folder has a fault. Write one test file that shows it. Do not repair the fault.

<task>
$problem
</task>

<files>
$files
</files>

The test must fail now, because of the fault, and pass once the task is done. Work out what is right from the task and \
from what the code says of itself; test what the task asks for, and also cases that it does not show. The file is \
$path, and is run by: $command

Reply with the whole file in one fenced Python block."""
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
NOTHING_RUN = re.compile(r"\b(?:Ran 0 tests|no tests ran|NO TESTS RAN)\b")
"""What test runners print that found no test in a file."""
LONGEST_TEST = 20_000
"""Characters of an answer in which a test file is looked for."""


class ReproductionTests(ScoreVerifier):
    """Scores by the share of reproduction tests passed times that of regression tests passed.

    Reproduction tests are files that the policy writes, once for the problem; only those count that fail in the folder
    as it was at the beginning. Regression tests are the folder's own test files that pass there. All run in the
    sandbox, and exit statuses decide, which a program can forge. Where no test shows the fault, there is no score.
    `details` has how many of each passed, and their total.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"policy"})
    runs_code: ClassVar[bool] = True
    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    prompt: Annotated[str, template("problem", "files", "path", "command")] = PROMPT
    """The request for a test file in a fenced block."""
    writers: PositiveInt = 4
    """How many test files to draw."""
    command: str = "python -m unittest -q {test}"
    """How a test file is run, with bash in the folder; 0 says that it passes."""
    path: str = "tests/test_reproduction.py"
    """Where a test that the policy writes is put."""
    regression: tuple[str, ...] = ("test_*.py", "*/test_*.py", "*_test.py")
    """Patterns of the folder's own test files."""
    regressions: NonNegativeInt = 20
    """How many of them are run, at most."""
    restore: tuple[str, ...] = TESTS
    """Patterns of files that are as they were whatever the patch does to them."""
    shown: PositiveInt = 20_000
    """Characters of the folder's files that the policy is shown; the middles of long ones are left out."""
    timeout: PositiveFloat = 60.0
    """Elapsed seconds for each test file."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Run the tests in the folder. Raises `ValueError` where no test that the policy wrote shows the fault."""
        before = await begun(problem, session)
        kept = await session.once(("tests", self.spec), lambda inner: self._kept(problem, before, inner))
        try:
            folder = await left(before, candidate.content, self.restore)
        except PatchError as error:
            return self.rated(0.0, f"the patch does not fit: {error}")
        ran = await session.once(("tested", self.spec, candidate.content), lambda inner: self._ran(folder, kept, inner))
        outcomes: dict[str, list[str | None]] = {"reproduction": [], "regression": []}
        for test, one in zip(kept, ran, strict=True):
            told = f"{test.path}:\n{shortened(one.output, 1000)}" if one.ended else None
            outcomes["regression" if test.text is None else "reproduction"].append(told)
        failed = {kind: [told for told in ends if told is not None] for kind, ends in outcomes.items()}
        score = prod(1 - len(failed[kind]) / len(ends) for kind, ends in outcomes.items() if ends)
        numbers = {
            kind: {"passed": len(ends) - len(failed[kind]), "total": len(ends)} for kind, ends in outcomes.items()
        }
        return self.rated(score, "\n\n".join(told[0] for told in failed.values() if told), **numbers)

    async def _kept(self, problem: Problem, before: Folder, session: Session) -> list[Check]:
        """The tests that the policy wrote and that fail in the folder, and those of the folder that pass in it."""
        own = sorted(path for path in visible(before) if any(fnmatch(path, pattern) for pattern in self.regression))
        written = await self._written(problem, before, session)
        tests = [*(Check(self.path, text) for text in written), *map(Check, own[: self.regressions])]
        ran = await self._ran(before, tests, session)
        kept = [
            test
            for test, one in zip(tests, ran, strict=True)
            if bool(one.ended) == (test.text is not None) and not NOTHING_RUN.search(one.output)
        ]
        if not any(test.text is not None for test in kept):
            raise ValueError("no test that the policy wrote shows the fault: none fails in the folder as it was")
        return kept

    async def _written(self, problem: Problem, before: Folder, session: Session) -> list[str]:
        texts = {path: text for path, data in sorted(visible(before).items()) if (text := text_of(data)) is not None}
        each = self.shown
        while sum(min(len(text), each) for text in texts.values()) > self.shown and each > 50:
            each = each * 3 // 4
        files = "\n\n".join(f"--- {path}\n{shortened(text, each)}" for path, text in texts.items())
        values = {"path": self.path, "command": self.command.replace("{test}", self.path)}
        asked = await filled(self.prompt, problem=problem, files=shortened(files, 2 * self.shown), **values)
        answers = ask(session, [{"role": "user", "content": asked}], _test_file, role="policy", n=self.writers)
        written = sorted([(sample.index, text) async for sample, text in answers])
        return [*dict.fromkeys(text for _, text in written)]

    async def _ran(self, folder: Folder, tests: Sequence[Check], session: Session) -> list[Ran]:
        """What came of each of `tests` in `folder`, which is charged to all who need it."""
        space, sandbox, began = Workspace(timeout=self.timeout), session.resources.get(Sandbox), now()

        def run(test: Check) -> Coroutine[Any, Any, Ran]:
            files = {**folder, test.path: test.text.encode()} if test.text is not None else folder
            return space.run(sandbox, files, self.command.replace("{test}", shlex.quote(test.path)))

        ran = await session.together(map(run, tests))
        session.pay_verifier(sum(one.cpu for one in ran), now() - began)
        return ran


@dataclass(frozen=True)
class Check:
    """A test file: one of the folder's own, or one with a `text` that the policy wrote."""

    path: str
    text: str | None = None


def _test_file(text: str) -> str:
    """The test file in an answer. Raises `ValueError` where there is none."""
    text = without_thoughts(text)[:LONGEST_TEST]
    for block in fenced_blocks(text) or [text]:
        tree = syntax(block)
        names = (
            [node.name for node in ast.walk(tree) if isinstance(node, FUNCTIONS)] if isinstance(tree, ast.AST) else []
        )
        if any(name.startswith("test") for name in names):
            return block
    raise ValueError("it has no test file: Python code with a function test...")
