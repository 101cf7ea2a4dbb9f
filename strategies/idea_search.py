"""IdeaSearch: an idea in words first, then the answer that follows it, many times independently.

Wang et al. 2024, "Planning In Natural Language Improves LLM Search For Code Generation" (arXiv 2409.03733), section 4.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic import PositiveInt

from tts.concurrency import Flow, flow
from tts.session import Session
from tts.strategies.planning import Planning, Trail, branch
from tts.types import Candidate, Problem


class IdeaSearch(Planning):
    """N ideas, each written out as soon as it arrives."""

    n: PositiveInt = 16
    """Ideas, and answers."""

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        author = self.author(session, pseudocode=False)

        async def write(idea: Trail, out: Flow[Candidate]) -> None:
            place = (idea.samples[0].index,)
            out.emit(await author.at(place).write(idea, place))

        async def think(out: Flow[Candidate]) -> None:
            async for idea in author.ideas(self.n):
                branch(out, write(idea, out))

        return self.judged(session, flow(think))
