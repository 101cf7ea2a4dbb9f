"""How tests end, in kinds and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest
from typing import Any

from tts.verifiers.programs.compare import call_text, shortened, shown
from tts.verifiers.programs.suite import TestSuite
from tts.verifiers.sandbox import CaseResult


class Kind(StrEnum):
    """How a test ended, and by its first failure a program."""

    passed = "passed"
    wrong = "wrong"
    """It ran, but what it gave is not right."""
    error = "error"
    """It raised an exception, is not Python, or does not define what it should."""
    cpu = "cpu"
    """It exceeded the limit of CPU time."""
    wall = "wall"
    """It used little CPU time and did not end."""
    memory = "memory"
    output = "output"
    crashed = "crashed"
    """It ended itself, or was ended by a signal."""
    infra = "infra"
    """The machinery failed, not the program: no verdict."""
    untested = "untested"
    """There are no tests: no verdict."""


EXPLAINED = {
    Kind.cpu: "the limit of CPU time was exceeded",
    Kind.wall: "it did not come to an end",
    Kind.memory: "the memory limit was exceeded",
    Kind.output: "too much output",
    Kind.crashed: "the program ended itself or crashed",
    Kind.infra: "the program could not be run",
}


TOLD = 16
"""Tests whose feedback is kept in `said`; of the others only the kind is kept."""


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """How one test ended, with words for the model."""

    __test__ = False  # pytest collects what is called Test...

    kind: Kind
    feedback: str = ""

    @classmethod
    def of(cls, result: CaseResult, doing: str = "") -> TestOutcome:
        """The outcome of a run that did not end by itself."""
        kind = Kind(result.status)
        words = [EXPLAINED.get(kind, ""), result.error]
        if kind is Kind.error or (kind is Kind.memory and result.error):
            words = [result.error]
        return cls(kind, ": ".join(filter(None, [shortened(doing, 250), *words])))


# -- tests as elements of what is asked for ------------------------------------------------------------------------


def as_elements(suite: TestSuite, outcomes: Sequence[str], said: Sequence[str]) -> list[dict[str, Any]]:
    """The first tests of `suite` as `details["elements"]`, all of them core: what each demands, whether it is met,
    and what happened instead. A test that was not run is not met."""
    rows = zip_longest(demands(suite)[:TOLD], outcomes[:TOLD], said)
    return [
        {"text": text, "kind": "core", "met": kind == Kind.passed, "why": "it was not run" if why is None else why}
        for text, kind, why in rows
    ]


def demands(suite: TestSuite) -> list[str]:
    """What each test demands, in order."""
    name = suite.entry_point or ""
    texts = [f"{call_text(name, call.args, call.kwargs)} gives {shown(call.expected)}" for call in suite.calls]
    for one in suite.interactions:
        calls = "; ".join(
            f"{call_text(call.method, call.args, call.kwargs)}" + f" gives {shown(call.expected)}" * call.compared
            for call in one.calls
        )
        texts.append(f"of {call_text(name, one.args, one.kwargs)}: {calls}")
    inputs = suite.reference.inputs if suite.reference else ()
    texts += [f"{call_text(name, args, {})} gives what is right" for args in inputs]
    texts += [f"`{source}` holds" for source in suite.asserts]
    texts += ["all checks pass"] * bool(suite.check)
    texts += [f"on the input {shown(test.input)} it prints {shown(test.output)}" for test in suite.stdin]
    return texts
