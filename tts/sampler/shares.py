"""One congestion window for all workers: each holds a share of it, and all learn from every attempt.

Workers report how their attempts ended; the driver replays the reports into the very pool that a run in one process
has, and deals its window out by demand. A share that is taken back counts until its worker has said that nothing above
it is in flight any more, so that all shares together never exceed the window's maximum, whatever is on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from tts.sampler.endpoint import Endpoint
from tts.sampler.pool import SUSPECT, AttemptOutcome, Pool, Replica

REDEAL = 0.005
"""Seconds in which reports are gathered before shares are dealt again."""


@dataclass(frozen=True, slots=True)
class MadeAttempt:
    """How an attempt ended, for those who did not make it."""

    replica: int
    outcome: AttemptOutcome
    latency: float
    retry_after: float | None
    failure: str
    in_flight: int
    """Of its worker at this replica, itself included."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of an endpoint; lists are by replica."""

    version: int
    """Of the grant that it goes by."""
    in_flight: list[int]
    waiting: list[int]
    """Requests whose prefix cache is there, if any."""
    trusted: list[float]
    """Seconds for which failures are taken for the requests' own, as the replica has just said that it works."""
    attempts: list[MadeAttempt]
    """Ended since the last report."""


@dataclass(frozen=True, slots=True)
class ShareGrant:
    """What a worker may have in flight at each replica of an endpoint."""

    version: int
    shares: list[int]
    served_ago: float | None
    """Seconds since any worker got an answer."""


# -- at the worker -----------------------------------------------------------------------------------------------------


class SharedReplica(Replica):
    """A replica of which this process has a share. Its window only brakes until the driver has heard of a failure."""

    def __init__(self, url: str, maximum: int, target_latency: float | None) -> None:
        super().__init__(url, maximum, target_latency)
        self.share: int = 0

    def has_room(self, now: float) -> bool:
        return self.in_flight < self.share and super().has_room(now)

    def grant(self, share: int) -> None:
        self.share = min(share, self.maximum)
        self.window = float(max(1, self.share))


class SharedPool(Pool):
    """The pool of an endpoint at a worker: it sends what its grants allow, and reports."""

    def __init__(self, endpoint: Endpoint, changed: Callable[[], None]) -> None:
        maximum = endpoint.most_in_flight
        super().__init__(endpoint.urls, maximum, endpoint.target_latency)
        self.replicas: list[SharedReplica] = [  # pyright: ignore[reportIncompatibleVariableOverride]
            SharedReplica(url, maximum, endpoint.target_latency) for url in endpoint.urls
        ]
        self._version, self._attempts, self._changed = 0, list[MadeAttempt](), changed
        self._reported: tuple[object, ...] = ()

    @property
    def capacity(self) -> float:
        return sum(replica.share for replica in self.replicas)

    def learn(
        self, replica: Replica, outcome: AttemptOutcome, latency: float, retry_after: float | None, failure: str
    ) -> None:
        place = self.replicas.index(replica)  # pyright: ignore[reportArgumentType]
        self._attempts.append(MadeAttempt(place, outcome, latency, retry_after, failure, replica.in_flight))
        super().learn(replica, outcome, latency, retry_after, failure)

    def dispatch(self) -> None:
        super().dispatch()
        self._changed()

    def take_grant(self, grant: ShareGrant) -> None:
        """Go by `grant` from now on, unless a later one came first."""
        if grant.served_ago is not None:
            self.served_at = max(self.served_at, asyncio.get_running_loop().time() - grant.served_ago)
            if self.silent_since is not None and self.silent_since < self.served_at and not self.down:
                self.silent_since = None
        if grant.version > self._version:
            self._version = grant.version
            for replica, share in zip(self.replicas, grant.shares, strict=True):
                replica.grant(share)
            self.dispatch()

    def report(self) -> Report | None:
        """What is new since the last report; None: nothing."""
        now = asyncio.get_running_loop().time()
        waiting = [0] * len(self.replicas)
        for one in self._waiting:
            waiting[one.preferred] += 1
        in_flight = [replica.in_flight for replica in self.replicas]
        trusted = [max(0.0, replica.trusted_until - now) for replica in self.replicas]
        told = (self._version, in_flight, waiting, [replica.trusted_until for replica in self.replicas])
        if not self._attempts and told == self._reported:
            return None
        self._reported, attempts, self._attempts = told, self._attempts, []
        return Report(self._version, in_flight, waiting, trusted, attempts)


