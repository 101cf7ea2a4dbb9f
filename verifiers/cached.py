"""Identical answers, judged once."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import replace

from tts.base import VerifierField
from tts.concurrency import Once
from tts.session import Session
from tts.types import Candidate, Problem, Verdict, total
from tts.verifiers.composition import Composite

KEPT = 1 << 16  # verdicts


class Verdicts(Once[Verdict]):
    """The verdicts of a run."""

    def __init__(self) -> None:
        super().__init__(KEPT)


class Cached(Composite):
    """Gives candidates with the same text for the same problem one verdict, even when they are judged concurrently.

    Each of them carries the verdict's cost, which counts once. Verdicts are shared by all strategies of a run; a later
    strategy books their cost as reused. `unit_tests` needs no cache: it remembers the programs it has run.
    """

    verifier: VerifierField
    """The verifier whose verdicts are kept."""

    @property
    def relative(self) -> bool:
        return self.verifier.relative

    @property
    def tells_elements(self) -> bool:
        return self.verifier.tells_elements

    def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return self.verifier.among(candidates)

    async def identity(self, problem: Problem, candidate: Candidate, session: Session) -> Hashable:
        """What candidates that share a verdict have in common."""
        return candidate.content, json.dumps(candidate.tool_calls, default=str)

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """The first such candidate's verdict, which is kept unless it rates nothing.

        `details` of the others has `cached` and, as `saved`, what the first one's verdict cost.
        """
        identity = await self.identity(problem, candidate, session)
        key = (json.dumps(self.config(), default=str), problem.id, identity)

        async def judged() -> Verdict:
            verdict = await session.verify(candidate, self.verifier)
            if verdict.score is None and verdict.passed is None:
                raise _Unrated(verdict)
            return verdict

        try:
            verdict, known = await session.resources.get(Verdicts).get(key, judged)
        except _Unrated as unrated:
            verdict, known = unrated.verdict, False
        details = verdict.details
        if known:
            for charge in verdict.charges:
                session.ledger.reuse(charge)
            details = {**details, "cached": True, "saved": total(verdict.charges).as_dict()}
        return replace(verdict, details=details, cpu_seconds=0.0)  # the time is among its charges


class _Unrated(Exception):
    def __init__(self, verdict: Verdict) -> None:
        super().__init__("no score")
        self.verdict = verdict
