"""Which replica serves the next request, and how many requests each may have in flight.

Concurrency grows and shrinks as TCP's window does (Chiu and Jain 1989): at first it doubles every round trip, then
grows by one; it is halved when the server throttles or times out, at most once per round trip.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum

from tts.errors import Throttled

INITIAL = 64
"""Requests in flight at a replica before anything is known about it."""

SLACK = 16
"""A preferred replica may hold twice as many requests as the least loaded one, plus this many. Without the limit, a
few-shot prefix that all prompts share would send everything to one replica."""

DOWN_AFTER = 5
"""Connections lost in a row, with no request served in between, before a replica is set aside."""


class AttemptOutcome(Enum):
    """What the end of an attempt says about its replica."""

    SERVED = "served"
    CONGESTED = "congested"
    """Throttled or timed out: send fewer."""
    FAILED = "failed"
    """Connection lost or answer unreadable: it may be down."""
    ABANDONED = "abandoned"
    """Cancelled by us, or answered by an error that says nothing about the server's load."""


class Replica:
    """One server and its congestion window."""

    def __init__(self, url: str, maximum: int, target_latency: float | None) -> None:
        self.url = url
        self.in_flight = 0
        self.window = float(min(INITIAL, maximum))
        self.paused_until = 0.0
        self._maximum = maximum
        self._target_latency = target_latency
        self._slow_start = True
        self._no_cut_before = 0.0
        self._failures = 0
        self._set_aside_at = 0.0

    def has_room(self, now: float) -> bool:
        """Whether one more request may be sent; a replica that was set aside gets a single one as a probe."""
        return now >= self.paused_until and self.in_flight < (1 if self._failures >= DOWN_AFTER else self.window)

    @property
    def is_down(self) -> bool:
        """Whether it was set aside, and has served nothing since."""
        return self._failures >= DOWN_AFTER

    @property
    def load(self) -> float:
        """Share of the window in use."""
        return self.in_flight / self.window

    def observe(self, outcome: AttemptOutcome, latency: float, retry_after: float | None, now: float) -> None:
        """Learn from an attempt that has just ended; `in_flight` still counts it."""
        if outcome is AttemptOutcome.SERVED:
            self._failures = 0
            if self._target_latency is not None and latency > self._target_latency:
                self._cut(latency, now)
            elif self.in_flight >= self.window - 1:  # grow only a window that is used
                self.window = min(self._maximum, self.window + (1 if self._slow_start else 1 / self.window))
        elif outcome is AttemptOutcome.CONGESTED:
            self._cut(latency, now)
            if retry_after is not None:
                self.paused_until = max(self.paused_until, now + retry_after)
        elif outcome is AttemptOutcome.FAILED and now - latency >= self._set_aside_at:  # older ones say nothing new
            self._failures += 1
            if self._failures >= DOWN_AFTER:  # set aside, and probed again after a pause that doubles
                pause = min(30.0, 0.25 * 2.0 ** min(self._failures - DOWN_AFTER, 10))
                self._set_aside_at, self.paused_until = now, max(self.paused_until, now + pause)

    def _cut(self, latency: float, now: float) -> None:
        if now >= self._no_cut_before:
            self.window = max(1.0, self.window / 2)
            self._slow_start = False
            self._no_cut_before = now + max(latency, 0.1)


class Pool:
    """Replicas of one model, with one queue in order of arrival."""

    def __init__(self, urls: tuple[str, ...], maximum: int, target_latency: float | None = None) -> None:
        self.replicas = [Replica(url, maximum, target_latency) for url in urls]
        self._waiting: deque[tuple[asyncio.Future[Replica], int, str | None]] = deque()
        self._wake: asyncio.TimerHandle | None = None

    @property
    def capacity(self) -> float:
        """Requests that all replicas together may have in flight now."""
        return sum(replica.window for replica in self.replicas)

    @property
    def down(self) -> bool:
        """Whether every replica is set aside, and none is due to be probed."""
        now = asyncio.get_running_loop().time()
        return all(replica.is_down and not replica.has_room(now) for replica in self.replicas)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    async def acquire(self, affinity: int, avoid: str | None = None) -> Replica:
        """A replica with room: unless it is overloaded, the same for the same `affinity`, as its prefix cache is warm.

        The replica at the URL `avoid`, where a request has just failed, is taken only if no other has room.
        Every `acquire` and every `take` must be followed by `release`.
        """
        preferred = affinity % len(self.replicas)
        if not self._waiting and (replica := self._pick(preferred, avoid)):
            replica.in_flight += 1
            return replica
        turn: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, preferred, avoid))
        self._dispatch()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # room came at the very moment of the cancellation
                self.release(turn.result(), AttemptOutcome.ABANDONED, 0.0)
            raise

    def take(self, affinity: int, avoid: str | None = None) -> Replica:
        """`acquire` for callers with limits of their own: it ignores windows and the queue, but not pauses.

        Raises `Throttled` while every replica is paused.
        """
        now = asyncio.get_running_loop().time()
        awake = [replica for replica in self.replicas if now >= replica.paused_until]
        if not awake:
            wait = min(replica.paused_until for replica in self.replicas) - now
            raise Throttled("the model's servers asked for a pause", status=503, retry_after=wait)
        replica = self._choose(affinity % len(self.replicas), avoid, awake, lambda replica: replica.in_flight)
        replica.in_flight += 1
        return replica

    def release(
        self, replica: Replica, outcome: AttemptOutcome, latency: float, retry_after: float | None = None
    ) -> None:
        """End an attempt that took `latency` seconds; the server asked for a pause of `retry_after` seconds."""
        replica.observe(outcome, latency, retry_after, asyncio.get_running_loop().time())
        replica.in_flight -= 1
        self._dispatch()

    def _pick(self, preferred: int, avoid: str | None) -> Replica | None:
        now = asyncio.get_running_loop().time()
        if len(self.replicas) == 1:
            return self.replicas[0] if self.replicas[0].has_room(now) else None
        free = [replica for replica in self.replicas if replica.has_room(now)]
        return self._choose(preferred, avoid, free, lambda replica: replica.load) if free else None

    def _choose(
        self, preferred: int, avoid: str | None, candidates: list[Replica], load: Callable[[Replica], float]
    ) -> Replica:
        candidates = [replica for replica in candidates if replica.url != avoid] or candidates
        least, home = min(candidates, key=load), self.replicas[preferred]
        return home if home in candidates and home.in_flight < 2 * least.in_flight + SLACK else least

    def _dispatch(self) -> None:
        while self._waiting:
            turn, preferred, avoid = self._waiting[0]
            if not turn.done():
                replica = self._pick(preferred, avoid)
                if replica is None:
                    self._wake_when_resumed()
                    return
                replica.in_flight += 1
                turn.set_result(replica)
            self._waiting.popleft()

    def _wake_when_resumed(self) -> None:
        """Dispatch again when the first pause ends."""
        loop = asyncio.get_running_loop()
        paused = [r.paused_until for r in self.replicas if r.paused_until > loop.time()]
        if self._wake is not None:
            self._wake.cancel()
        self._wake = loop.call_at(min(paused), self._dispatch) if paused else None
