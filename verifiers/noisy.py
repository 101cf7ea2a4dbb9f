"""A verifier made worse on purpose, to study what imperfection costs.

Stroebl et al. 2024, "Inference Scaling fLaws" (arXiv 2411.17501): the false positives of a verifier bound what
resampling can reach.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import Field

from tts.base import VerifierField
from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.composition.parts import Composite
from tts.verifiers.oracle import Oracle

Rate = Annotated[float, Field(ge=0, le=1)]


class Noisy(Composite):
    """Turns some verdicts round, always the same ones: equal texts for a problem meet the same fate.

    The score is that of the verdict given, 1 or 0, and there is no feedback, so that nothing tells the two apart.
    """

    verifier: VerifierField = Oracle()
    """Whose verdicts they are."""
    fpr: Rate = 0.0
    """Share of what it refuses that is accepted nonetheless."""
    fnr: Rate = 0.0
    """Share of what it accepts that is refused nonetheless."""
    seed: int = 0
    """Another seed turns others round."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Where the verifier does not decide, there is nothing to turn round: no score either."""
        passed = (await session.verify(candidate, self.verifier)).passed
        if passed is None:
            return Verdict(None)
        turned = self._draw(problem.id, candidate.content) < (self.fnr if passed else self.fpr)
        return Verdict(float(passed != turned), passed != turned, details={"turned": turned})

    def _draw(self, problem: str, text: str) -> float:
        """A number in [0, 1) that depends on the text, the problem and the seed alone."""
        words = "\0".join((str(self.seed), problem, text))
        digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53
