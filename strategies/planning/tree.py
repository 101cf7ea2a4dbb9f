"""The tree of observations: which combinations are expanded, in which order, and the workers that do it.

Nothing waits for anything but its own parent. Where the number of codes or the budget is limited, combinations are
taken breadth-first: upper layers first, then as many from each parent. What a budget has room for is decided while
nothing is at work, in order of rank, so that it does not depend on which call was answered first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import combinations, count
from math import inf
from typing import Protocol

from tts.concurrency import Flow
from tts.prompting import NoAnswer
from tts.session import Session
from tts.strategies.planning import FORMATTING, Author, Trail, branch
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
class Combination:
    """A combination of observations."""

    rank: tuple[int, ...]
    """Layer, place among its siblings, and the places of its parents upwards: what comes first breadth-first."""
    observations: tuple[str, ...] = field(default=(), compare=False)
    trail: Trail = field(default=Trail(), compare=False)

    @property
    def empty(self) -> Combination:
        """What it is together with none of the observations derived from it: it is solved already, but derived from
        once more, in the next layer."""
        layer, *places = self.rank
        trail = self.trail if self.trail.steps else self.trail.then("observations", "none")
        return replace(self, rank=(layer + 1, 0, *places), trail=trail)


class ObservationTree:
    """Grows in a flow, and emits candidates."""

    def __init__(self, shape: Shape, author: Author) -> None:
        """`author` makes the calls."""
        self._shape = shape
        self._author = author
        self._order = StartingOrder(author.session, {"policy", author.idea_role}, self._use_spare)
        self._seen: set[frozenset[str]] = set()
        self._per_node = 2 if shape.criticise else 1
        self._surplus: list[Combination] = []
        self._spare: float = 0
        prompts = author.prompts
        steps = 1 + bool(author.pseudocode and prompts.pseudocode)
        self._calls = 1 + steps + shape.criticise * (1 + bool(prompts.criticise) + steps)
        self._observing = len(prompts.refine) + len(FORMATTING)

    async def grow(self, out: Flow[Candidate]) -> None:
        """Start with the problem itself: the combination of nothing, and the first observations."""
        self._out = out
        self._seen.add(frozenset())
        quota = inf if self._shape.codes is None else self._shape.codes
        root = Combination((0,))
        own = self._solve(root.empty, quota)
        if quota > own:
            self._order.watch(out.start(self._grow(root, quota - own)))

    async def _grow(self, node: Combination, quota: float) -> None:
        """Make the children of `node` and theirs, with `quota` codes in all.

        What is left of the quota is shared among them, or goes to combinations that had to wait.
        """
        children, quota = await self._expand(node, quota)
        parents = [node.empty if self._shape.keep_parents else replace(node.empty, observations=()), *children]
        if parents[0].rank[0] < self._shape.layers:
            for parent, share in zip(parents, shares(quota, len(parents)), strict=True):
                if share:
                    self._order.watch(self._out.start(self._grow(parent, share)))
        else:
            self._give_back(quota)

    async def _expand(self, node: Combination, quota: float) -> tuple[list[Combination], float]:
        """Derive observations from those of `node` and work on their combinations. Returns these and the quota left."""
        begun: list[Combination] = []
        for child in await self._children(node):
            if quota:
                quota -= self._solve(child, quota)
                begun.append(child)
            else:
                heappush(self._surplus, child)
        return begun, quota

    async def _children(self, node: Combination) -> list[Combination]:
        layer, *places = node.rank
        place = (layer + 1, -1, *places)
        async with self._order.take(place, self._observing):
            try:
                author = self._author.at(place)
                found, samples = await author.observe(node.observations, node.trail, self._shape.asked)
            except NoAnswer:
                return []
        await self._order.sort(place)
        children = []
        for place, chosen in enumerate(subsets(found, self._shape.subset), 1):
            held = (*node.observations, *chosen) if self._shape.keep_parents else chosen
            if frozenset(held) not in self._seen:
                self._seen.add(frozenset(held))
                trail = node.trail.then("observations", "\n".join(chosen), samples)
                children.append(Combination((layer + 1, place, *places), held, trail))
        return children

    def _give_back(self, codes: float) -> None:
        if codes < inf:
            self._spare += codes

    def _use_spare(self) -> None:
        while self._spare and self._surplus:
            self._spare -= self._solve(heappop(self._surplus), self._spare)

    def _solve(self, node: Combination, quota: float) -> int:
        """Start work on `node` with up to `quota` codes, and return how many."""
        codes = int(min(self._per_node, quota))
        self._order.watch(branch(self._out, self._plan(node, codes), lambda: self._give_back(codes)))
        return codes

    async def _plan(self, node: Combination, codes: int) -> None:
        """From observations to a plan, and from the plan to one answer, or to two by way of criticism."""
        async with self._order.take(node.rank, self._calls) as room:
            plan = await self._author.at(node.rank).sketch(node.observations, node.trail)
            begun = []
            for i, work in enumerate((self._answer, self._improve)[:codes]):
                begun.append(branch(self._out, work(plan, (*node.rank, i)), lambda: self._give_back(1)))
                if not room:
                    await asyncio.wait(begun)  # what the first leaves is for the second
            await asyncio.gather(*begun, return_exceptions=True)  # their errors go to the flow

    async def _improve(self, plan: Trail, spawned: tuple[int, ...]) -> None:
        await self._answer(await self._author.at(spawned).fix(plan), spawned)

    async def _answer(self, plan: Trail, spawned: tuple[int, ...]) -> None:
        self._out.emit(await self._author.at(spawned).write(plan, spawned))


def subsets(found: Sequence[str], size: int) -> Iterable[tuple[str, ...]]:
    """All combinations of 1 to `size` of `found`: small ones first, and such that early ones use all alike."""
    for number in range(1, min(size, len(found)) + 1):
        chosen = sorted(combinations(range(len(found)), number), key=lambda places: places[-1] - places[0])
        yield from (tuple(found[i] for i in places) for places in chosen)


def shares(quota: float, count: int) -> list[float]:
    """`quota` in `count` whole parts as equal as possible, the larger ones first."""
    if quota == inf:
        return [inf] * count
    each, rest = divmod(int(quota), count)
    return [each + (i < rest) for i in range(count)]


class StartingOrder:
    """Starts work in order of rank, and only as much as the session's budget will let finish.

    Under a budget that is decided whenever nothing is at work: what there is to choose from, and what is left to spend,
    then follow from the answers, and not from how long each of them took.
    """

    def __init__(self, session: Session, roles: Collection[str], at_rest: Callable[[], None]) -> None:
        """`at_rest` is called whenever nothing is at work, and may start some; `roles` are those of the calls."""
        self._session = session
        self._roles = roles
        self._at_rest = at_rest
        self._working = 0
        self._waiting: list[tuple[bool, tuple[int, ...], int, int, asyncio.Future[bool]]] = []
        self._count = count()

    def watch(self, task: asyncio.Task[object]) -> None:
        """Count `task` as at work until it ends, apart from the time in which it waits for its turn."""
        self._working += 1
        task.add_done_callback(lambda _: self._rests())

    @asynccontextmanager
    async def take(self, rank: tuple[int, ...], calls: int) -> AsyncIterator[bool]:
        """Wait until work of `calls` calls may start; lower ranks go first. Gives whether all of it surely has room."""
        yield self._room == inf or await self._turn(rank, calls)

    async def sort(self, rank: tuple[int, ...]) -> None:
        """Under a budget, let go on in order of rank those that come here while nothing else is at work."""
        if self._room < inf:
            await self._turn(rank, 0)

    @property
    def _room(self) -> float:
        return self._session.calls_with_room(self._roles)

    async def _turn(self, rank: tuple[int, ...], calls: int) -> bool:
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (calls > 0, rank, next(self._count), calls, turn))
        self._rests()
        return await turn

    def _rests(self) -> None:
        self._working -= 1
        if not self._working:
            self._at_rest()
        if not self._working:
            self._admit()

    def _admit(self) -> None:
        """Let those go on that need no call, else as many as there is room for, and one at least."""
        room = self._room
        while self._waiting:
            is_work, _, _, calls, turn = self._waiting[0]
            if self._working and is_work and (room == inf or calls > room):
                return
            heappop(self._waiting)
            if not turn.done():
                self._working += 1
                turn.set_result(calls <= room)
                room = room - calls if is_work else inf
