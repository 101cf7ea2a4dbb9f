"""The tree of observations: which combinations are expanded, in which order, and the workers that do it.

Nothing waits for anything but its own parent. Where the number of codes or the budget is limited, combinations are
taken breadth-first: upper layers first, then as many from each parent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import combinations
from math import inf
from typing import Protocol

from tts.concurrency import Flow
from tts.prompting import NoAnswer
from tts.session import Session
from tts.strategies.planning import Author, Trail, branch
from tts.types import Candidate


class Shape(Protocol):
    """The shape of a tree; `PlanSearch` says what each number is."""

    @property
    def asked(self) -> int: ...
    @property
    def subset(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def keep_parents(self) -> bool: ...
    @property
    def criticise(self) -> bool: ...
    @property
    def codes(self) -> int | None: ...


@dataclass(frozen=True, order=True)
class Node:
    """A combination of observations."""

    rank: tuple[int, ...]
    """Layer, place among its siblings, and the places of its parents upwards: what comes first breadth-first."""
    observations: tuple[str, ...] = field(default=(), compare=False)
    trail: Trail = field(default=Trail(), compare=False)

    @property
    def empty(self) -> Node:
        """What it is together with none of the observations derived from it: it is solved already, but derived from
        once more, in the next layer."""
        layer, *places = self.rank
        trail = self.trail if self.trail.steps else self.trail.then("observations", "none")
        return replace(self, rank=(layer + 1, 0, *places), trail=trail)


class Tree:
    """Grows in a flow, and emits candidates."""

    def __init__(self, shape: Shape, author: Author) -> None:
        """`author` makes the calls."""
        self._shape = shape
        self._author = author
        self._turns = Turns(author.session)
        self._seen: set[frozenset[str]] = set()
        self._per_node = 2 if shape.criticise else 1
        self._surplus: list[Node] = []
        self._spare: float = 0
        prompts = author.prompts
        steps = 1 + bool(author.pseudocode and prompts.pseudocode)
        self._calls = 1 + steps + shape.criticise * (1 + bool(prompts.criticise) + steps)
        self._observing = 1 + len(prompts.refine)

    async def grow(self, out: Flow[Candidate]) -> None:
        """Start with the problem itself: the combination of nothing, and the first observations."""
        self._out = out
        self._seen.add(frozenset())
        quota = inf if self._shape.codes is None else self._shape.codes
        root = Node((0,))
        own = self._solve(root.empty, quota)
        if quota > own:
            out.start(self._grow(root, quota - own))

    async def _grow(self, node: Node, quota: float) -> None:
        """Make the children of `node` and theirs, with `quota` codes in all.

        What is left of the quota is shared among them, or goes to combinations that had to wait.
        """
        children, quota = await self._expand(node, quota)
        parents = [node.empty if self._shape.keep_parents else replace(node.empty, observations=()), *children]
        if parents[0].rank[0] < self._shape.layers:
            for parent, share in zip(parents, shares(quota, len(parents)), strict=True):
                if share:
                    self._out.start(self._grow(parent, share))
        else:
            self._give_back(quota)

    async def _expand(self, node: Node, quota: float) -> tuple[list[Node], float]:
        """Derive observations from those of `node` and work on their combinations. Returns these and the quota left."""
        begun: list[Node] = []
        for child in await self._children(node):
            if quota:
                quota -= self._solve(child, quota)
                begun.append(child)
            else:
                heappush(self._surplus, child)
        self._use_spare()
        return begun, quota

    async def _children(self, node: Node) -> list[Node]:
        layer, *places = node.rank
        place = (layer + 1, -1, *places)
        async with self._turns.take(place, self._observing):
            try:
                author = self._author.at(place)
                found, samples = await author.observe(node.observations, node.trail, self._shape.asked)
            except NoAnswer:
                return []
        children = []
        for place, chosen in enumerate(subsets(found, self._shape.subset), 1):
            held = (*node.observations, *chosen) if self._shape.keep_parents else chosen
            if frozenset(held) not in self._seen:
                self._seen.add(frozenset(held))
                trail = node.trail.then("observations", "\n".join(chosen), samples)
                children.append(Node((layer + 1, place, *places), held, trail))
        return children

    def _give_back(self, codes: float) -> None:
        if codes < inf:
            self._spare += codes
            self._use_spare()

    def _use_spare(self) -> None:
        while self._spare and self._surplus:
            self._spare -= self._solve(heappop(self._surplus), self._spare)

    def _solve(self, node: Node, quota: float) -> int:
        """Start work on `node` with up to `quota` codes, and return how many."""
        codes = int(min(self._per_node, quota))
        branch(self._out, self._plan(node, codes), lambda: self._give_back(codes))
        return codes

    async def _plan(self, node: Node, codes: int) -> None:
        """From observations to a plan, and from the plan to one answer, or to two by way of criticism."""
        async with self._turns.take(node.rank, self._calls):
            plan = await self._author.at(node.rank).sketch(node.observations, node.trail)
            works = (self._answer, self._improve)[:codes]
            begun = [
                branch(self._out, work(plan, (*node.rank, i)), lambda: self._give_back(1))
                for i, work in enumerate(works)
            ]
            await asyncio.gather(*begun, return_exceptions=True)  # their errors go to the flow

    async def _improve(self, plan: Trail, spawned: tuple[int, ...]) -> None:
        await self._answer(await self._author.at(spawned).fix(plan), spawned)

    async def _answer(self, plan: Trail, spawned: tuple[int, ...]) -> None:
        self._out.emit(await self._author.at(spawned).write(plan, spawned))


def subsets(found: Sequence[str], size: int) -> Iterable[tuple[str, ...]]:
    """All combinations of 1 to `size` of `found`: small ones first, and such that early ones use all alike."""
    for count in range(1, min(size, len(found)) + 1):
        chosen = sorted(combinations(range(len(found)), count), key=lambda places: places[-1] - places[0])
        yield from (tuple(found[i] for i in places) for places in chosen)


def shares(quota: float, count: int) -> list[float]:
    """`quota` in `count` whole parts as equal as possible, the larger ones first."""
    if quota == inf:
        return [inf] * count
    each, rest = divmod(int(quota), count)
    return [each + (i < rest) for i in range(count)]


class Turns:
    """Starts work in order of rank, and only as much as the session's budget will let finish."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: list[tuple[tuple[int, ...], int, int, asyncio.Event]] = []
        self._promised = 0
        self._count = 0

    @asynccontextmanager
    async def take(self, rank: tuple[int, ...], calls: int) -> AsyncIterator[None]:
        """Wait until work of `calls` calls may start; lower ranks go first."""
        turn = asyncio.Event()
        self._count += 1
        entry = (rank, self._count, calls, turn)
        heappush(self._waiting, entry)
        self._admit()
        try:
            await turn.wait()
            yield
        finally:
            if turn.is_set():
                self._promised -= calls
                self._admit()

    def _admit(self) -> None:
        while self._waiting:
            _, _, calls, turn = self._waiting[0]
            if self._promised and self._promised + calls > self._session.calls_left:
                return
            heappop(self._waiting)
            self._promised += calls
            turn.set()
