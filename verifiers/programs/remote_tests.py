"""Tests that need an interpreter get one of their own, and reach the program through plain data alone.

Two sandboxed programs run side by side, the candidate and the tests (`remote_tests_child`), with one channel between
them. Neither sees the other's memory, and the tests' interpreter says how each test ended.
"""

from __future__ import annotations

import asyncio
import marshal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tts.verifiers.programs.compare import shown
from tts.verifiers.programs.suite import Kind, TestOutcome
from tts.verifiers.sandbox import Invocation, Job, RunningProgram, Sandbox, encode

_sources = [Path(__file__).with_name(name) for name in ("equality.py", "remote_tests_child.py")]
_code = [marshal.dumps(compile(file.read_text(), file.name, "exec")) for file in _sources]
HOST = (  # the same interpreter runs it, so it need not be compiled again
    f"import marshal\nfor code in {_code!r}: exec(marshal.loads(code))"
)


@dataclass(frozen=True)
class RemoteTest:
    """Test code: statements, or the definition of `check`, which is then called."""

    source: str
    calls_check: bool = False
    names: tuple[str, ...] = ()
    """Names that mean the program's, or a module's, where the test's side does not define them."""

    def order(self) -> Invocation:
        """What the tests' interpreter is asked to do."""
        return Invocation("run_test", encode((self.source, list(self.names), self.calls_check)))


@dataclass(frozen=True)
class RemoteCalls:
    """Calls of the program, in order, whose values are compared beside it: they are too large to be read here."""

    calls: tuple[Invocation, ...]
    expected: Mapping[int, Any]
    """What is expected of calls, by their places."""
    atol: float | None = None
    """For the rule of references; None: the rule of JSON."""

    def order(self) -> Invocation:
        """What the tests' interpreter is asked to do."""
        calls = [(call.path, call.args, call.kwargs, call.store) for call in self.calls]
        return Invocation("run_calls", encode((calls, dict(self.expected), self.atol)))


@dataclass(frozen=True, slots=True)
class Stage:
    """What all remote tests of a suite build upon."""

    setup: str
    helpers: str
    """Code whose definitions the tests may use: the prompt."""
    remote: Mapping[str, str]
    """Names of the tests for paths in the program."""


async def run_remote_tests(
    sandbox: Sandbox,
    program: Job,
    tests: Job,
    stage: Stage,
    remote_tests: Sequence[RemoteTest | RemoteCalls],
    *,
    run_all: bool,
) -> tuple[list[TestOutcome], float, str]:
    """The outcomes of all tests, or of those up to the first failure; the CPU seconds of both programs; the isolation.

    `tests` is the job that runs `HOST`.
    """
    async with sandbox.open(program) as candidate, sandbox.open(tests, remote=candidate) as host:
        ready = [candidate.loaded, host.loaded]
        if all(one.status == "ok" for one in ready):
            arguments = (stage.setup, stage.helpers, dict(stage.remote))
            ready.append(await host.call(Invocation("prepare", encode(arguments))))
        failed = next((one for one in ready if one.status != "ok"), None)
        outcomes: list[TestOutcome] = []
        for test in remote_tests:
            outcomes.append(TestOutcome.of(failed) if failed else await _run_one(candidate, host, test))
            if outcomes[-1].kind is not Kind.passed and not run_all:
                break
        return outcomes, candidate.cpu_seconds + host.cpu_seconds, candidate.isolation


async def _run_one(candidate: RunningProgram, host: RunningProgram, test: RemoteTest | RemoteCalls) -> TestOutcome:
    order = await asyncio.to_thread(test.order)  # it holds what is expected, which may be large
    with candidate.timed(candidate.limits.case_cpu_seconds):
        said = await host.call(order)
    if said.status != "ok":
        return TestOutcome.of(said, "the tests")
    match said.values[-1]:
        case ("passed",):
            return TestOutcome(Kind.passed)
        case ("failed", str(name), str(words), str(last)):
            return TestOutcome(Kind.wrong, "; ".join(filter(None, [_failure(test, name, words), last])))
        case ("ended", _):
            return TestOutcome.of(await candidate.over())
        case (("wrong" | "crashed" | "memory" | "output") as kind, str(words)):
            return TestOutcome(Kind(kind), words)
        case other:
            return TestOutcome(Kind.wrong, f"the tests' interpreter said {shown(other)}")


def _failure(test: RemoteTest | RemoteCalls, name: str, words: str) -> str:
    if isinstance(test, RemoteCalls):
        return words
    doing = "" if test.calls_check else f"{test.source}: "
    return f"{doing}{name}: {words}".removesuffix(": ")
