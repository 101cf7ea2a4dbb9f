"""Limits that gateways of several machines share, kept in Redis: what keys spend and run, and what model servers take.

Redis has a record of each key and of each model server: what is spent, and what each gateway holds. A gateway tells
what it holds, not by how much that has changed, so that a message which is lost or repeated does no harm. What it holds
is its own until it has said nothing for `LEASE` seconds. One that has had no answer for `FENCE` ends its requests,
before anybody else is given what they use.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from time import time
from typing import Any, Self
from uuid import uuid4

from tts.accounts import Grant, Quota
from tts.errors import ConfigError, MissingExtra, log
from tts.gateway.admission import Caller, too_fast, too_many
from tts.gateway.exchange import APIError
from tts.gateway.quotas import DAY
from tts.gateway.settings import GatewaySettings, Key
from tts.sampler import Endpoint
from tts.sampler.shares import Governor

LEASE = 15.0
"""Seconds after which what a silent gateway holds is free for others."""
FENCE = 10.0
"""Seconds without an answer after which a gateway ends its requests; the rest of the lease is for that."""
PATIENCE = 2.0
"""Seconds in which Redis has to answer."""
PULSE = 0.25
"""Seconds between two looks at the shares of model servers; keys that something is reserved of are told as often."""
PREFIX = "tts:gateway:"
UNLIMITED = 1e300

SETTLE = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6
local day, me, said = math.floor(now / 86400), ARGV[1], cjson.decode(ARGV[2])
local key = cjson.decode(redis.call('GET', KEYS[1]) or '{"day":0,"spent":[0,0],"left":0,"filled":0,"by":{}}')
if key.day ~= day then key.day, key.spent = day, {0, 0} end
for name, one in pairs(key.by) do
    if one.till < now then key.by[name] = nil end
end
local mine, held, refused, wait = key.by[me], {0, 0, 0, 0}, '', 0
if mine and mine.number > said.number then return end  -- overtaken on its way
for kind = 1, 2 do  -- where this record was lost, gateways still know
    if said.day == day then key.spent[kind] = math.max(key.spent[kind], said.seen[kind]) end
    key.spent[kind] = key.spent[kind] + said.spent[kind] - (mine or {spent = said.told}).spent[kind]
end
for name, one in pairs(key.by) do
    for kind = 1, 4 do
        if name ~= me then held[kind] = held[kind] + one.held[kind] end
    end
end
for kind = 1, 4 do
    held[kind] = held[kind] + said.held[kind]
    local spent = kind < 3 and key.spent[kind] or 0
    if said.more[kind] > 0 and held[kind] + said.more[kind] + spent > said.caps[kind] * (1 + 1e-9) then
        refused = kind == 4 and 'running' or 'room'
    end
end
if refused == '' and said.more[4] > 0 and said.rate > 0 then
    local left = math.min(said.rate, key.left + (now - key.filled) * said.rate / 60)
    key.filled = now
    if left < 1 then refused, wait = 'rate', (1 - left) * 60 / said.rate else left = left - 1 end
    key.left = left
end
for kind = 1, 4 do
    if refused == '' then
        said.held[kind], held[kind] = said.held[kind] + said.more[kind], held[kind] + said.more[kind]
    end
end
key.by[me] = {held = said.held, spent = said.spent, number = said.number, till = now + said.lease}
redis.call('SET', KEYS[1], cjson.encode(key), 'EX', 172800)
return cjson.encode({day = day, spent = key.spent, held = held, refused = refused, wait = wait})
"""
"""Take down what a gateway holds and has spent of a key, and give it more if there is room. The four kinds are tokens,
money, samples and requests."""

SHARE = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6
local me, said = ARGV[1], cjson.decode(ARGV[2])
local server = cjson.decode(redis.call('GET', KEYS[1]) or '{}')
local held, wanted, count = 0, said.wanted, 1
for name, one in pairs(server) do
    if one.till < now then
        server[name] = nil
    elseif name ~= me then
        held, wanted, count = held + one.held, wanted + one.wanted, count + 1
    end
end
if server[me] and server[me].number > said.number then return end
local share = said.wanted + math.floor(math.max(0, said.limit - wanted) / count)
if wanted > said.limit then
    local others = 0
    for name, one in pairs(server) do
        if name ~= me then others = others + math.min(one.wanted, math.floor(said.limit / count)) end
    end
    share = math.min(share, said.limit - others)
