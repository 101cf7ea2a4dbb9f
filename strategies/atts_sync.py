"""The synchronous baseline of ATTS: all samples of a problem go through each stage together.

In every round all drafts are written, all are scored, and the B poorest are continued by the target; each stage waits
for its slowest sample. This is the form that arXiv 2509.15148, section 2, sets out from.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial

from pydantic import model_validator

from tts.base import Estimator
from tts.errors import BudgetSpent
from tts.strategies.atts import Atts
from tts.strategies.speculation import Turn
from tts.strategies.speculation.steps import Chain, Speculation
from tts.types import Candidate


class AttsSync(Atts):
    """ATTS with a barrier after every stage: the target continues the poorest share of each round's drafts."""

    independent = False

    @property
    def estimator(self) -> Estimator:
        return "replay"

    @model_validator(mode="after")
    def _ranks_only(self) -> AttsSync:
        if self.calibration or self.by or self.window or self.presample:
            raise ValueError("it ranks the drafts of a round; calibration, by, window and presample are for atts")
        return self

    async def grown(self, speculation: Speculation) -> AsyncGenerator[Candidate, None]:
        """The samples; those that finish in a stage come when all of it is done."""
        chains, owed = [speculation.chain(number) for number in range(self.n)], 0.0
        try:
            for _ in range(self.rounds):
                if self.draft_tokens:
                    await self._stage(speculation, chains, partial(self._draft, speculation))
                    for chain in _leave(chains, self.kept if self.target_tokens else _ended):
                        yield speculation.candidate(chain)
                if self.target_tokens:
                    poorest = chains
                    if self.draft_tokens:
                        owed += self.rate * len(chains)  # what is no whole sample goes to the next round
                        poorest = await self._poorest(speculation, chains, int(owed + 1e-9))
                        owed -= len(poorest)
                    await self._stage(speculation, poorest, partial(self.take_over, speculation))
                    for chain in _leave(chains, _ended):
                        yield speculation.candidate(chain)
        except BudgetSpent:
            for chain in chains:
                if chain.answer.samples:
                    chain.ended = chain.ended or "budget"
                    yield speculation.candidate(chain)
            raise
        for chain in chains:
            yield speculation.candidate(chain)

    async def _draft(self, speculation: Speculation, chain: Chain) -> None:
        await speculation.extend(chain, "draft", self.draft_tokens)

    async def _stage(self, speculation: Speculation, chains: list[Chain], work: Turn) -> None:
        async def one(chain: Chain) -> None:
            with speculation.alone(chain):
                await work(chain)

        await speculation.session.together(one(chain) for chain in chains)

    async def _poorest(self, speculation: Speculation, chains: list[Chain], count: int) -> list[Chain]:
        """Those of `chains` whose last draft scores lowest; one without a score counts as the poorest."""
        scores: dict[int, float] = {}

        async def one(chain: Chain) -> None:
            scored = await speculation.scored(chain)
            scores[chain.number] = float("-inf") if scored is None else scored.score
            chain.turns.append({} if scored is None else {"score": scored.score, "tokens": scored.tokens})

        await speculation.session.together(one(chain) for chain in chains)
        ranked = sorted(chains, key=lambda chain: (scores[chain.number], chain.number))
        poorest = ranked[:count]
        for chain in chains:
            chain.turns[-1]["rejected"] = chain in poorest
        return poorest


def _ended(chain: Chain) -> bool:
    return bool(chain.ended)


def _leave(chains: list[Chain], finished: Callable[[Chain], bool]) -> list[Chain]:
    """Take the finished ones out of `chains`."""
    leaving = [chain for chain in chains if finished(chain)]
    chains[:] = [chain for chain in chains if not finished(chain)]
    return [chain for chain in leaving if chain.answer.samples]
