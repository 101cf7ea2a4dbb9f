"""How close an answer's meaning is to the other answers, to a text, or to the question.

The answer closest to all others is the consensus of free texts, where no answer can be parsed and counted (minimum
Bayes risk: Bertsch et al. 2023, arXiv 2310.01387).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tts.base import ScoreVerifier
from tts.prompting import problem_text, shown
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict

Vector = NDArray[np.float64]


class EmbeddingSimilarity(ScoreVerifier):
    """Scores by cosine similarity, from -1 to 1. Needs a model for the role `embed` (`/v1/embeddings`).

    Pictures need one that embeds chat messages.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"embed"})
    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    to: Literal["others", "problem", "reference"] = "others"
    """What it is compared with: all other candidates (the mean counts), the question, or `reference`."""
    reference: str = ""
    """The text to compare with."""

    @property
    def relative(self) -> bool:
        return self.to == "others"

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """The similarity; compared with the others, the `embedding` in `details` from which it follows."""
        content = await shown(session, "$answer", candidate)
        own = await embedding(content, session)
        if self.to == "others":
            return self.rated(1.0, embedding=own.round(5).tolist())
        other = await embedding(self.reference if self.to == "reference" else problem_text(problem), session)
        return self.rated(float(own @ other))

    def among(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        details = [c.verdict.details if c.verdict is not None else {} for c in candidates]
        known = [i for i, one in enumerate(details) if "embedding" in one]
        if len(known) < 2:
            return candidates
        vectors = np.array([details[i]["embedding"] for i in known])
        nearness = (vectors @ vectors.T).sum(axis=1) - (vectors**2).sum(axis=1)
        scores = dict(zip(known, nearness / (len(known) - 1), strict=True))
        return [self.rescored(c, float(scores[i])) if i in scores else c for i, c in enumerate(candidates)]


async def embedding(content: Any, session: Session) -> Vector:
    """The unit vector of a text, or of a message with pictures (as vLLM takes it). Raises `ValueError` where the server
    gives none."""
    text = isinstance(content, str)
    body = {"input": content} if text else {"messages": [{"role": "user", "content": content}]}
    data = await session.post("/embeddings", body, role="embed")
    try:
        vector = np.array(data["data"][0]["embedding"], dtype=np.float64)
        if not 0 < (length := np.linalg.norm(vector)) < np.inf:
            raise ValueError("it has no direction")
        return vector / length
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"the server's answer has no embedding: {str(data)[:200]}") from error
