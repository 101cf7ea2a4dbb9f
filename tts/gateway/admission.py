"""Who may come in (bearer keys, stored as hashes), what each may spend and run, and how much is worked on at once."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Self
from urllib.parse import urlsplit

from starlette.types import Scope

from tts.accounts import Quota
from tts.concurrency import LARGE
from tts.gateway.exchange import APIError
from tts.gateway.quotas import DAY, DailyQuota, QuotaFile
from tts.gateway.settings import GatewaySettings, Key
from tts.text import counted


def new_key() -> tuple[str, str]:
    """A new key with 256 random bits, and its hash for the configuration."""
    key = f"tts-{secrets.token_urlsafe(32)}"
    return key, hashed(key)


def hashed(key: str) -> str:
    """The hash of a key. Keys are random and long, so one round of SHA-256 is safe."""
    return hashlib.sha256(key.encode()).hexdigest()


UNLIMITED = Key(sha256="0" * 64)


@dataclass(eq=False)
class Caller:
    """The holder of one key: what it may spend and has running."""

    name: str
    key: Key = UNLIMITED
    quota: Quota | None = field(default=None, init=False)
    """What it may spend a day; None: anything."""
    running: int = 0
    _allowance: float = field(default=0.0, init=False)
    _filled: float = field(default=0.0, init=False)

    @property
    def tokens(self) -> float:
        """What it has spent today, where its key has caps."""
        return self.quota.spent[0] if self.quota else 0.0

    @property
    def money(self) -> float:
        """What that cost."""
        return self.quota.spent[1] if self.quota else 0.0

    def take(self, key: Key) -> None:
        """Go by the caps of `key` from now on."""
        self.key, caps = key, (key.tokens_per_day, key.money_per_day)
        if self.quota is not None:
            self.quota.cap(*caps)
        elif any(cap is not None for cap in caps):
            self.quota = self._new_quota(*caps)

    def _new_quota(self, tokens: float | None, money: float | None) -> Quota:
        return DailyQuota(self.name, tokens, money)

    def may_use(self, model: str) -> bool:
        """Whether it may use the model or preset."""
        return self.key.models is None or model in self.key.models

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """One request of this caller, which `enter` lets in."""
        await self.enter()
        try:
            yield
        finally:
            self.leave()

    async def enter(self) -> None:
        """Count a request. Raises `APIError` (429) when its quota, concurrency or rate is used up."""
        now = time.time()
        self._check_quota(now)
        if self.key.running is not None and self.running >= self.key.running:
            raise too_many(self.key)
        self._check_rate(now)
        self.running += 1

    def leave(self) -> None:
        """Count its end."""
        self.running -= 1

    def _check_quota(self, now: float) -> None:
        if self.quota is not None and (over := self.quota.used_up):
            raise quota_spent(f"this key has used up its {' and '.join(over)} for today", now)

    def _check_rate(self, now: float) -> None:
        """A bucket that holds a minute's requests and fills evenly."""
        rate = self.key.requests_per_minute
        if rate is None:
            return
        elapsed = now - self._filled if self._filled else 60.0
        self._allowance, self._filled = min(float(rate), self._allowance + elapsed * rate / 60), now
        if self._allowance < 1:
            raise too_fast(self.key, (1 - self._allowance) * 60 / rate)
        self._allowance -= 1


class Keyring:
    """The holders of keys, and the file that keeps what they spend, if any is capped. An async context manager."""

    def __init__(self, settings: GatewaySettings) -> None:
        """Raises `ConfigError` where the file cannot be used."""
        self.known: dict[str, Caller] = {}
        """All that there ever were: their requests may go on."""
        self._file: QuotaFile | None = None
        self._stack = AsyncExitStack()
        self._take(settings)

    async def __aenter__(self) -> Self:
        if self._file is not None:
            await self._stack.enter_async_context(self._file)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def reload(self, settings: GatewaySettings) -> None:
        """Go by the keys of `settings` from now on; who stays has spent what he has spent."""
        before = self._file
        self._take(settings)
        if self._file is not before and self._file is not None:
            await self._stack.enter_async_context(self._file)

    def _take(self, settings: GatewaySettings) -> None:
        for name, key in settings.keys.items():
            self.known.setdefault(name, Caller(name)).take(key)
        self.callers: list[Caller] = [self.known[name] for name in settings.keys]
        capped = [caller.quota for caller in self.callers if isinstance(caller.quota, DailyQuota)]
        if self._file is None and capped and settings.quotas is not None:
            self._file = QuotaFile(settings.quotas)
        if self._file is not None:
            for quota in capped:
                self._file.resume(quota)


def too_many(key: Key) -> APIError:
    """The error for a key with as many requests at once as it may have."""
    return APIError(429, f"this key already has {counted(key.running or 0, 'request')} running", "concurrency", None, 1)


def too_fast(key: Key, wait: float) -> APIError:
    """The error for a key whose next request may come in `wait` seconds."""
    message = f"this key is limited to {counted(key.requests_per_minute or 0, 'request')} a minute"
    return APIError(429, message, "rate_limit_exceeded", None, wait)


def quota_spent(message: str, now: float) -> APIError:
    """The error for a key whose day is used up."""
    return APIError(429, message, "insufficient_quota", None, DAY - now % DAY)


