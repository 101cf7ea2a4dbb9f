"""The hidden truth as a verifier, the ceiling of every selection and never a fair result, and verifiers made worse.

Stroebl et al. 2024, "Inference Scaling fLaws" (arXiv 2411.17501): a verifier's false positives bound what resampling
can reach. `noisy` makes a verifier worse on purpose, to study what imperfection costs.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, ClassVar

from pydantic import Field

from tts.base import Verifier, VerifierField
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict
from tts.verifiers.composition import Composite


class Oracle(Verifier):
    """Judges as the task's grader does. Every result obtained with it is labelled as such."""

    scale: ClassVar[Scale | None] = "positive"

    @property
    def tells_elements(self) -> bool:
        return True  # as far as can be known before the truth is asked

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """The verdict of the task's truth. Raises `ConfigError` where there is none."""
        return await session.consult_truth(candidate)


Rate = Annotated[float, Field(ge=0, le=1)]


class Noisy(Composite):
    """Flips some verdicts, deterministically: equal texts for the same problem get the same verdict.

    The score is that of the verdict given, 1 or 0, and there is no feedback, so that nothing gives a flip away.
    """

    verifier: VerifierField = Oracle()
    """The verifier whose verdicts are flipped."""
    fpr: Rate = 0.0
    """False positive rate: the share of its refusals that become acceptances."""
    fnr: Rate = 0.0
    """False negative rate: the share of its acceptances that become refusals."""
    seed: int = 0
    """Another seed flips other verdicts."""

    scale: ClassVar[Scale | None] = "positive"  # pyright: ignore[reportIncompatibleMethodOverride]

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        passed = (await session.verify(candidate, self.verifier)).passed
        if passed is None:  # nothing to flip
            return Verdict(None)
        turned = self._draw(problem.id, candidate.content) < (self.fnr if passed else self.fpr)
        return Verdict(float(passed != turned), passed != turned, details={"turned": turned})

    def _draw(self, problem: str, text: str) -> float:
        """A number in [0, 1) that depends only on the text, the problem and the seed."""
        words = "\0".join((str(self.seed), problem, text))
        digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53