end
share = math.max(0, math.min(share, said.limit - held))
server[me] = {held = math.max(share, said.held), wanted = said.wanted, number = said.number, till = now + said.lease}
redis.call('SET', KEYS[1], cjson.encode(server), 'EX', 172800)
return share
"""
"""Take down what a gateway has in flight and wants at a model server, and say how much it may have from now on: what it
wants and its part of what nobody does, or, where all want too much, no less than any other."""


def unavailable() -> APIError:
    """The error for requests whose limits cannot be checked."""
    message = "limits cannot be checked now: the server that keeps them does not answer"
    return APIError(503, message, "limits_unavailable", None, 1)


async def all_of(works: Iterable[Awaitable[None]]) -> None:
    """Do all, and raise the first error when all have ended."""
    for done in await asyncio.gather(*works, return_exceptions=True):
        if done is not None:
            raise done


class MachineLimits:
    """This gateway's part. An async context manager."""

    def __init__(
        self, settings: GatewaySettings, freed: Callable[[str], None], close: Callable[[APIError | None], None]
    ) -> None:
        """`freed` is told the name of a key of which something is free again; `close` with what error requests must
        end, and None when they may come again."""
        assert settings.redis is not None
        try:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
            from redis.exceptions import RedisError
        except ImportError:
            raise MissingExtra("redis", "redis = URL") from None
        self._errors = (RedisError, OSError, TimeoutError)
        try:
            self._redis = Redis.from_url(settings.redis.get_secret_value(), retry=Retry(NoBackoff(), 0))
        except ValueError as error:
            raise ConfigError(f"redis: {error}; write redis://HOST:PORT/0") from None
        self._settle, self._share = self._redis.register_script(SETTLE), self._redis.register_script(SHARE)
        self.known: dict[str, MachineCaller] = {}
        """All that there ever were: their requests may go on."""
        self._servers: list[tuple[str, str, Governor, int, int]] = []
        self._take(settings)
        self.freed: Callable[[str], None] = freed
        self._close = close
        self._me, self._dirty = uuid4().hex, asyncio.Event()
        self._number, self._answered, self._failing, self._fenced = 0, 0.0, False, False

    def _take(self, settings: GatewaySettings) -> None:
        for name, key in settings.keys.items():
            self.known.setdefault(name, MachineCaller(name, self)).take(key)

    async def reload(self, settings: GatewaySettings) -> None:
        """Go by the keys of `settings` from now on."""
        self._take(settings)

    def serve(self, place: int, endpoint: Endpoint, governor: Governor) -> None:
        """Share what the servers of an endpoint take; `governor` shares this gateway's part among its workers."""
        for number, url in enumerate(endpoint.urls):
            governor.ceilings[number] = 0
            record = f"{PREFIX}server:{url} {endpoint.model}"
            self._servers.append((record, f"{place}", governor, number, endpoint.max_concurrency))

    async def __aenter__(self) -> Self:
        try:
            await self._round()
        except APIError as error:
            await self._redis.aclose()
            raise ConfigError(f"redis: no answer ({error.__cause__}); is it running, and can it be reached?") from error
        self._tasks = [asyncio.create_task(work) for work in (self._live(), self._watch())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._tell(lambda limits: limits.dirty)
            await all_of(self._take_share(*server[:-1], 0) for server in self._servers)
        except APIError:
            log.error("what keys spent last could not be told to Redis")
        await self._redis.aclose()

    def check(self) -> None:
        """Raise `APIError` (503) while it is known that Redis does not answer."""
        if self._failing:
            raise unavailable()

    def tell_soon(self) -> None:
        self._dirty.set()

    async def settle(self, record: str, said: dict[str, Any]) -> dict[str, Any]:
        """What `SETTLE` says of a key. Raises `APIError` (503) without an answer."""
        return json.loads(await self._ask(self._settle, record, self._me, said))

    async def _ask(self, script: Any, record: str, me: str, said: dict[str, Any]) -> Any:
        self._number += 1
        said |= {"number": self._number, "lease": LEASE}
        call = asyncio.ensure_future(script(keys=[record], args=[me, json.dumps(said)]))
        call.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:  # in a task of its own: the client may lose the cancellation of a call that ends at the same moment
            await asyncio.wait({call}, timeout=PATIENCE)
            if not call.done():
                raise TimeoutError
            return call.result()
        except self._errors as error:
            if not self._failing:
                self._failing = True
                log.error("Redis does not answer (%s); requests that it limits are refused", error or "too slow")
            raise unavailable() from error
        finally:
            call.cancel()

    async def _live(self) -> None:
        """Tell what changes, and renew the leases of what is held, for ever."""
        loop = asyncio.get_running_loop()
        due = 0.0
        while True:
            try:
                async with asyncio.timeout_at(due):
                    await self._dirty.wait()
            except TimeoutError:
                pass
            self._dirty.clear()
            try:
                if loop.time() < due and not self._failing:
                    await self._tell(lambda limits: limits.dirty)
                else:
                    due = loop.time() + PULSE
                    await self._round()
            except APIError:
                await asyncio.sleep(PULSE)

    async def _round(self) -> None:
        began = asyncio.get_running_loop().time()
        await all_of(self._take_share(*server) for server in self._servers)
        self._failing = False
        await self._tell(lambda limits: limits.dirty or limits.reserved.samples or limits.held[3])
        self._answered = began
        if self._fenced:
            log.warning("Redis answers again")
            self._fenced = False
            self._close(None)

    async def _tell(self, which: Callable[[MachineQuota], Any]) -> None:
        await all_of(caller.limits.tell() for caller in self.known.values() if which(caller.limits))

    async def _take_share(self, record: str, place: str, governor: Governor, number: int, limit: int) -> None:
        held, wanted = governor.load(number) if limit else (0, 0)  # with none it goes
        said = {"limit": limit, "held": held, "wanted": wanted}
        share = int(await self._ask(self._share, record, f"{self._me}:{place}", said))
        governor.take_ceiling(number, share)

    async def _watch(self) -> None:
        """End all requests when what they use may soon be given to others."""
        while True:
            await asyncio.sleep(PULSE)
            if not self._fenced and asyncio.get_running_loop().time() - self._answered > FENCE:
                self._fenced = True
                self._close(unavailable())


class MachineQuota(Quota):
    """What one key has spent and holds on all machines, as this gateway last heard, and what of it is its own."""

    def __init__(self, name: str, limits: MachineLimits) -> None:
        super().__init__(None, None)
        self._name, self._limits, self._lock = name, limits, asyncio.Lock()
        self.held: list[float] = [0.0] * 4
        self._mine, self._told = [0.0, 0.0], [0.0, 0.0]
        """Held here by kind; spent here since the start; and of that, what Redis knows."""
        self._day, self._begun = 0, 0
        self.dirty: bool = False
        """Whether anything has changed that Redis does not know."""

    def take(self, key: Key) -> None:
        """Go by the limits of `key` from now on."""
        self.cap(key.tokens_per_day, key.money_per_day)
        caps = (key.tokens_per_day, key.money_per_day, None, key.running)
        self._most = [UNLIMITED if cap is None else cap for cap in caps]
        self._rate, self._record = key.requests_per_minute or 0, f"{PREFIX}key:{key.sha256}"

    @property
    def used_up(self) -> list[str]:
        return super().used_up if self._day == time() // DAY else []

    async def exchange(self, more: tuple[float, float, float, float] = (0, 0, 0, 0)) -> dict[str, Any]:
        """Say what is held and ask for `more` of each kind; the caller has the lock. Raises `APIError` (503)."""
        self.dirty, self._begun, mine = True, self._begun + 1, list(self._mine)
        held, sent = list(self.held), {"spent": mine, "told": self._told, "day": self._day, "seen": self.spent}
        sent |= {"held": held, "more": more, "caps": self._most, "rate": self._rate}
        told = await self._limits.settle(self._record, sent)
        if not told["refused"]:
            self.held = [one + another for one, another in zip(self.held, more, strict=True)]
            held = [one + another for one, another in zip(held, more, strict=True)]
        room, reserved = self.room, self.reserved.samples
        self._told, self._day, self.spent = mine, told["day"], tuple(told["spent"])
        tokens, money, samples, _ = told["held"]
        self.reserved = Grant(samples=round(samples), completion_tokens=tokens, money=money)
        self.dirty = (held, mine) != (self.held, self._mine)
        if self.dirty:
            self._limits.tell_soon()
        if samples < reserved or any(now > then for now, then in zip(self.room, room, strict=True)):
            self.changed.set()
            self._limits.freed(self._name)
        return told

    async def tell(self) -> None:
        """Have Redis know what is held here, though it may just have failed."""
        async with self._lock:
            await self.exchange()

    async def look(self) -> None:
        """See what others have reserved and spent: one look is enough for all that began to wait before it."""
        begun = self._begun
        async with self._lock:
            self._limits.check()
            if self._begun == begun:
                await self.exchange()

    async def hold(self, grant: Grant) -> bool:
        more = (grant.prompt_tokens + grant.completion_tokens, grant.money, grant.samples, 0)
        async with self._lock:
            self._limits.check()
            if any(need > room * (1 + 1e-9) for need, room in zip(more, self.room, strict=False)):
                return False
            return not (await self.exchange(more))["refused"]

    def release(self, grant: Grant) -> None:
        self.free(grant.prompt_tokens + grant.completion_tokens, grant.money, grant.samples, 0)

    def free(self, *amounts: float) -> None:
        """Give back so much of each kind."""
        self.held = [one - another for one, another in zip(self.held, amounts, strict=True)]
        self.dirty = True
        self._limits.tell_soon()

    def spend(self, tokens: float, money: float) -> None:
        self._mine = [self._mine[0] + tokens, self._mine[1] + money]
        self.dirty = True
        self._limits.tell_soon()

    async def enter(self) -> dict[str, Any]:
        """Ask for one more request."""
        async with self._lock:
            self._limits.check()
            return await self.exchange((0, 0, 0, 1))


class MachineCaller(Caller):
    """The holder of a key whose limits hold on all machines."""

    def __init__(self, name: str, limits: MachineLimits) -> None:
        super().__init__(name)
        self.limits: MachineQuota = MachineQuota(name, limits)

    def take(self, key: Key) -> None:
        super().take(key)
        self.limits.take(key)
        self._counted = key.requests_per_minute is not None or key.running is not None

    def _new_quota(self, tokens: float | None, money: float | None) -> Quota:
        return self.limits

    async def enter(self) -> None:
        if not self._counted:
            return
        self._check_quota(time())
        told = await self.limits.enter()
        if told["refused"] == "rate":
            raise too_fast(self.key, told["wait"])
        if told["refused"]:
            raise too_many(self.key)

    def leave(self) -> None:
        if self._counted:
            self.limits.free(0, 0, 0, 1)
