"""Who may come in: bearer keys kept as hashes, what each may spend in a day, how often and how much at once."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from tts.gateway.errors import Refused
from tts.gateway.settings import Key
from tts.types import Budget

DAY = 86_400.0


def new_key() -> tuple[str, str]:
    """A new key with 256 random bits, and the hash that the configuration has of it."""
    key = f"tts-{secrets.token_urlsafe(32)}"
    return key, hashed(key)


def hashed(key: str) -> str:
    """The hash of a key. Keys are random and long, so that one round of SHA-256 gives nothing away."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(eq=False)
class Client:
    """One key at work: what it has spent today, and what it has going."""

    name: str
    key: Key | None = None
    """None: nobody asks for keys here."""
    running: int = 0
    tokens: float = 0.0
    money: float = 0.0
    day: int = 0
    _allowance: float = field(default=0.0, init=False)
    _filled: float = field(default=0.0, init=False)

    def may_use(self, model: str) -> bool:
        """Whether the model, or the preset, is open to it."""
        return self.key is None or self.key.models is None or model in self.key.models

    @contextmanager
    def request(self, now: float | None = None) -> Iterator[None]:
        """One request of this client. Raises `Refused` (429) when it has no room for it."""
        now = time.time() if now is None else now
        if self.key is not None:
            self._check_day(self.key, now)
            if self.key.running is not None and self.running >= self.key.running:
                raise Refused(429, f"this key has {self.key.running} requests at once", "concurrency", None, 1)
            self._check_rate(self.key, now)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def book(self, tokens: float, money: float, now: float | None = None) -> None:
        """Count what was spent."""
        self._turn(time.time() if now is None else now)
        self.tokens += tokens
        self.money += money

    def left(self) -> Budget:
        """What it may still spend today."""
        self._turn(time.time())
        if self.key is None:
            return Budget()
        tokens, money = self.key.tokens_per_day, self.key.money_per_day
        return Budget(
            total_tokens=None if tokens is None else max(0, int(tokens - self.tokens)),
            money=None if money is None else max(0.0, money - self.money),
        )

    def _turn(self, now: float) -> None:
        if (day := int(now // DAY)) != self.day:
            self.day, self.tokens, self.money = day, 0.0, 0.0

    def _check_day(self, key: Key, now: float) -> None:
        self._turn(now)
        over = [
            name
            for name, cap, spent in (
                ("tokens", key.tokens_per_day, self.tokens),
                ("money", key.money_per_day, self.money),
            )
            if cap is not None and spent >= cap
        ]
        if over:
            words = f"this key's {' and '.join(over)} for today are spent"
            raise Refused(429, words, "insufficient_quota", None, DAY - now % DAY)

    def _check_rate(self, key: Key, now: float) -> None:
        """A bucket that holds a minute's requests and fills evenly."""
        rate = key.requests_per_minute
        if rate is None:
            return
        elapsed = now - self._filled if self._filled else 60.0
        self._allowance, self._filled = min(float(rate), self._allowance + elapsed * rate / 60), now
        if self._allowance < 1:
            wait = (1 - self._allowance) * 60 / rate
            raise Refused(429, f"this key has {rate} requests a minute", "rate_limit_exceeded", None, wait)
        self._allowance -= 1


class Access:
    """All clients. Without keys there is one, anybody."""

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self._clients = [Client(name, key) for name, key in keys.items()]
        self._anybody = Client("anybody")

    def client(self, authorization: str | None) -> Client:
        """Whose bearer key it is. Raises `Refused` (401). How long that takes does not depend on the key."""
        if not self._clients:
            return self._anybody
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Refused(401, "a key is needed: Authorization: Bearer KEY", "missing_api_key")
        digest, found = hashed(key.strip()), None
        for client in self._clients:  # all of them, always
            assert client.key is not None
            if hmac.compare_digest(client.key.sha256, digest):
                found = client
        if found is None:
            raise Refused(401, "this key is not known here", "invalid_api_key")
        return found
