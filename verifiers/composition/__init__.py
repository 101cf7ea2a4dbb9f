"""What verifiers made of verifiers share: they need what their parts need, and their verdicts carry the parts' costs.

The session charges a part's work to the verdict that asked for it, so nothing here keeps accounts.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from tts.base import Verifier, VerifierField
from tts.concurrency import together
from tts.errors import ConfigError
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict


class Composite(Verifier):
    """A verifier whose fields hold other verifiers, singly or in lists."""

    @property
    def parts(self) -> Sequence[Verifier]:
        """The verifiers in its fields, in order."""
        values = (getattr(self, name) for name in type(self).model_fields)
        lists = (value if isinstance(value, tuple) else (value,) for value in values)
        return [part for members in lists for part in members if isinstance(part, Verifier)]

    @property
    def roles(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return frozenset().union(*(part.roles for part in self.parts))

    @property
    def sampling(self) -> Mapping[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return dict(ChainMap({}, *(dict(part.sampling) for part in self.parts)))

    @property
    def rates_partial(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(part.rates_partial for part in self.parts)

    @property
    def scale(self) -> Scale | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of its parts, where they agree."""
        scales: set[Scale | None] = {part.scale for part in self.parts}
        return scales.pop() if len(scales) == 1 else "order"

    def ready(self, problem: Problem) -> None:
        """Every part must be ready, and judge each candidate on its own unless this verifier is relative too."""
        for part in self.parts:
            part.ready(problem)
            if part.relative and not self.relative:
                raise ConfigError(
                    f"{part.spec} rates candidates by each other; {self.name} judges each one as it arrives"
                )


class Panel(Composite):
    """Several verifiers that judge every candidate in parallel; `combined` merges their verdicts into one."""

    verifiers: tuple[VerifierField, ...] = Field(min_length=1)
    """The parts: `[unit_tests, regex(pattern="def ")]`."""

    def combined(self, verdicts: Sequence[Verdict]) -> Verdict:
        """The verdict that follows from those of the parts."""
        raise NotImplementedError

    @property
    def relative(self) -> bool:
        return any(part.relative for part in self.verifiers)

    def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        if not self.relative:
            return candidates
        return [
            with_verdict(candidate, self.combined(parts)) if parts else candidate
            for candidate, parts in zip(candidates, self.parts_among(candidates), strict=True)
        ]

    def parts_among(self, candidates: Sequence[Candidate]) -> list[list[Verdict]]:
        """The parts' verdicts on each candidate, in each other's company; empty for a candidate without a verdict."""
        stored = [parts_of(candidate) for candidate in candidates]
        known = [i for i, parts in enumerate(stored) if parts]
        found: list[list[Verdict]] = [[] for _ in candidates]
        for place, part in enumerate(self.verifiers):
            apart = [with_verdict(candidates[i], stored[i][place]) for i in known]
            for i, rated in zip(known, part.among(apart), strict=True):
                found[i].append(rated.verdict or Verdict(None))
        return found

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Ask all parts in parallel; one that fails gives no score."""
        return self.combined(await together(session.verify(candidate, part) for part in self.verifiers))


def with_verdict(candidate: Candidate, verdict: Verdict) -> Candidate:
    """`candidate` with `verdict`, which keeps the feedback, the charges and the scale of the candidate's own."""
    before = candidate.verdict or verdict
    kept = {name: getattr(before, name) for name in ("feedback", "charges", "scale")}
    return replace(candidate, verdict=replace(verdict, **kept))


def told(parts: Iterable[Verifier], verdicts: Iterable[Verdict]) -> Mapping[str, Any]:
    """`details` that record what each part found."""
    rows = []
    for part, verdict in zip(parts, verdicts, strict=False):
        more = {"details": dict(verdict.details)} if verdict.details else {}
        rows.append({"verifier": part.spec, "score": verdict.score, "passed": verdict.passed, **more})
    return {"parts": rows}


def parts_of(candidate: Candidate) -> list[Verdict]:
    """The verdicts that `told` recorded."""
    parts = candidate.verdict.details.get("parts", ()) if candidate.verdict is not None else ()
    return [Verdict(part["score"], part["passed"], details=part.get("details", {})) for part in parts]


def feedback_of(verdicts: Iterable[Verdict]) -> str:
    """The parts' feedback, each message once."""
    return "\n".join(dict.fromkeys(verdict.feedback for verdict in verdicts if verdict.feedback))
