"""Verifiers in order of cost: the expensive ones see only what the cheap ones let through."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, FiniteFloat
from pydantic import model_validator as validates

from tts.base import Verifier, VerifierField
from tts.session import Session
from tts.types import USAGE_FIELDS, Candidate, Charge, Problem, Scale, Usage, Verdict, total
from tts.verifiers.composition import Composite, told


class Costs:
    """The mean cost of a verdict of each verifier in a run."""

    def __init__(self) -> None:
        self._sums: dict[str, Usage] = defaultdict(Usage)
        self._counts: Counter[str] = Counter()

    def add(self, verifier: Verifier, usage: Usage) -> None:
        """Count the cost of one verdict."""
        self._sums[verifier.spec] += usage
        self._counts[verifier.spec] += 1

    def expected(self, verifiers: Sequence[Verifier]) -> dict[str, float] | None:
        """The expected cost of one verdict of each; None as long as one of them has given none."""
        means = [(self._sums[verifier.spec], self._counts[verifier.spec]) for verifier in verifiers]
        if not all(count for _, count in means):
            return None
        sums = {name: sum(getattr(usage, name) / count for usage, count in means) for name in USAGE_FIELDS}
        return {name: value for name, value in sums.items() if value}


class Cascade(Composite):
    """Asks one verifier after another until one refuses; the last one asked gives the verdict.

    A candidate moves on unless it is refused or, where there is a threshold, scores below it. One that is stopped
    before the last verifier is refused without a score, as scores of different verifiers are not comparable. `details`
    has the verdicts of the verifiers asked, the `skipped` ones, and what was `saved`, estimated from the mean cost of
    the skipped ones in this run so far.
    """

    verifiers: tuple[VerifierField, ...] = Field(min_length=1)
    """The cheapest first."""
    thresholds: tuple[FiniteFloat | None, ...] = ()
    """For each verifier but the last, the lowest score that moves on to the next; null: whatever is not refused."""

    @validates(mode="after")
    def _thresholds_fit(self) -> Self:
        if len(self.thresholds) not in (0, len(self.verifiers) - 1):
            raise ValueError(f"{len(self.verifiers)} verifiers have {len(self.verifiers) - 1} thresholds between them")
        return self

    @property
    def scale(self) -> Scale | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.verifiers[-1].scale

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        costs, verdicts = session.resources.get(Costs), list[Verdict]()
        counted = await session.once(("counted", self.spec), _nothing)
        for verifier, threshold in zip(self.verifiers, [*self.thresholds, *[None] * len(self.verifiers)], strict=False):
            verdicts.append(verdict := await session.verify(candidate, verifier))
            costs.add(verifier, total(verdict.charges - counted))  # identical candidates may share charges
            counted |= verdict.charges
            if verdict.passed is False or not _reaches(verdict, threshold):
                break
        last, skipped = verdicts[-1], self.verifiers[len(verdicts) :]
        details: dict[str, Any] = {**told(self.verifiers, verdicts)}
        if skipped:
            details |= {"skipped": [verifier.spec for verifier in skipped], "saved": costs.expected(skipped)}
            return Verdict(None, False, last.feedback, details)
        return Verdict(last.score, last.passed, last.feedback, details)


async def _nothing(session: Session) -> set[Charge]:
    return set()


def _reaches(verdict: Verdict, threshold: float | None) -> bool:
    return threshold is None or (verdict.score is not None and verdict.score >= threshold)
