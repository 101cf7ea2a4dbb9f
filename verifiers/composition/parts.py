"""What verifiers made of verifiers share: they need what their parts need, and their verdict carries the parts' costs.

The session charges a part's work to the verdict that asked for it, so nothing here keeps accounts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from tts.base import Verifier, VerifierField
from tts.errors import ConfigError, cause_of
from tts.session import Session
from tts.types import Candidate, Problem, Verdict


class Composite(Verifier):
    """A verifier whose fields hold other verifiers, alone or in a list."""

    @property
    def parts(self) -> Sequence[Verifier]:
        """The verifiers in its fields, in order."""
        values = (getattr(self, name) for name in type(self).model_fields)
        lists = (value if isinstance(value, tuple) else (value,) for value in values)
        return [part for members in lists for part in members if isinstance(part, Verifier)]

    @property
    def roles(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """All roles that its parts sample from."""
        return frozenset().union(*(part.roles for part in self.parts))

    def ready(self, problem: Problem) -> None:
        """Every part must be able to judge, and by each candidate alone unless this verifier waits for the others."""
        for part in self.parts:
            part.ready(problem)
            if part.relative and not self.relative:
                raise ConfigError(f"{part.spec} rates candidates by each other; {self.name} judges each when it comes")


class Panel(Composite):
    """Several verifiers that all judge every candidate, side by side; `combined` makes one verdict of theirs."""

    verifiers: tuple[VerifierField, ...] = Field(min_length=1)
    """The parts: `[unit_tests, regex(pattern="def ")]`."""

    def combined(self, verdicts: Sequence[Verdict]) -> Verdict:
        """The verdict that follows from those of the parts."""
        raise NotImplementedError

    @property
    def relative(self) -> bool:
        """It depends on the other candidates if a part does."""
        return any(part.relative for part in self.verifiers)

    def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Each with what follows from its parts' verdicts in this company."""
        if not self.relative:
            return candidates
        return [
            candidate if not parts else with_verdict(candidate, self.combined(parts))
            for candidate, parts in zip(candidates, self.parts_among(candidates), strict=True)
        ]

    def parts_among(self, candidates: Sequence[Candidate]) -> list[list[Verdict]]:
        """The parts' verdicts on each candidate, in each other's company; nothing for one that was not judged."""
        stored = [_parts(candidate) for candidate in candidates]
        known = [i for i, parts in enumerate(stored) if parts]
        found: list[list[Verdict]] = [[] for _ in candidates]
        for place, part in enumerate(self.verifiers):
            apart = [with_verdict(candidates[i], stored[i][place]) for i in known]
            for i, rated in zip(known, part.among(apart), strict=True):
                found[i].append(rated.verdict or Verdict(None))
        return found

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Ask all parts, side by side; one that fails has no score."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(session.verify(candidate, part)) for part in self.verifiers]
        except ExceptionGroup as errors:
            raise cause_of(errors) from None
        return self.combined([task.result() for task in tasks])


def with_verdict(candidate: Candidate, verdict: Verdict) -> Candidate:
    """`candidate` with `verdict`, which costs and says to the model what its own did."""
    before = candidate.verdict or verdict
    return replace(candidate, verdict=replace(verdict, feedback=before.feedback, charges=before.charges))


def _parts(candidate: Candidate) -> list[Verdict]:
    """What `told` has kept."""
    parts = candidate.verdict.details.get("parts", ()) if candidate.verdict is not None else ()
    return [Verdict(part["score"], part["passed"], details=part.get("details", {})) for part in parts]


def told(parts: Iterable[Verifier], verdicts: Iterable[Verdict]) -> Mapping[str, Any]:
    """`details` that say what each part found."""
    pairs = zip(parts, verdicts, strict=False)
    return {"parts": [{"verifier": part.spec, "score": v.score, "passed": v.passed, **_more(v)} for part, v in pairs]}


def _more(verdict: Verdict) -> dict[str, Any]:
    return {"details": dict(verdict.details)} if verdict.details else {}


def feedback_of(verdicts: Iterable[Verdict]) -> str:
    """What the parts say, each thing once."""
    return "\n".join(dict.fromkeys(verdict.feedback for verdict in verdicts if verdict.feedback))
