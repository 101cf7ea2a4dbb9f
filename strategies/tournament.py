"""Best of N by comparing two at a time: everyone against everyone, or knockout.

Chen et al. 2024, "A Simple and Provable Scaling Law for the Test-Time Compute of LLMs" (arXiv 2411.19477): the
knockout's failure falls exponentially with the comparisons. Zheng et al. 2023 (arXiv 2306.05685): Bradley-Terry scores.
"""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import chain
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from tts.base import Estimator, Strategy, as_config, made_from_spec
from tts.concurrency import Flow, flow, in_order
from tts.prompting import answer_of
from tts.session import Session
from tts.tournaments import bradley_terry, knockout, play, replay
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.pairwise import Pairwise


class Tournament(Strategy):
    """N samples, each compared with those before it as it comes; a tie goes to the earlier.

    A candidate is there before it was compared, so that none is lost to a deadline or a spent budget.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"policy", "judge"})
    estimator: ClassVar[Estimator] = "replay"

    n: PositiveInt = 8
    """Samples."""
    format: Literal["round_robin", "knockout"] = "round_robin"
    """All pairs at once, n (n - 1) / 2 of them, and Bradley-Terry scores; or at most 2 n, one round after another."""
    rivals: PositiveInt | None = None
    """In a round robin: with how many of those before it, at random, a sample is compared; None: with all."""
    pairwise: Annotated[Pairwise, made_from_spec("verifiers"), as_config] = Pairwise()
    """How two are compared."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Yield each sample when it comes, and again with the matches that it adds."""

        def begin(out: Flow[Candidate]) -> None:
            out.start(self._enter(session, out))

        async with aclosing(flow(begin)) as found:
            async for candidate in found:
                yield candidate

    async def _enter(self, session: Session, out: Flow[Candidate]) -> None:
        """Let samples compete in spawned order: what a prefix costs does not depend on which came first."""
        entered: list[Candidate] = []

        async def arriving() -> AsyncGenerator[Candidate, None]:
            async with aclosing(session.propose(n=self.n)) as candidates:
                async for candidate in candidates:
                    out.emit(candidate)
                    yield candidate

        async with aclosing(in_order(arriving(), lambda candidate: candidate.spawned[0])) as candidates:
            async for candidate in candidates:
                rivals = session.rng.permutation(len(entered))[: self.rivals].tolist()
                entered.append(candidate)
                out.start(self._compete(session, tuple(entered), rivals, out))

    async def _compete(
        self, session: Session, entered: Sequence[Candidate], rivals: Sequence[int], out: Flow[Candidate]
    ) -> None:
        """Play the matches that the last who `entered` adds to those among the others."""
        last, results, charges = len(entered) - 1, [], set()

        async def later_wins(one: int, other: int, needed: int = len(entered)) -> bool:
            first, second = entered[one], entered[other]
            judge = self.pairwise.model_copy(update={"rivals": (answer_of(second),)})
            verdict = await session.once(("match", first.id, second.id), lambda inner: inner.verify(first, judge))
            if needed == len(entered):
                results.append((first.id, second.id, verdict.score))
                charges.update(verdict.charges)
            return _later_wins(verdict.score)

        if self.format == "knockout":
            await play(knockout(len(entered)), later_wins)
        else:
            async with TaskGroup() as group:
                for rival in rivals:
                    group.create_task(later_wins(rival, last))
        if results:
            verdict = Verdict(None, details={"matches": sorted(results)}, charges=frozenset(charges))
            out.emit(replace(entered[last], verdict=verdict, charges=entered[last].charges | charges))

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The champion of the knockout, or the strongest by Bradley-Terry; the earliest of equals."""
        place = {candidate.id: i for i, candidate in enumerate(candidates)}
        matches = [c.verdict.details.get("matches", ()) for c in candidates if c.verdict is not None]
        worth = {(place[a], place[b]): w for a, b, w in chain(*matches) if w is not None and a in place and b in place}
        if not candidates:
            return None
        if self.format == "knockout":
            return candidates[replay(knockout(len(candidates)), lambda *match: _later_wins(worth.get(match)))]
        wins = np.zeros((len(candidates), len(candidates)))
        for (one, other), share in worth.items():
            wins[one, other], wins[other, one] = share, 1 - share
        return candidates[int(np.argmax(bradley_terry(wins).round(6)))]


def _later_wins(worth: float | None) -> bool:
    return worth is not None and worth < 0.5
