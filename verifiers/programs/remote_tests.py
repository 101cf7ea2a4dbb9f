"""Tests that need an interpreter get one of their own: the program is reached through plain data alone.

Two sandboxed programs run side by side, the candidate's and the tests' (`remote_tests_child`), with one channel between
them. Neither sees the other's memory, and how a test ended is said by the tests' interpreter.
"""

from __future__ import annotations

import ast
import marshal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tts.verifiers.programs.compare import shown
from tts.verifiers.programs.extract import syntax
from tts.verifiers.programs.verdicts import Kind, Outcome
from tts.verifiers.sandbox import Call, Job, Program, Sandbox
from tts.verifiers.sandbox.codec import encode

_host = Path(__file__).with_name("remote_tests_child.py")
_code = marshal.dumps(compile(_host.read_text(), _host.name, "exec"))
HOST = f"import marshal; exec(marshal.loads({_code!r}))"  # the same interpreter runs it: it need not be compiled again


@dataclass(frozen=True)
class Dialogue:
    """Test code: statements, or the definition of `check`, which is then called."""

    source: str
    calls_check: bool = False

    @cached_property
    def names(self) -> list[str]:
        """The names that it uses."""
        tree = syntax(self.source)
        parts = () if isinstance(tree, int) else ast.walk(tree)
        return sorted({node.id for node in parts if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)})


@dataclass(frozen=True, slots=True)
class Stage:
    """What all dialogues of a suite build upon."""

    setup: str
    helpers: str
    """Code whose definitions the tests may use: the prompt."""
    remote: Mapping[str, str]
    """Names of the tests for paths in the program."""


async def hold(
    sandbox: Sandbox, program: Job, tests: Job, stage: Stage, dialogues: Sequence[Dialogue], *, run_all: bool
) -> tuple[list[Outcome], float, str]:
    """The outcome of each dialogue, up to the first failure or of all, the CPU seconds of both, and the isolation.

    `tests` is the job of `HOST`.
    """
    async with sandbox.open(program) as candidate, sandbox.open(tests, remote=candidate) as host:
        ready = [candidate.loaded, host.loaded]
        if all(one.status == "ok" for one in ready):
            arguments = (stage.setup, stage.helpers, dict(stage.remote))
            ready.append(await host.call(Call("prepare", encode(arguments))))
        failed = next((one for one in ready if one.status != "ok"), None)
        outcomes: list[Outcome] = []
        for dialogue in dialogues:
            outcomes.append(Outcome.of(failed) if failed else await _hold_one(candidate, host, dialogue))
            if outcomes[-1].kind is not Kind.passed and not run_all:
                break
        return outcomes, candidate.cpu_seconds + host.cpu_seconds, candidate.isolation


async def _hold_one(candidate: Program, host: Program, dialogue: Dialogue) -> Outcome:
    with candidate.timed():
        said = await host.call(Call("hold", encode((dialogue.source, dialogue.names, dialogue.calls_check))))
    if said.status != "ok":
        return Outcome.of(said, "the tests")
    match said.values[-1]:
        case ("passed",):
            return Outcome(Kind.passed)
        case ("failed", str(name), str(words), str(last)):
            return Outcome(Kind.wrong, "; ".join(filter(None, [_failure(dialogue, name, words), last])))
        case ("ended", _):
            return Outcome.of(await candidate.over())
        case (("wrong" | "infra" | "crashed" | "memory" | "output") as kind, str(words)):
            return Outcome(Kind(kind), words)
        case other:
            return Outcome(Kind.infra, f"the tests' interpreter said {shown(other)}")


def _failure(dialogue: Dialogue, name: str, words: str) -> str:
    doing = "" if dialogue.calls_check else f"{dialogue.source}: "
    return f"{doing}{name}: {words}".removesuffix(": ")
