"""Verifiers of a folder that a patch leads to: what a trajectory in a `workspace` leaves behind, or a model's diff.

`folder_tests` calls what is in it, and compares the values outside, like `unit_tests`. `folder_command` believes the
exit status of a command, which is all that most test suites offer; a program that wants to be accepted can forge it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import ClassVar

from pydantic import PositiveFloat

from tts import registry
from tts.base import AnswerVerifier, Verifier
from tts.environments.folder import Folder, PatchError, applied, folder_of
from tts.environments.workspace import Workspace
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict
from tts.verifiers.programs.suite import Kind, TestSuite
from tts.verifiers.sandbox import Sandbox
from tts.verifiers.unit_tests import UnitTests

PROGRAM = """\
import os as _os, sys as _sys
_sys.dont_write_bytecode = True
for _path, _data in {files!r}.items():
    _os.makedirs(_os.path.dirname(_path) or ".", exist_ok=True)
    with open(_path, "wb") as _file:
        _file.write(_data)
_sys.path.insert(0, _os.getcwd())
{setup}
"""


TESTS = ("test_*", "*/test_*", "tests/*", "*/tests/*")
"""Patterns of files that judge."""


async def begun(problem: Problem, session: Session) -> Folder:
    """The folder before the patch: that of the workspace, or else the problem's files. Raises `ConfigError`."""
    place = session.environment
    if place is None and problem.environment is not None:
        place = registry.make("environments", problem.environment)
    return await asyncio.to_thread(place.begin, problem) if isinstance(place, Workspace) else folder_of(problem)


async def left(before: Folder, patch: str, restore: Sequence[str]) -> dict[str, bytes]:
    """The folder after `patch`, with files that match a pattern of `restore` as they were. Raises `PatchError`."""
    after = await asyncio.to_thread(applied, before, patch)
    held = {path for path in {*before, *after} if any(fnmatch(path, pattern) for pattern in restore)}
    return {path: data for path, data in after.items() if path not in held} | {
        path: before[path] for path in held if path in before
    }


class FolderTests(UnitTests):
    """`unit_tests` on a folder: the problem's files, or the workspace's, after the patch in the candidate.

    The tests' `setup` imports what they call. What they are is not the folder's business: test files in it are neither
    run nor believed.
    """

    async def prepared(
        self, problem: Problem, candidate: Candidate, suite: TestSuite, session: Session
    ) -> tuple[str, TestSuite]:
        """A program that lays out the folder and imports what is tested. Raises `PatchError`."""
        folder = await asyncio.to_thread(applied, await begun(problem, session), candidate.content)
        files = {path: data for path, data in folder.items() if not path.endswith("/")}
        return PROGRAM.format(files=files, setup=suite.setup), suite.model_copy(update={"setup": ""})

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Run the folder's functions. Raises `ConfigError` where files or tests of the problem have no right form."""
        try:
            return await super().verify(problem, candidate, session)
        except PatchError as error:
            return Verdict(0.0, False, f"the patch does not fit: {error}", {"kind": Kind.error.value})


class FolderCommand(Verifier):
    """Accepts if a command succeeds in the folder that the patch in the candidate leads to.

    The command runs in the sandbox, and its exit status decides. `feedback` is what it printed.
    """

    runs_code: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    command: str = "python -m unittest -q"
    """Run with bash in the folder; 0 accepts."""
    restore: tuple[str, ...] = TESTS
    """Patterns of files that are as in the problem whatever the patch does to them: those that judge."""
    timeout: PositiveFloat = 60.0
    """Elapsed seconds."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        try:
            folder = await left(await begun(problem, session), candidate.content, self.restore)
        except PatchError as error:
            return Verdict(0.0, False, f"the patch does not fit: {error}")
        ran = await Workspace(timeout=self.timeout).run(session.resources.get(Sandbox), folder, self.command)
        return Verdict(
            float(not ran.ended), not ran.ended, ran.output if ran.ended else "", {"ended": ran.ended}, ran.cpu
        )


class Patch(AnswerVerifier):
    """Compares patches for votes: the lines that they remove and add, by file, whatever their spaces and places."""

    def parse(self, text: str) -> str | None:
        changed = [
            " ".join(line.split())
            for line in text.split("\n")
            if line[:1] in ("+", "-") and line[1:].strip() and not line.startswith("--- ")
        ]
        return "\n".join(changed) or None
