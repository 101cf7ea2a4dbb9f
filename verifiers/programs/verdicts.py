"""What became of a test, and what the outcomes of all tests say of the program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tts.types import Verdict
from tts.verifiers.programs.compare import shortened
from tts.verifiers.sandbox import CaseResult


class Kind(StrEnum):
    """How a test, and by its first failure a program, ended."""

    passed = "passed"
    wrong = "wrong"
    """It ran, and what it gave is not right."""
    error = "error"
    """It raised an exception, is no Python, or does not define what it should."""
    cpu = "cpu"
    """The limit of CPU time was exceeded."""
    wall = "wall"
    """It used little CPU and did not come to an end."""
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
"""Tests of which `said` tells what happened; of the others there is only how they ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended, with words for the model."""

    kind: Kind
    feedback: str = ""

    @classmethod
    def of(cls, result: CaseResult, doing: str = "") -> Outcome:
        """The outcome of a run that did not come to an end by itself."""
        kind = Kind(result.status)
        words = [EXPLAINED.get(kind, ""), result.error]
        if kind is Kind.error or (kind is Kind.memory and result.error):
            words = [result.error]
        return cls(kind, ": ".join(filter(None, [shortened(doing, 250), *words])))


@dataclass(frozen=True, slots=True)
class Report:
    """All outcomes of one program, and what they took."""

    outcomes: Sequence[Outcome]
    """In the order calls, interactions, reference, asserts, check, stdin; fewer where the rest was not run."""
    total: int
    cpu_seconds: float = 0.0
    isolation: str = ""
    run_all: bool = True

    @property
    def kind(self) -> Kind:
        """That of the first failure, or passed."""
        return next((one.kind for one in self.outcomes if one.kind is not Kind.passed), Kind.passed)

    def verdict(self) -> Verdict:
        """The score is the share of tests passed where all were run, else 1 or 0; None without a verdict."""
        failed = next((one for one in self.outcomes if one.kind is not Kind.passed), None)
        passed = sum(one.kind is Kind.passed for one in self.outcomes)
        details = {
            "kind": self.kind.value,
            "passed": passed,
            "total": self.total,
            "outcomes": [one.kind.value for one in self.outcomes],
            "said": [shortened(one.feedback, 200) for one in self.outcomes[:TOLD]],
            "isolation": self.isolation,
        }
        if any(one.kind is Kind.infra for one in self.outcomes):
            reason = next(one.feedback for one in self.outcomes if one.kind is Kind.infra)
            return Verdict(
                None, None, details={**details, "kind": "infra", "reason": reason}, cpu_seconds=self.cpu_seconds
            )
        accepted = passed == self.total
        score = passed / self.total if self.run_all else float(accepted)
        return Verdict(score, accepted, self._feedback(failed, passed), details, self.cpu_seconds)

    def _feedback(self, failed: Outcome | None, passed: int) -> str:
        if failed is None:
            return ""
        count = f"{passed} of {self.total} tests passed; " if self.run_all and self.total > 1 else ""
        return shortened(count + (failed.feedback or failed.kind))
