"""Tests that need an interpreter get one of their own: the program is reached through plain data alone.

Two sandboxed programs run side by side, the candidate's and the tests' (`dialogue_host`). The tests ask for calls;
this module has them made by the candidate, and carries values back. Neither sees the other's memory, and how a test
ended is said by the tests' interpreter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tts.verifiers.judging.compare import is_plain, shown
from tts.verifiers.judging.verdicts import Kind, Outcome
from tts.verifiers.sandbox import Call, CaseResult, Job, Program, Sandbox
from tts.verifiers.sandbox.codec import Opaque, encode

HOST = Path(__file__).with_name("dialogue_host.py").read_text()
MOST_CALLS = 100_000
"""Calls that one test may make."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Test code: statements, or the definition of `check`, which is then called."""

    source: str
    calls_check: bool = False


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
    async with sandbox.open(program) as candidate, sandbox.open(tests, beside=candidate) as host:
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
    said = await host.call(Call("begin", encode((dialogue.source, dialogue.calls_check))))
    last, objects = "", False
    for _ in range(MOST_CALLS):
        if said.status != "ok":
            return Outcome.of(said, "the tests")
        match said.values[-1]:
            case ("passed",):
                return Outcome(Kind.passed)
            case ("failed", str(name), str(words)):
                return Outcome(Kind.wrong, "; ".join(filter(None, [_failure(dialogue, name, words), last])))
            case ("call" | "read" as kind, str(path), tuple(args), dict(kwargs), str(kept)):
                if not is_plain([args, kwargs]):  # made by the test, unless the program gave such a thing before
                    kind = Kind.wrong if objects else Kind.infra
                    return Outcome(kind, f"a test hands something to {path} that is no plain data")
                call = Call(path, "", store=kept)
                if kind == "call":
                    call = Call(path, encode(args), encode(kwargs) if kwargs else "", store=kept)
                got = await candidate.call(call)
                if got.status not in ("ok", "error"):
                    return Outcome.of(got, path)
                objects = objects or not is_plain(list(got.values))
                last = f"{_shown(kind, path, args, kwargs)} {_gave(got)}"
                said = await host.call(Call("step", encode(_answer(got))))
            case other:
                return Outcome(Kind.infra, f"the tests' interpreter said {shown(other)}")
    return Outcome(Kind.wrong, f"more than {MOST_CALLS:,} calls in one test")


def _answer(got: CaseResult) -> tuple[str, Any, str]:
    if got.status == "error":
        name, _, words = got.error.partition(": ")
        return "raised", name, words
    value = got.values[-1]
    return ("object", None, "") if isinstance(value, Opaque) else ("value", value, "")


def _shown(kind: str, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    if kind == "read":
        return path
    words = [*map(shown, args), *(f"{key}={shown(value)}" for key, value in kwargs.items())]
    return f"{path}({', '.join(words)})"


def _gave(got: CaseResult) -> str:
    return f"raised {got.error}" if got.status == "error" else f"gave {shown(got.values[-1])}"


def _failure(dialogue: Dialogue, name: str, words: str) -> str:
    doing = "" if dialogue.calls_check else f"{dialogue.source}: "
    return f"{doing}{name}: {words}".removesuffix(": ")
