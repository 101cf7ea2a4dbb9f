"""IdeaSearch: an idea in words first, then the answer that follows it, many times independently.

Wang et al. 2024, "Planning In Natural Language Improves LLM Search For Code Generation" (arXiv 2409.03733), section 4.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from pydantic import PositiveInt

from tts.concurrency import Flow, flow
from tts.session import Session
from tts.strategies.planning.author import Trail
from tts.strategies.planning.base import Planning, branch
from tts.types import Candidate, Problem


class IdeaSearch(Planning):
    """N ideas, each written out as soon as it is there."""

    n: PositiveInt = 16
    """Ideas, and answers."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Yield the answers as they come."""
        author = self.author(problem, session, pseudocode=False)

        async def write(idea: Trail, out: Flow[Candidate]) -> None:
            out.emit(await author.write(idea, (idea.samples[0].index,)))

        async def think(out: Flow[Candidate]) -> None:
            async with aclosing(author.ideas(self.n)) as ideas:
                async for idea in ideas:
                    branch(out, write(idea, out))

        def begin(out: Flow[Candidate]) -> None:
            out.start(think(out))

        async with aclosing(self.judged(session, flow(begin))) as candidates:
            async for candidate in candidates:
                yield candidate
