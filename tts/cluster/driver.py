"""The driver: hands rows and shares to workers, stores what they say, and takes up elsewhere what a lost one had.

It is the one writer of the run: the directory, its lock and its SQLite file are where the driver is. A worker's answer
counts once the driver has acknowledged it, and it is acknowledged once it is committed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib.metadata import version
from math import inf
from typing import Any, Protocol

from pydantic import SecretStr

from tts import registry
from tts.cluster.messages import LEASE, PULSE, Facts, Hello, Inbox, Outbox, pack, unpack
from tts.errors import ConfigError, EndpointLost, WorkersLost, cause_of, log
from tts.runs.executors import beat
from tts.runs.runner import GridRow, RowRunner
from tts.runs.store import Cell
from tts.sampler import Endpoint
from tts.sampler.connection import Connection
from tts.sampler.pool import Pool
from tts.sampler.shares import Governor
from tts.text import counted

LOOK = 2.0
"""Seconds between two looks at what nodes there are."""
DRAIN = 20.0
"""Seconds that workers have to hand over what they have, when a run is interrupted."""
LOSSES = 8
"""Workers lost in a row, without an answer or a result stored in between, that end a run."""
CLOSING = 1.0
"""Seconds in which servers notice that a process which has died has closed its connections."""


class Gone(Exception):
    """A worker is lost; the words say how."""

    ended = False
    """Whether its process has ended, or its whole node."""


class Hand(Protocol):
    """What the driver has of a worker. Its calls raise `Gone` when the worker is lost."""

    def start(self, hello: bytes) -> Awaitable[bytes]: ...
    def exchange(self, inbox: bytes) -> Awaitable[bytes]: ...
    def tell(self, inbox: bytes) -> None: ...
    def kill(self) -> None: ...


class Fleet(Protocol):
    """Where workers come from."""

    async def places(self) -> Sequence[Hashable]:
        """Where there should be a worker now. Raises `ConfigError` when there can never be any."""
        ...

    def hire(self, place: Hashable) -> Hand: ...
    def cores(self, place: Hashable) -> int:
        """Programs that a worker there may run at once."""
        ...

    async def lives(self, node_id: str) -> bool:
        """Whether a node is still part of it."""
        ...


@dataclass(eq=False, slots=True)
class _Member:
    hand: Hand
    rows: set[int] = field(default_factory=set)
    facts: Facts | None = None
    told: float = 0.0
    """When it was last told anything."""
    done: int = 0
    """Cells that it finished."""
    acks: list[tuple[int, Any]] = field(default_factory=list)
    """What it asked for and is known since it last said anything."""


class Driver:
    """One run on the workers of a fleet."""

    def __init__(self, runner: RowRunner, rows: Sequence[GridRow], fleet: Fleet) -> None:
        """Raises `ConfigError` for a model that answers in batches."""
        if batched := [sampler.endpoint.model for sampler in runner.samplers if sampler.endpoint.batch]:
            raise ConfigError(
                f"{batched[0]} has batch = true, and each worker would send batches of its own, which no other finds "
                "again; leave --executor out: batches need no more than one process, as the server does the waiting"
            )
        self._runner, self._rows, self._fleet = runner, rows, fleet
        self._queue, self._left = deque(range(len(rows))), len(rows)
        self._finished: set[Cell] = set()
        self._members: dict[Hashable, _Member] = {}
        """By place; those that are still being started are among them."""
        self._losses, self._stopping = 0, False
        self._changed = asyncio.Event()
        self._seen: set[str] = set()
        self._governors = list[Governor]()

    async def run(self) -> None:
        """Run all rows. When cancelled, what workers have is stored first."""
        if not self._rows:
            return
        for sampler in self._runner.samplers:  # what workers learn of the servers is kept in pools here
            await sampler.connection.aclose()
            endpoint = sampler.endpoint
            pool = Pool(endpoint.urls, endpoint.max_concurrency, endpoint.target_latency)
            sampler.connection = Connection(endpoint, pool)
            self._governors.append(Governor(pool, self._tell_shares))
        work = asyncio.create_task(self._work())
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._stop()
            await asyncio.wait({work}, timeout=DRAIN)
            raise
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            for member in self._members.values():
                member.hand.kill()

    def lines(self) -> list[str]:
        """A line for each worker: where it is, and what it does."""
        return [
            f"{member.facts.node} (pid {member.facts.pid}): {counted(len(member.rows), 'row')} at work, "
            f"{counted(sum(governor.held(member) for governor in self._governors), 'request')} in flight, "
            f"{counted(member.done, 'cell')} done"
            for member in self._members.values()
            if member.facts is not None
        ]

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(work) for work in (beat(self._runner.progress), self._pulse())]
                while self._left and not self._stopping:
                    places = await self._fleet.places()
                    for place in places:
                        wanted = self._queue or (self._runner.turns and len(self._members) < self._left)
                        if place not in self._members and wanted:
                            self._members[place] = member = _Member(self._fleet.hire(place))
                            group.create_task(self._serve(place, member, scoring=len(places)))
                    self._changed.clear()
                    try:
                        async with asyncio.timeout(LOOK):
                            await self._changed.wait()
                    except TimeoutError:
                        pass
                self._stop()
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise cause_of(errors) from None

    # -- one worker ------------------------------------------------------------------------------------------------

    async def _serve(self, place: Hashable, member: _Member, *, scoring: int) -> None:
        """Work with a worker until it has stopped or is lost."""
        joined, said = False, Outbox()
        try:
            facts = unpack(await member.hand.start(self._hello(self._fleet.cores(place), scoring)))
            self._check(facts)
            member.facts, joined = facts, True
            for governor in self._governors:
                governor.join(member)
            inbox = self._inbox(member)
            while not said.stopped:
                member.told = asyncio.get_running_loop().time()
                said = unpack(await _in_time(member.hand.exchange(pack(inbox))))
                inbox = await self._take(member, said)
            if said.error is not None:
                raise self._told(member, said.error)
            if not self._stopping:
                raise Gone("it has stopped")
        except Gone as error:
            member.hand.kill()
            if joined:
                log.warning("a worker on %s is lost; its rows are run elsewhere", member.facts and member.facts.node)
                self._losses += 1
            elif not self._stopping:
                log.warning("a worker cannot be started: %s", error)
                self._losses += 1
            if self._losses >= LOSSES:
                raise WorkersLost(
                    f"{LOSSES} workers in a row were lost before any of them got on; last: {error}"
                ) from None
            facts = member.facts if error.ended else None  # else it may only be out of reach, and at work
            closed = facts is not None and await self._fleet.lives(facts.node_id)
            self._part(member, joined, 0.0 if said.stopped else CLOSING if closed else 2 * LEASE)
        else:
            self._part(member, joined, 0.0)
            member.hand.kill()
        if self._members.get(place) is member:
            del self._members[place]
        self._changed.set()

    def _part(self, member: _Member, joined: bool, hold: float) -> None:
        for governor in self._governors if joined else ():
            governor.leave(member, hold)
        member.facts = None
        self._queue.extendleft(sorted(member.rows, reverse=True))
        member.rows.clear()

    def _told(self, member: _Member, error: Exception) -> Exception:
        """What an error at a worker means: it is the run's, unless only that node cannot reach what others can."""
        if isinstance(error, EndpointLost) and len(self._members) > 1:
            now = asyncio.get_running_loop().time()
            reached = [
                s for s in self._runner.samplers if s.connection.pool.served_at > now - s.endpoint.outage_timeout
            ]
            if len(reached) == len(self._runner.samplers):
                return Gone(str(error))
        return error

    @lru_cache(maxsize=8)  # noqa: B019 - a driver lives as long as its run
    def _hello(self, cores: int, scoring: int) -> bytes:
        runner = self._runner
        samplers = runner.samplers
        hello = Hello(
            grid=runner.grid.model_copy(update={"task": None}),
            endpoints=[with_key(sampler.endpoint) for sampler in samplers],
            models={
                name: {role: samplers.index(sampler) for role, sampler in roles.items()}
                for name, roles in runner.models.items()
            },
            plugins=registry.registered(),
            folder=runner.folder.absolute(),
            cores=cores,
            scoring=scoring,
        )
        return pack(hello)

    def _check(self, facts: Facts) -> None:
        here = version("ttscale")
        if facts.version != here:
            raise ConfigError(f"{facts.node} has ttscale {facts.version}, and {here} is here; install the same")
        roles = {role for roles in self._runner.models.values() for role in roles}
        if "image" in roles and not facts.sees_folder:
            raise ConfigError(
                f"{facts.node} does not see {self._runner.folder}, where images are kept; "
                "choose an --out on a file system that all nodes share"
            )

    async def _take(self, member: _Member, said: Outbox) -> Inbox:
        """Do what a worker says, wait until it is committed, and give the answer."""
        for place, report in said.reports.items():
            self._governors[place].take_report(member, report)
        for level, text in said.notices:
            if text not in self._seen:  # every worker learns it for itself
                self._seen.add(text)
                log.log(level, "%s", text)
        turns, stored = self._runner.turns, []
        for call in said.calls:
            number, method, args = call
            if turns is not None and method == "wait":
                asyncio.ensure_future(turns.wait(*args)).add_done_callback(partial(self._ack, member, number))
            elif turns is not None and method == "leave":
                member.acks.append((number, turns.leave(*args)))
            else:
                stored.append(call)
        calls = [getattr(self._runner.store, method)(*args) for _, method, args in stored]
        results = await asyncio.gather(*calls, return_exceptions=True)
        for (number, method, args), result in zip(stored, results, strict=True):
            member.acks.append((number, result))
            if method == "finish" and result is None:
                cell, found, correct = args
                self._finished.add(cell)
                member.done += 1
                self._runner.progress.cell(cell, found, correct)
            if method != "get" and result is None:
                self._losses = 0
        member.rows.difference_update(said.done, said.given)
        self._queue.extend(said.given)
        self._left -= len(said.done)
        if not self._left:
            self._changed.set()
        inbox = self._inbox(member)
        inbox.acks, member.acks, inbox.due = member.acks, [], False
        most: float = inf
        if turns is not None:
            most, inbox.give = self._share(member)
        while len(inbox.rows) < said.room and len(member.rows) < most and self._queue and not self._stopping:
            number = self._queue.popleft()
            row = self._rows[number]
            left = tuple(strategy for strategy in row.strategies if row.cell(strategy) not in self._finished)
            if not left:  # it was lost between its last result and its end
                self._left -= 1
                self._changed.set()
                continue
            member.rows.add(number)
            inbox.rows.append((number, replace(row, strategies=left)))
        return inbox

    def _inbox(self, member: _Member) -> Inbox:
        grants = [governor.grant(member) for governor in self._governors]
        return Inbox(grants=grants, stop=self._stopping, due=bool(member.acks))

    def _ack(self, member: _Member, number: int, turn: asyncio.Future[int]) -> None:
        """Have a worker come for what it was told late; being told so may be lost, what it comes for is not."""
        member.acks.append((number, turn.exception() or turn.result()))
        if len(member.acks) == 1 and member.facts is not None:
            self._tell(member)

    def _share(self, member: _Member) -> tuple[int, int]:
        """How many rows a worker may have where all must be at work at once, and how many it should hand over.

        Handing over costs another what it takes to find from the store how far a row is, verdicts included.
        """
        held = [len(one.rows) for one in self._members.values() if one.facts is not None]
        most = -(-self._left // len(held))
        return most, len(member.rows) - most if min(held) < most / 2 else 0

    # -- all workers -----------------------------------------------------------------------------------------------

    def _tell_shares(self, members: set[Hashable]) -> None:
        for member in members:
            if isinstance(member, _Member):
                self._tell(member)

    def _tell(self, member: _Member) -> None:
        member.told = asyncio.get_running_loop().time()
        member.hand.tell(pack(self._inbox(member)))

    async def _pulse(self) -> None:
        """Have every worker hear something now and then, even while its answers are being committed."""
        while True:
            await asyncio.sleep(PULSE)
            for member in self._members.values():
                if member.facts is not None and asyncio.get_running_loop().time() - member.told > 3 * PULSE:
                    self._tell(member)

    def _stop(self) -> None:
        self._stopping = True
        self._changed.set()
        for member in self._members.values():
            if member.facts is not None:
                self._tell(member)
            else:  # not even started
                member.hand.kill()


async def _in_time(exchange: Awaitable[bytes]) -> bytes:
    """What a worker says, unless it says nothing for the length of its lease. Raises `Gone`."""
    call = asyncio.ensure_future(exchange)
    try:
        for patience in (LEASE, PULSE):  # it may have been this process that stood still
            await asyncio.wait({call}, timeout=patience)
            if call.done():
                return call.result()
        raise Gone(f"it has said nothing for {LEASE:g} s")
    finally:
        call.cancel()


def with_key(endpoint: Endpoint) -> Endpoint:
    """`endpoint` with its key in it, which may be in a file or variable that only this process has."""
    key = endpoint.key()
    return endpoint if key is None else endpoint.model_copy(update={"api_key": SecretStr(key)})
