"""Whether the replicas of an endpoint live, and when to give it up.

A failed request may be the request's own fault. So before a replica is set aside it is asked for its health and its
list of models, which cost no tokens, and again until it is well. Requests that take long are no reason to give up as
long as their replica says that it lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tts.errors import EndpointError, EndpointLost, TimedOut
from tts.sampler.endpoint import Endpoint
from tts.sampler.pool import LONGEST_WAIT, SUSPECT, Pool, Replica, without_addresses

TICK = 0.25
"""Seconds between two looks at the replicas, while there is work."""
QUIET = 20.0
"""Seconds of work without an answer after which a replica is examined; work that has taken as long at a replica that
lives is taken to go on."""
PATIENCE = 10.0
"""Seconds for which an impatient request waits, for a turn or for its next attempt, while nothing is answered."""
LONGEST_PAUSE = 5.0
"""Seconds between two examinations, at most."""

Examine = Callable[[str], Awaitable[str]]
"""(base URL) -> what the replica there suffers from; empty: nothing, as far as it tells."""


class Health:
    """Watches the replicas of a pool while there is work, sets aside those that are down, and ends an outage."""

    def __init__(self, pool: Pool, endpoint: Endpoint, examine: Examine) -> None:
        self._lost_words = ""
        self.impatient = False
        """Whether a request fails while every replica is set aside, or gives no answer for `PATIENCE`, instead of
        waiting until one may be back."""
        self.working: dict[asyncio.Timeout, float] = {}
        """The limits of the attempts in flight, with the time when each was sent."""
        self._pool, self._endpoint, self._examine = pool, endpoint, examine
        self._quiet = min(QUIET, endpoint.outage_timeout / 3)
        self._next: dict[Replica, tuple[float, float]] = {}  # when to examine it, and the pause after that
        self._lost_at = self._well_at = 0.0
        self._given_up = asyncio.Event()
        self._resting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._examinations: dict[Replica, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Watch as long as there is work, or until `aclose`."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._look)

    async def aclose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._examinations.values():
            task.cancel()
        await asyncio.gather(*self._examinations.values(), return_exceptions=True)

    async def rest(self, seconds: float) -> None:
        """Sleep between two attempts of a request; the end of an outage ends it."""
        self._resting += 1
        try:
            async with asyncio.timeout(seconds):
                await self._given_up.wait()
        except TimeoutError:
            pass
        finally:
            self._resting -= 1

    def lost_since(self, began: float) -> EndpointLost | None:
        """The outage that has been given up since `began`, if there was one."""
        return self._lost() if self._lost_at >= began else None

    @property
    def lost(self) -> str:
        """Why the endpoint counts as down: it was given up and has given no sign of life since; empty: it does not."""
        return self._lost_words if self._lost_at > max(self._pool.served_at, self._well_at) else ""

    def too_long(self, began: float, until: float) -> bool:
        """Whether a request that `began` must not wait `until` then: it is impatient, and nothing else is at work."""
        if not self.impatient or self._pool.silent_since is None:
            return False
        at_work = any(until - sent >= PATIENCE / 2 for sent in self.working.values())
        return not at_work and until - max(began, self._pool.silent_since) > PATIENCE

    @property
    def closed(self) -> bool:
        """Whether a request must not even wait for a turn."""
        if not self.impatient:
            return False
        return self._pool.down or (self._pool.full and self.too_long(0.0, asyncio.get_running_loop().time()))

    def leave_out(self, words: str) -> None:
        """Take the endpoint for down, for what `words` say, until it is found well."""
        self._lost_words, self._lost_at = words, asyncio.get_running_loop().time()
        for replica in self._pool.replicas:
            replica.down = words
        self.start()

    def _lost(self) -> EndpointLost:
        return EndpointLost(self._lost_words, status=503, body=without_addresses(self._lost_words))

    async def outage(self) -> EndpointLost:
        """Wait until the endpoint is given up."""
        await self._given_up.wait()  # each outage has its own
        return self._lost()

    def trouble(self) -> str:
        """What is going wrong now, in words; empty where requests are answered."""
        pool, now = self._pool, asyncio.get_running_loop().time()
        if pool.silent_since is None:
            waited = now - max(pool.served_at, min(self.working.values(), default=now))
            return f"no answer for {waited:.0f} s, but signs of life: waiting" if waited >= self._quiet else ""
        silent = now - pool.silent_since
        state = "paused" if pool.down else "trying again"
        return f"no answer for {silent:.0f} s, {state}, giving up at {self._patience:.0f} s: {pool.ailments}"

    @property
    def _patience(self) -> float:
        return self._endpoint.outage_timeout + self._pool.asked_to_wait

    @property
    def _busy(self) -> bool:
        return self._pool.busy or self._resting > 0

    def examine(self) -> None:
        """Examine the replicas that seem to be down."""
        for replica in filter(self._is_due, self._pool.replicas):
            self._examinations[replica] = asyncio.create_task(self._look_at(replica))

    def _look(self) -> None:
        loop, pool = asyncio.get_running_loop(), self._pool
        self._timer = None
        self.examine()
        now, longest = loop.time(), self._endpoint.total_timeout
        if self._is_hopeless(now):
            self._give_up(now)
        if now - pool.served_at >= longest:
            pool.fail_waiting(self._too_late, before=now - longest)
        if self.too_long(0.0, now):
            pool.fail_waiting(pool.unavailable, before=now - PATIENCE)
        if self._busy or any(replica.down for replica in pool.replicas):
            self.start()

    def _is_due(self, replica: Replica) -> bool:
        now = asyncio.get_running_loop().time()
        if (task := self._examinations.get(replica)) and not task.done():
            return False
        due, _ = self._next.get(replica, (0.0, 0.0))
        quiet = replica.in_flight > 0 and now - replica.quiet_since >= self._quiet
        return now >= due and (bool(replica.down) or replica.failures >= SUSPECT or quiet)

    async def _look_at(self, replica: Replica) -> None:
        loop, pool = asyncio.get_running_loop(), self._pool
        ailment = await self._examine(replica.url)
        pause = min(LONGEST_PAUSE, max(TICK, 2 * self._next.get(replica, (0.0, 0.0))[1]))
        self._next[replica] = (loop.time() + pause, pause)
        if ailment:
            if replica.down and not all(one.down for one in pool.replicas):
                self._move(replica)
            replica.down = ailment
            if pool.silent_since is None:
                pool.silent_since = max(pool.served_at, pool.well_at, replica.quiet_since)
            return
        pool.well_at = loop.time()
        replica.failures, replica.trusted_until = 0, pool.well_at + pause
        if replica.down:
            replica.down, replica.quiet_since = "", loop.time()
            self._well_at = loop.time()
            del self._next[replica]
        pool.dispatch()

    def _move(self, replica: Replica) -> None:
        """End the attempts that wait for a replica which is found down again; others have all their time for them."""
        now = asyncio.get_running_loop().time()
        waiting = [one for one, heard in replica.heard.items() if now - heard >= self._quiet and not one.expired()]
        for limit in waiting:
            limit.reschedule(now)
            self._pool.well_at, self._pool.silent_since = now, None

    def _is_hopeless(self, now: float) -> bool:
        pool = self._pool
        if pool.silent_since is None or not self._busy or now - pool.silent_since < self._patience:
            return False
        if pool.down:
            return True
        at_work = any(now - sent >= self._quiet for sent in self.working.values())
        return not at_work and now - pool.failed_at <= 2 * LONGEST_WAIT

    def _give_up(self, now: float) -> None:
        pool, endpoint = self._pool, self._endpoint
        assert pool.silent_since is not None
        silent = now - pool.silent_since
        where = " or ".join(endpoint.urls)
        self._lost_words = f"no answer from {where} for {silent:.0f} s (outage_timeout): {pool.ailments}"
        self._lost_at, pool.silent_since, pool.asked_to_wait = now, None, 0.0
        self._given_up.set()
        self._given_up = asyncio.Event()
        pool.fail_waiting(self._lost)
        for limit in self.working:
            if not limit.expired():
                limit.reschedule(now)

    def _too_late(self) -> EndpointError:
        return TimedOut(
            f"no turn within {self._endpoint.total_timeout:g} s (total_timeout), in which no request was answered: "
            f"{self._pool.ailments}"
        )
