"""What verifiers made of verifiers share: they need what their parts need, and their verdict carries the parts' costs.

The session charges a part's work to the verdict that asked for it, so nothing here keeps accounts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field

from tts.base import Verifier, VerifierField
from tts.errors import cause_of
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
        """Every part must be able to judge."""
        for part in self.parts:
            part.ready(problem)


class Panel(Composite):
    """Several verifiers that all judge every candidate, side by side."""

    verifiers: tuple[VerifierField, ...] = Field(min_length=1)
    """The parts: `[unit_tests, regex(pattern="def ")]`."""

    async def verdicts(self, candidate: Candidate, session: Session) -> list[Verdict]:
        """The verdict of each part; one that fails has no score."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(session.verify(candidate, part)) for part in self.verifiers]
        except ExceptionGroup as errors:
            raise cause_of(errors) from None
        return [task.result() for task in tasks]


def told(parts: Iterable[Verifier], verdicts: Iterable[Verdict]) -> Mapping[str, Any]:
    """`details` that say what each part found."""
    pairs = zip(parts, verdicts, strict=False)
    return {"parts": [{"verifier": part.spec, "score": v.score, "passed": v.passed, **_more(v)} for part, v in pairs]}


def _more(verdict: Verdict) -> dict[str, Any]:
    return {"details": dict(verdict.details)} if verdict.details else {}


def feedback_of(verdicts: Iterable[Verdict]) -> str:
    """What the parts say, each thing once."""
    return "\n".join(dict.fromkeys(verdict.feedback for verdict in verdicts if verdict.feedback))