# -- at the driver -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Holding:
    """What one worker has."""

    shares: list[int]
    bounds: list[int]
    """The most that it may have in flight, as far as is known here."""
    in_flight: list[int]
    waiting: list[int]
    version: int = 0
    trials: set[int] = field(default_factory=set)
    """Replicas at which it sends the one request after a pause."""


class Governor:
    """Deals the window of an endpoint's `pool` out to workers. `changed` is told whose shares are new."""

    def __init__(self, pool: Pool, changed: Callable[[set[Hashable]], None]) -> None:
        self.pool = pool
        self.ceilings: list[int] = [replica.maximum for replica in pool.replicas]
        """The most that all workers together may have in flight, where others send to the same replicas too."""
        self._changed = changed
        self._holdings: dict[Hashable, _Holding] = {}
        self._gone: dict[Hashable, _Holding] = {}
        self._timer: asyncio.TimerHandle | None = None

    def join(self, worker: Hashable) -> None:
        """Count `worker` among those who get shares."""
        size = len(self.pool.replicas)
        self._holdings[worker] = _Holding([0] * size, [0] * size, [0] * size, [0] * size)
        self._deal_soon()

    def leave(self, worker: Hashable, hold: float) -> None:
        """`worker` is gone; whatever it may have in flight is over in `hold` seconds at the latest."""
        if holding := self._holdings.pop(worker, None):
            self._gone[worker] = holding
            asyncio.get_running_loop().call_later(hold, self._forget, worker)

    def _forget(self, worker: Hashable) -> None:
        holding = self._gone.pop(worker)
        for place in holding.trials:
            self.pool.replicas[place].on_trial = False
        self._deal_soon()

    def grant(self, worker: Hashable) -> ShareGrant:
        """What `worker` may do now."""
        holding, served = self._holdings[worker], self.pool.served_at
        ago = asyncio.get_running_loop().time() - served if served else None
        return ShareGrant(holding.version, list(holding.shares), ago)

    def load(self, place: int) -> tuple[int, int]:
        """The most that workers may have in flight at a replica, and what they would have."""
        holdings = self._holdings.values()
        most = sum(one.bounds[place] for one in (*holdings, *self._gone.values()))
        return max(most, self.ceilings[place]), sum(one.in_flight[place] + one.waiting[place] for one in holdings)

    def take_ceiling(self, place: int, ceiling: int) -> None:
        """Keep to another ceiling from now on."""
        if ceiling != self.ceilings[place]:
            self.ceilings[place] = ceiling
            self._deal_soon()

    def held(self, worker: Hashable) -> int:
        """Requests that `worker` has in flight, as it last said."""
        return sum(self._holdings[worker].in_flight)

    def take_report(self, worker: Hashable, report: Report) -> None:
        """Learn from what `worker` says."""
        pool, holding, now = self.pool, self._holdings[worker], asyncio.get_running_loop().time()
        for attempt in report.attempts:
            replica = pool.replicas[attempt.replica]
            others = sum(one.in_flight[attempt.replica] for one in self._holdings.values() if one is not holding)
            replica.in_flight = others + attempt.in_flight
            pool.learn(replica, attempt.outcome, attempt.latency, attempt.retry_after, attempt.failure)
        holding.in_flight, holding.waiting = report.in_flight, report.waiting
        for place, (replica, trusted) in enumerate(zip(pool.replicas, report.trusted, strict=True)):
            replica.in_flight = sum(one.in_flight[place] for one in self._holdings.values())
            if trusted:
                replica.failures, replica.trusted_until = 0, now + trusted
        if report.version == holding.version:
            holding.bounds = list(map(max, holding.shares, report.in_flight))
        self._deal_soon()

    def _deal_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REDEAL, self._deal)

    def _deal(self) -> None:
        self._timer, now = None, asyncio.get_running_loop().time()
        before = {worker: list(holding.shares) for worker, holding in self._holdings.items()}
        for place, replica in enumerate(self.pool.replicas):
            self._deal_replica(place, replica, now)
        changed = {worker for worker, shares in before.items() if shares != self._holdings[worker].shares}
        for worker in changed:
            self._holdings[worker].version += 1
        if changed:
            self._changed(changed)
        paused = [replica.paused_until for replica in self.pool.replicas if replica.paused_until > now]
        if paused:
            asyncio.get_running_loop().call_at(min(paused), self._deal_soon)

    def _deal_replica(self, place: int, replica: Replica, now: float) -> None:
        holdings = list(self._holdings.values())
        limit = min(max(1, int(replica.window)), self.ceilings[place])
        if now < replica.paused_until:
            targets = [0] * len(holdings)
        elif replica.throttles:  # what was sent before the pause may go on, and one request shows whether it is over
            limit = self.ceilings[place]
            targets = [min(one.shares[place], one.in_flight[place]) for one in holdings]
            self._choose_trial(place, replica, holdings)
            for number, one in enumerate(holdings):
                if place in one.trials:
                    targets[number] = one.shares[place] if replica.on_trial else one.in_flight[place] + 1
                    replica.on_trial = True
        else:
            suspect = replica.failures >= SUSPECT and now >= replica.trusted_until
            limit = min(1, limit) if suspect else limit
            demands = [one.in_flight[place] + one.waiting[place] for one in holdings]
            targets = deal(limit, demands, [one.shares[place] for one in holdings])
        if not replica.throttles:
            for one in holdings:
                one.trials.discard(place)
        for one, target in zip(holdings, targets, strict=True):
            one.shares[place] = min(one.shares[place], target)
        free = limit - sum(one.bounds[place] for one in (*holdings, *self._gone.values()))
        for one, target in zip(holdings, targets, strict=True):
            more = min(target - one.bounds[place], max(0, free))
            one.shares[place] = max(one.shares[place], min(target, one.bounds[place] + max(0, more)))
            free -= max(0, one.shares[place] - one.bounds[place])
            one.bounds[place] = max(one.bounds[place], one.shares[place])

    def _choose_trial(self, place: int, replica: Replica, holdings: Sequence[_Holding]) -> None:
        """Name the worker that sends the one request; another one if it has none to send after all."""
        for one in holdings:
            if place in one.trials and not one.in_flight[place] + one.waiting[place]:
                one.trials.discard(place)
                replica.on_trial = False
        if not replica.on_trial:
            for one in holdings:
                one.trials.discard(place)
            eager = max(holdings, key=lambda one: one.waiting[place], default=None)
            if eager is not None and eager.waiting[place]:
                eager.trials.add(place)


def deal(limit: int, demands: Sequence[int], held: Sequence[int]) -> list[int]:
    """Shares that sum to `limit`: nobody gets more than he demands as long as another one lacks more, and what nobody
    demands is spread evenly. Where it does not come out even, those who hold more keep it."""
    shares = [0] * len(demands)
    left = limit
    for wanted in (demands, [limit] * len(demands)):
        order = sorted(range(len(shares)), key=lambda i: (wanted[i] - shares[i], held[i]))
        for rank, i in enumerate(order):
            part = -(-left // (len(order) - rank)) if held[i] > shares[i] else left // (len(order) - rank)
            more = max(0, min(wanted[i] - shares[i], part, left))
            shares[i] += more
            left -= more
    return shares