def identify(callers: Sequence[Caller], authorization: str | None, api_key: str | None = None) -> Caller:
    """The holder of a bearer key, or of one in `x-api-key`, as Anthropic's clients send it; anybody where there are no
    keys. The time that it takes does not depend on the key.

    Raises `APIError` (401).
    """
    if not callers:
        return Caller("anybody")
    scheme, _, bearer = (authorization or "").partition(" ")
    given = [key.strip() for key in (bearer if scheme.lower() == "bearer" else "", api_key or "") if key.strip()]
    if not given:
        raise APIError(401, "an API key is required: Authorization: Bearer KEY, or x-api-key: KEY", "missing_api_key")
    digests = [hashed(key) for key in given]
    # asks all, always
    found = [caller for caller in callers for digest in digests if hmac.compare_digest(caller.key.sha256, digest)]
    if not found:
        raise APIError(401, "unknown API key", "invalid_api_key")
    return found[0]


def check_page(scope: Scope, hosts: Collection[str], origins: Collection[str] = ()) -> None:
    """Refuse what a web page sends, through its reader's browser, to a gateway on the loopback.

    Without keys, being on this machine is all that lets a client in, and a browser is on it. A page of elsewhere must
    not post here (its `Origin`, or a content type that needs no permission), nor read by having its own name resolved
    to this machine (`Host`). `hosts` are further names that are good, `origins` pages. Raises `APIError` (403, 415).
    """
    server = scope.get("server")
    if not server or not _is_loopback(server[0]):
        return
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    host, origin, content = (headers.get(name, "") for name in (b"host", b"origin", b"content-type"))
    _, name = _site(f"//{host}")
    if "." in name and not (_is_address(name) or _is_loopback(name) or name in hosts):
        raise APIError(403, f"this gateway does not answer as {name[:200]}; it has no keys", "host_refused")
    if origin and origin not in origins:
        scheme, page = _site(origin)
        if scheme not in ("http", "https") or not (_is_loopback(page) or page in hosts):
            message = f"pages of {origin[:200]} may not use this gateway, which has no keys"
            raise APIError(403, message, "origin_refused")
    if scope["method"] == "POST" and content and content.partition(";")[0].strip().lower() != "application/json":
        raise APIError(415, "send JSON, with content-type: application/json", "unsupported_media_type")


def _site(url: str) -> tuple[str, str]:
    """The scheme and the host of a URL; of what is none, a host that is nobody's."""
    try:
        site = urlsplit(url)
        return site.scheme, site.hostname or ""
    except ValueError:
        return "", "."


@functools.lru_cache
def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


@functools.lru_cache
def _is_loopback(host: str) -> bool:
    return ip_address(host).is_loopback if _is_address(host) else host == "localhost" or host.endswith(".localhost")


class BodyRoom:
    """The memory for large request bodies. Small ones need none of it, so that who sends large ones keeps out only
    others who do."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        """Bytes, by the callers' names."""

    @asynccontextmanager
    async def body(self, caller: str, most: int) -> AsyncIterator[Callable[[int], None]]:
        """Room for one body of a `caller`: to be called with its size as it arrives, and free again at the end.

        That raises `APIError` (429) when all together would take more than `most` bytes, or this caller more than half.
        """
        own = 0

        def grow(size: int) -> None:
            nonlocal own
            more = size - own if size > LARGE else 0
            if self.taken.total() + more > most or self.taken[caller] + more > most / 2:
                raise APIError(429, "too many large requests are in progress; try again later", "overloaded", None, 1)
            self.taken[caller] += more
            own += more

        try:
            yield grow
        finally:
            self.taken -= Counter({caller: own})


class Gate:
    """Lets `running` requests in, keeps up to `queue` more waiting in order, and refuses the rest at once."""

    def __init__(self, running: int, queue: int) -> None:
        self.running: int = 0
        self._most, self._queue = running, queue
        self._waiting = deque[asyncio.Future[None]]()
        self._seconds = 1.0  # that a request takes, averaged
        self._inside = set[asyncio.Task[object]]()
        self._closed: APIError | None = None

    def close(self, error: APIError | None) -> None:
        """End all requests with `error`, and let none in; None: let them in again."""
        self._closed = error
        for task in self._inside if error is not None else ():
            task.cancel()

    @property
    def queued(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def resize(self, running: int, queue: int) -> None:
        """Let so many in from now on; who is in stays."""
        self._most, self._queue = running, queue
        self._admit()

    def check(self) -> None:
        """Raise `APIError` when it is closed, or (429) when there is no room, not even to wait."""
        if self._closed is not None:
            raise replace(self._closed)
        if self.running >= self._most and self.queued >= self._queue:
            wait = self._seconds * (1 + self.queued / self._most)
            raise APIError(429, "too many requests are waiting already; try again later", "overloaded", None, wait)

    @asynccontextmanager
    async def room(self, seconds: float | None = None) -> AsyncIterator[None]:
        """A place to work in, in order of arrival, within `seconds` (504). Raises as `check` does."""
        self.check()
        turn, task = asyncio.get_running_loop().create_future(), asyncio.current_task()
        assert task is not None
        self._waiting.append(turn)
        self._admit()
        began: float | None = None
        try:
            try:
                async with asyncio.timeout(seconds):
                    await turn
            except TimeoutError:
                raise APIError(504, "no place was free before the deadline", "deadline") from None
            if self._closed is not None:
                raise replace(self._closed)
            began = time.monotonic()
            self._inside.add(task)
            yield
        except asyncio.CancelledError:
            if task not in self._inside or self._closed is None or task.uncancel():
                raise
            raise replace(self._closed) from None
        finally:
            self._inside.discard(task)
            if began is not None:
                self._seconds += (time.monotonic() - began - self._seconds) / 20
            if turn.done() and not turn.cancelled():
                self.running -= 1
                self._admit()
            elif turn in self._waiting:
                self._waiting.remove(turn)

    def _admit(self) -> None:
        while self._waiting and self.running < self._most:
            turn = self._waiting.popleft()
            if not turn.done():  # else whoever waited was cancelled a moment ago
                turn.set_result(None)
                self.running += 1
