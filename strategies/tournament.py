"""Best of N by comparing two at a time: round robin, or knockout.

Chen et al. 2024, "A Simple and Provable Scaling Law for the Test-Time Compute of LLMs" (arXiv 2411.19477): the
knockout's failure falls exponentially with the comparisons. Zheng et al. 2023 (arXiv 2306.05685): Bradley-Terry scores.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from tts.base import Strategy, as_config, made_from_spec
from tts.concurrency import Flow, flow, in_order
from tts.prompting import filled
from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.pairwise import Pairwise

AT_ONCE = 64
"""Matches of a tournament that are played side by side: its prompts are held in memory meanwhile."""


class Tournament(Strategy):
    """N samples, each compared on arrival with those before it; a tie goes to the earlier.

    A candidate is yielded before it is compared, so that none is lost to a deadline or a spent budget.
    """

    roles = frozenset({"policy", "judge"})

    n: PositiveInt = 8
    """Samples."""
    format: Literal["round_robin", "knockout"] = "round_robin"
    """All pairs at once, n (n - 1) / 2 of them, and Bradley-Terry scores; or at most 2 n, one round after another."""
    rivals: PositiveInt | None = None
    """In a round robin: how many earlier samples, drawn at random, a sample is compared with; None: all."""
    pairwise: Annotated[Pairwise, made_from_spec("verifiers"), as_config] = Pairwise()
    """How two are compared."""

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Each sample when it arrives, and again with the matches that it adds."""
        return flow(partial(self._enter, session))

    async def _enter(self, session: Session, out: Flow[Candidate]) -> None:
        """Let samples compete in spawned order, so that the cost of a prefix does not depend on which came first."""
        entered: list[tuple[Candidate, str]] = []
        room = asyncio.Semaphore(AT_ONCE)

        async def arriving() -> AsyncGenerator[Candidate, None]:
            async for candidate in session.propose(n=self.n):
                out.emit(candidate)
                yield candidate

        async for candidate in in_order(arriving(), lambda candidate: candidate.spawned[0]):
            rivals = session.rng.permutation(len(entered))[: self.rivals].tolist()
            entered.append((candidate, await filled("$answer", answer=candidate)))
            out.start(self._compete(session, tuple(entered), rivals, room, out))

    async def _compete(
        self,
        session: Session,
        entered: Sequence[tuple[Candidate, str]],
        rivals: Sequence[int],
        room: asyncio.Semaphore,
        out: Flow[Candidate],
    ) -> None:
        """Play the matches that the last of `entered`, each with its answer, adds."""
        last, results, charges = len(entered) - 1, [], set()

        async def later_wins(one: int, other: int, needed: int = len(entered)) -> bool:
            (first, _), (second, answer) = entered[one], entered[other]
            judge = self.pairwise.model_copy(update={"rivals": (answer,)})
            async with room:
                verdict = await session.once(("match", first.id, second.id), lambda inner: inner.verify(first, judge))
            if needed == len(entered):
                results.append((first.id, second.id, verdict.score))
                charges.update(verdict.charges)
            return _later_wins(verdict.score)

        if self.format == "knockout":
            await play(knockout(len(entered)), later_wins)
        else:
            await session.together(later_wins(rival, last) for rival in rivals)
        if results:
            verdict = Verdict(None, details={"matches": sorted(results)}, charges=frozenset(charges))
            candidate = entered[last][0]
            out.emit(replace(candidate, verdict=verdict, charges=candidate.charges | charges))

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The champion of the knockout, or the strongest by Bradley-Terry; the earliest among equals."""
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


# -- who is best of many, from comparisons of two: pure, so that what was played is replayed for any prefix ----------

Match = tuple[int, int, int]
"""Two contestants, the earlier first, and the number of contestants from which the match is needed."""

Bracket = Generator[Match, bool, int]
"""Yields a match, is sent whether the later contestant won it, returns the champion."""


def knockout(contestants: int) -> Bracket:
    """Single elimination among contestants 0, 1, ... such that every prefix has its champion.

    Blocks whose sizes are powers of two are played out, and the champion of the prefix before a block meets its
    winner, as sums are kept in a Fenwick tree: for all prefixes of n together there are fewer than 2 n matches, and
    none waits for more than 2 log n others.
    """
    size = contestants & -contestants
    winner = yield from _block(contestants - size, contestants)
    if size == contestants:
        return winner
    champion = yield from knockout(contestants - size)
    return winner if (yield champion, winner, contestants) else champion


def _block(begin: int, end: int) -> Bracket:
    if end - begin == 1:
        return begin
    middle = (begin + end) // 2
    first = yield from _block(begin, middle)
    second = yield from _block(middle, end)
    return second if (yield first, second, end) else first


async def play(bracket: Bracket, later_wins: Callable[[int, int, int], Awaitable[bool]]) -> int:
    """The champion; each match is asked for when the bracket comes to it."""
    try:
        match = next(bracket)
        while True:
            match = bracket.send(await later_wins(*match))
    except StopIteration as end:
        return end.value


def replay(bracket: Bracket, later_wins: Callable[[int, int], bool]) -> int:
    """The champion, by matches that were played."""
    try:
        one, other, _ = next(bracket)
        while True:
            one, other, _ = bracket.send(later_wins(one, other))
    except StopIteration as end:
        return end.value


def bradley_terry(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """The most likely log-strengths, where i beats j with probability 1 / (1 + exp(s_j - s_i)).

    `wins[i, j]` is how often i beat j; a draw is half a win for both. Every contestant also draws once with one of
    strength 0, so that who wins or loses all is finite and who was never compared is in the middle.
    Bradley and Terry 1952, "Rank Analysis of Incomplete Block Designs", Biometrika 39; found by Newton's method.
    """
    games, total = wins + wins.T, wins.sum(axis=1) + 0.5
    strength = np.zeros(len(wins))
    for _ in range(1000):  # concave: a step that is not too long leads there
        chance = 1 / (1 + np.exp(strength - strength[:, np.newaxis]))
        alone = 1 / (1 + np.exp(-strength))
        spread = games * chance * (1 - chance)
        curvature = np.diag(spread.sum(axis=1) + alone * (1 - alone)) - spread
        step = np.linalg.solve(curvature, total - (games * chance).sum(axis=1) - alone)
        strength = strength + step / max(1.0, np.abs(step).max(initial=0.0))
        if np.abs(step).max(initial=0.0) < 1e-9:
            break
    return strength
