"""Which replica serves the next request, and how many requests each may have in flight.

Concurrency grows and shrinks as TCP's window does (Chiu and Jain 1989): at first it doubles every round trip, then
grows by one; it is halved when the server throttles or times out, at most once per round trip. Whether a replica lives
at all is for `tts.sampler.health` to say.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from tts.errors import EndpointError, QuotaSpent, Throttled, TransientError, log

INITIAL = 64
"""Requests in flight at a replica before anything is known about it."""

SLACK = 16
"""A preferred replica may hold twice as many requests as the least loaded one, plus this many. Without the limit, a
few-shot prefix that all prompts share would send everything to one replica."""

SUSPECT = 3
"""Attempts in a row that a replica fails before it is examined; meanwhile it gets one request at a time."""

LACKING = (401, 403, 404)
"""What a replica answers that has another key or not the model, when others may be as they should be."""

LONGEST_WAIT = 30.0
"""Seconds before the next attempt, at most, whatever the server asks for: one that asks for a day may mean a minute."""


def without_addresses(words: str) -> str:
    """`words` without the URLs in them, for those who need not know them."""
    return re.sub(r"\w+://\S+?(?=[:;,)]?(\s|$))", "the server", words)


class AttemptOutcome(Enum):
    """What the end of an attempt says about its replica."""

    SERVED = "served"
    REFUSED = "refused"
    """Answered by an error about the request: the server works."""
    CONGESTED = "congested"
    """Throttled or timed out: send fewer."""
    FAILED = "failed"
    """Connection lost, 5xx or an unreadable answer: it may be down."""
    ABANDONED = "abandoned"
    """Cancelled by us."""


class Replica:
    """One server and its congestion window."""

    def __init__(self, url: str, maximum: int, target_latency: float | None) -> None:
        self.url = url
        self.in_flight: int = 0
        self.heard: dict[asyncio.Timeout, float] = {}
        """The limits of the attempts in flight, with the time when something last came of each, or it was sent."""
        self.window: float = float(min(INITIAL, maximum))
        self.paused_until: float = 0.0
        self.failures: int = 0
        """Attempts in a row that it failed."""
        self.down = ""
        """Why it is set aside, as its own health tells; empty while it is not."""
        self.trusted_until: float = 0.0
        """Until when its failures are taken for the requests' own: it has just said that it works."""
        self.quiet_since: float = 0.0
        """When it was last heard of, or was first given work since."""
        self.maximum = maximum
        self._target_latency = target_latency
        self._slow_start = True
        self._no_cut_before = 0.0
        self._throttled_at = 0.0
        self.throttles: int = 0
        """Pauses that it asked for since it last served."""
        self.on_trial: bool = False
        """Whether the one request after a pause is on its way."""

    def has_room(self, now: float) -> bool:
        """Whether one more request may be sent; one that asked for a pause then gets them one by one, until it serves
        the first."""
        if self.down or now < self.paused_until:
            return False
        if self.failures >= SUSPECT and now >= self.trusted_until:
            return self.in_flight < 1
        return not self.on_trial if self.throttles else self.in_flight < self.window

    def admit(self, now: float) -> None:
        """Count a request that is sent now."""
        if not self.in_flight:
            self.quiet_since = now
        self.in_flight += 1
        self.on_trial = self.throttles > 0

    @property
    def load(self) -> float:
        """Share of the window in use."""
        return self.in_flight / self.window

    def observe(self, outcome: AttemptOutcome, latency: float, retry_after: float | None, now: float) -> None:
        """Learn from an attempt that has just ended; `in_flight` still counts it."""
        news = now - latency >= self._throttled_at  # what was sent before a pause was asked for says nothing about it
        if news:
            self.on_trial = False
        if outcome in (AttemptOutcome.SERVED, AttemptOutcome.REFUSED):
            self.failures, self.quiet_since = 0, now
            if news:
                self.throttles, self.paused_until = 0, 0.0
        if outcome is AttemptOutcome.SERVED:
            if self._target_latency is not None and latency > self._target_latency:
                self._cut(latency, now)
            elif self.in_flight >= self.window - 1:  # grow only a window that is used
                self.window = min(self.maximum, self.window + (1 if self._slow_start else 1 / self.window))
        elif outcome is AttemptOutcome.FAILED:
            self.failures += 1
        elif outcome is AttemptOutcome.CONGESTED:
            self._cut(latency, now)
            if retry_after is not None and news:  # the first pauses are short: one client's 429 is not everyone's
                self.paused_until = now + min(retry_after, 2.0**self.throttles, LONGEST_WAIT)
                self._throttled_at = now
                self.throttles = min(self.throttles + 1, 10)

    def _cut(self, latency: float, now: float) -> None:
        if now >= self._no_cut_before:
            self.window = max(1.0, self.window / 2)
            self._slow_start = False
            self._no_cut_before = now + max(latency, 0.1)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One who waits for a replica with room."""

    turn: asyncio.Future[Replica]
    preferred: int
    avoid: Sequence[str]
    since: float


class Pool:
    """Replicas of one model, with one queue in order of arrival."""

    def __init__(self, urls: tuple[str, ...], maximum: int, target_latency: float | None = None) -> None:
        self.replicas: list[Replica] = [Replica(url, maximum, target_latency) for url in urls]
        self.failed: int = 0
        """Attempts that failed so far."""
        self.failure: str = ""
        """What the last of them met."""
        self.failed_at: float = 0.0
        self.served_at: float = 0.0
        """When a replica last gave an answer, even an error about the request."""
        self.well_at: float = 0.0
        """When a replica that was examined last said that it works."""
        self.silent_since: float | None = None
        """Since when attempts have only failed, or replicas given no sign of life; None: they serve."""
        self.asked_to_wait: float = 0.0
        """The longest pause that was asked for in this silence, at most `LONGEST_WAIT`."""
        self._lacking = set[str]()
        """Replicas of which it was said that they refuse what others may answer."""
        self._waiting: deque[_Waiting] = deque()
        self._wake: asyncio.TimerHandle | None = None

    @property
    def capacity(self) -> float:
        """Requests that all replicas together may have in flight now."""
        return sum(replica.window for replica in self.replicas)

    @property
    def down(self) -> bool:
        """Whether every replica is set aside."""
        return all(replica.down for replica in self.replicas)

    @property
    def full(self) -> bool:
        """Whether no replica may be sent one more request now."""
        now = asyncio.get_running_loop().time()
        return not any(replica.has_room(now) for replica in self.replicas)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether any request is in flight or waits for its turn."""
        return bool(self._waiting) or any(replica.in_flight for replica in self.replicas)

    async def acquire(self, affinity: int, avoid: Sequence[str] = ()) -> Replica:
        """A replica with room: unless it is overloaded, the same for the same `affinity`, as its prefix cache is warm.

        Replicas at the URLs to `avoid`, where the request has failed, are taken only if no other has room, first those
        where it has failed less often.
        Every `acquire` and every `take` must be followed by `release`.
        """
        loop = asyncio.get_running_loop()
        preferred, now = affinity % len(self.replicas), loop.time()
        self._begin(now)
        if not self._waiting and (replica := self._pick(preferred, avoid, now)):
            replica.admit(now)
            return replica
        turn: asyncio.Future[Replica] = loop.create_future()
        self._waiting.append(_Waiting(turn, preferred, avoid, now))
        self.dispatch()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # room came at the very moment of the cancellation
                self.release(turn.result(), AttemptOutcome.ABANDONED, 0.0)
            raise

    def take(self, affinity: int, avoid: Sequence[str] = ()) -> Replica:
        """`acquire` for callers with limits of their own: it ignores windows, pauses and the queue.

        Raises `Throttled`, which says why, while every replica is set aside.
        """
        now = asyncio.get_running_loop().time()
        self._begin(now)
        up = [replica for replica in self.replicas if not replica.down]
        if not up:
            raise self.unavailable()
        replica = self._choose(affinity % len(self.replicas), avoid, up, lambda replica: replica.in_flight)
        replica.admit(now)
        return replica

    def unavailable(self) -> Throttled:
        """The error for those who do not wait until a replica works."""
        words = f"no server of this model works: {self.ailments}"
        return Throttled(words, status=503, body=without_addresses(words), retry_after=5)

    def release(
        self,
        replica: Replica,
        outcome: AttemptOutcome,
        latency: float,
        retry_after: float | None = None,
        failure: str = "",
    ) -> None:
        """End an attempt that took `latency` seconds and met `failure`; the server asked for a pause of `retry_after`
        seconds."""
        self.learn(replica, outcome, latency, retry_after, failure)
        replica.in_flight -= 1
        self.dispatch()

    def learn(
        self, replica: Replica, outcome: AttemptOutcome, latency: float, retry_after: float | None, failure: str
    ) -> None:
        """What `release` learns from an attempt."""
        now = asyncio.get_running_loop().time()
        replica.observe(outcome, latency, retry_after, now)
        if outcome in (AttemptOutcome.SERVED, AttemptOutcome.REFUSED):
            self.served_at, self.silent_since, self.asked_to_wait = now, None, 0.0
        elif outcome is not AttemptOutcome.ABANDONED:
            self.failed += 1
            self.failed_at, self.failure = now, failure
            if self.silent_since is None:
                self.silent_since = max(self.served_at, self.well_at, now - latency)
            self.asked_to_wait = max(self.asked_to_wait, min(retry_after or 0.0, LONGEST_WAIT))

    def _begin(self, now: float) -> None:
        if not self.busy and now - self.failed_at > 2 * LONGEST_WAIT:  # after a rest, nothing is known to be silent
            self.silent_since = None

    def others_may(self, error: EndpointError, tried: Sequence[str]) -> bool:
        """Whether a replica that has not been `tried` may answer what brought `error` at another."""
        lacking = error.status in LACKING and not isinstance(error, QuotaSpent)
        left = {replica.url for replica in self.replicas if not replica.down} - {*tried, error.server}
        if error.server is None or error.final or not left or not (lacking or isinstance(error, TransientError)):
            return False
        if lacking and error.server not in self._lacking:
            self._lacking.add(error.server)
            log.warning("another server of the model is asked instead: %s", error)
        return True

    @property
    def ailments(self) -> str:
        """What is known to be wrong: of each replica that is set aside, else of the last attempt that failed."""
        return "; ".join(dict.fromkeys(r.down for r in self.replicas if r.down)) or self.failure or "no answer"

    def fail_waiting(self, error: Callable[[], EndpointError], before: float = float("inf")) -> None:
        """Raise an `error()` in all that wait for their turn since `before`."""
        for one in [one for one in self._waiting if one.since <= before]:
            if not one.turn.done():
                one.turn.set_exception(error())
            self._waiting.remove(one)

    def _pick(self, preferred: int, avoid: Sequence[str], now: float) -> Replica | None:
        if len(self.replicas) == 1:
            return self.replicas[0] if self.replicas[0].has_room(now) else None
        free = [replica for replica in self.replicas if replica.has_room(now)]
        return self._choose(preferred, avoid, free, lambda replica: replica.load) if free else None

    def _choose(
        self, preferred: int, avoid: Sequence[str], candidates: list[Replica], load: Callable[[Replica], float]
    ) -> Replica:
        fewest = min(avoid.count(replica.url) for replica in candidates)
        candidates = [replica for replica in candidates if avoid.count(replica.url) == fewest]
        least, home = min(candidates, key=load), self.replicas[preferred]
        return home if home in candidates and home.in_flight < 2 * least.in_flight + SLACK else least

    def dispatch(self) -> None:
        """Give those who wait their turn, as far as there is room."""
        if not self._waiting:
            return
        now = asyncio.get_running_loop().time()
        while self._waiting:
            one = self._waiting[0]
            if not one.turn.done():
                replica = self._pick(one.preferred, one.avoid, now)
                if replica is None:
                    self._wake_when_resumed()
                    return
                replica.admit(now)
                one.turn.set_result(replica)
            self._waiting.popleft()

    def _wake_when_resumed(self) -> None:
        """Dispatch again when the first pause ends."""
        loop = asyncio.get_running_loop()
        paused = [r.paused_until for r in self.replicas if r.paused_until > loop.time() and not r.down]
        if self._wake is not None:
            self._wake.cancel()
        self._wake = loop.call_at(min(paused), self.dispatch) if paused else None
