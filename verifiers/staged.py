"""A verifier for each stage of the work: what makes a good beginning is not what makes a good answer.

"Video-T1" (arXiv 2503.18942), section 3.3: first frame, middle and end of a film are judged by different questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from tts.base import VerifierField
from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.composition import Composite, parts_of, told, with_verdict


class Staged(Composite):
    """The first verifier rates the first stage of a search such as `tree_of_frames`, the last one whole answers.

    Stages that have no verifier of their own go to the one before; candidates of a stage are rated among themselves.
    """

    verifiers: tuple[VerifierField, ...] = Field(min_length=1)
    """One for each stage: `[judge(partial_rubric="..."), judge]`."""

    @property
    def relative(self) -> bool:
        return any(part.relative for part in self.verifiers)

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        last = len(self.verifiers) - 1
        stage = min(candidate.notes.get("stage", 0), last) if candidate.partial else last
        verdict = await session.verify(candidate, self.verifiers[stage])
        return self._of_stage(stage, verdict)

    def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        stages = [None if c.verdict is None else c.verdict.details.get("stage") for c in candidates]
        rated = list(candidates)
        for stage, part in enumerate(self.verifiers):
            places = [i for i, one in enumerate(stages) if one == stage]
            apart = [with_verdict(candidates[i], *parts_of(candidates[i])) for i in places]
            for i, one in zip(places, part.among(apart), strict=True):
                assert one.verdict is not None
                rated[i] = with_verdict(candidates[i], self._of_stage(stage, one.verdict))
        return rated

    def _of_stage(self, stage: int, verdict: Verdict) -> Verdict:
        return replace(verdict, details={"stage": stage, **told([self.verifiers[stage]], [verdict])})
