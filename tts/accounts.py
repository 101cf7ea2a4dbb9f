"""What was paid, re-used and wasted, and what the budget still allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Any

from tts.errors import BudgetSpent, EndpointError
from tts.types import Budget, Charge, Sample, Usage


@dataclass(slots=True)
class Ledger:
    """The two accounts of one session, each payment once: what was really paid, and what the search needed.

    They are equal for a search that runs alone, and differ where a store had some of its answers.
    """

    paid: set[Charge] = field(default_factory=set)
    """What servers and machines bill."""
    needed: set[Charge] = field(default_factory=set)
    """What candidates and curves are charged."""
    reused: set[Charge] = field(default_factory=set)
    """Of what was needed, what a store had."""
    wasted: dict[str, Usage] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    error: EndpointError | None = None
    """The last error that lost samples."""
    verdicts: int = 0
    """Verdicts that were asked for."""
    lost_verdicts: list[str] = field(default_factory=list)
    """Why some of them could not be had; `failures` has these too."""
    left_out: list[str] = field(default_factory=list)
    """Roles of policies whose servers are down; `failures` says why."""
    oracle_used: bool = False
    """Whether the hidden truth was looked at."""
    watchers: list[Callable[[Charge], None]] = field(default_factory=list)
    """Told of each charge that is needed, once."""

    def need(self, charge: Charge, place: tuple[int, ...] | None = None, *, reused: bool = False) -> None:
        """Book what the search is charged, at `place`; `reused` says that another search paid for it."""
        if charge not in self.needed:
            self.needed.add(Charge(charge.id, charge.role, charge.usage, charge.started, place))
            if reused and charge not in self.paid:
                self.reused.add(charge)
            for watcher in self.watchers:
                watcher(charge)

    def leave_out(self, role: str, why: str) -> None:
        """Note once that a policy is not asked, and why."""
        if role not in self.left_out:
            self.left_out.append(role)
            self.failures.append(f"{role} is left out: {why}")

    def forgive(self, charges: Iterable[Charge]) -> None:
        """Charge the search nothing for them, though they stay paid and count for its budget."""
        self.needed.difference_update(charges)
        self.reused.difference_update(charges)

    def waste(self, role: str, usage: Usage) -> None:
        """Book a request that failed or was cancelled."""
        self.wasted[role] = self.wasted.get(role, Usage()) + usage


class Tariff:
    """What a search is charged for samples of one prompt: what they would have cost it alone.

    Alone it asks for `size` of them at a time, in the order of their numbers. Each such group is charged its prompt
    once, and once more for each time that choices were missing and asked for again; each sample is charged its own
    completion. Which requests really brought them, and for whom, does not matter: samples from the store and samples
    whose neighbours were stored are charged alike. How many of the prompt's tokens the server read from its cache is
    as it said when the first of the group came.
    """

    def __init__(self, key: bytes, occurrences: Sequence[int], size: int, taken: dict[str, tuple[Any, ...]]) -> None:
        """`taken` are the requests of the search by what each was charged for."""
        self.groups: list[Sequence[int]] = [occurrences[i : i + size] for i in range(0, len(occurrences), size)]
        self._first = {occurrence: group[0] for group in self.groups for occurrence in group}
        self._key = key
        self._taken = taken
        self._prompts: dict[tuple[Any, ...], Charge] = {}

    def group(self, sample: Sample) -> int:
        """The number of the first sample of the group: its own where the server answers one choice to a request."""
        return sample.index if sample.batched is False else self._first[sample.index]

    def charges(self, sample: Sample) -> tuple[Charge, Charge]:
        """The charges that `sample` would have had."""
        place, (prompt, completion) = (self._key, self.group(sample), sample.again), sample.charges
        if place not in self._prompts:
            if self._taken.setdefault(prompt.id, place) != place:  # here it would have been another request
                prompt = replace(prompt, id=f"{prompt.id} {self._key.hex()} {place[1:]}")
            self._prompts[place] = prompt
        return self._prompts[place], completion


Price = Callable[[str, Usage], float]
"""Money for a usage under a role."""


def affordable(price: Callable[[Usage], float], money: float, prompt: int) -> float:
    """Tokens that can be written for `money` after reading those of a `prompt`; below 0 where it cannot be read."""
    spare, each = money - price(Usage(prompt_tokens=prompt)), price(Usage(completion_tokens=1))
    if each > 0:
        return spare / each
    return inf if spare >= 0 else -1.0


class Quota:
    """Tokens and money that several sessions share: what they reserve and what they spend never exceed the caps.

    Room is reserved before work begins, and given back when what it cost has been counted.
    """

    def __init__(self, tokens: float | None, money: float | None) -> None:
        """The caps; None: no cap."""
        self.cap(tokens, money)
        self.spent: tuple[float, float] = (0.0, 0.0)
        self.reserved: Grant = Grant()
        self.changed: asyncio.Event = asyncio.Event()
        """Set when room is given back."""

    def cap(self, tokens: float | None, money: float | None) -> None:
        """Go by these caps from now on."""
        self.caps: tuple[float, ...] = tuple(float("inf") if cap is None else cap for cap in (tokens, money))

    @property
    def used_up(self) -> list[str]:
        """Which of its caps are reached."""
        kinds = zip(("tokens", "money"), self.caps, self.spent, strict=True)
        return [kind for kind, cap, spent in kinds if spent >= cap]

    @property
    def room(self) -> tuple[float, float]:
        """Tokens and money that may still be reserved."""
        held = (self.reserved.prompt_tokens + self.reserved.completion_tokens, self.reserved.money)
        tokens, money = (cap - spent - one for cap, spent, one in zip(self.caps, self.spent, held, strict=True))
        return tokens, money

    async def look(self) -> None:
        """See what others have reserved and spent, where it is counted elsewhere."""

    async def hold(self, grant: Grant) -> bool:
        """Reserve `grant`; False: others have taken the room for it since it was looked at."""
        self.reserved += grant
        return True

    def release(self, grant: Grant) -> None:
        """Give back what was reserved."""
        self.reserved -= grant
        self.changed.set()

    def spend(self, tokens: float, money: float) -> None:
        """Count work that was done."""
        self.spent = (self.spent[0] + tokens, self.spent[1] + money)


class Allowance:
    """Grants work against a `Budget` so that what is in flight and what was used never exceed it.

    Completion tokens are reserved as `max_tokens` of each sample before it is requested, and settled when it is
    answered. Prompt tokens are known only afterwards and are reserved by estimate: `total_tokens` and `money` can be
    exceeded by the error of that estimate. `completion_tokens` and `requests` cannot, apart from a granted request
    that is repeated for what failed or was missing from its answer.
    """

    def __init__(self, budget: Budget, price: Price, quota: Quota | None = None) -> None:
        self.budget = budget
        self._price = price
        self._quota = quota
        self._used = Usage()
        self._money = 0.0
        self._longest = 0.0
        self._reserved = Grant()
        self._changed = asyncio.Event() if quota is None else quota.changed

    def calls_with_room(self, role: str, tokens: float) -> float:
        """Requests that the caps surely allow if each takes `tokens` and no prompt is longer than those so far.

        Infinite where nothing that a request takes is limited.
        """
        money = self._price(role, Usage(1, self._longest, 0, tokens))
        costs = (1, tokens, self._longest + tokens, money)
        pairs = zip(self._left(), costs, strict=True)
        return min((left // cost for left, cost in pairs if left < inf and cost), default=inf)

    def _left(self) -> tuple[float, float, float, float]:
        """Requests, completion tokens, tokens in all and money that the caps leave, with what is in flight."""
        caps, used = self.budget, self._used
        spent = (used.requests, used.completion_tokens, used.total_tokens, self._money)
        whole = (caps.requests, caps.completion_tokens, caps.total_tokens, caps.money)
        requests, written, tokens, money = (
            inf if cap is None else cap - one for cap, one in zip(whole, spent, strict=True)
        )
        return requests, written, tokens, money

    def book(self, charge: Charge) -> None:
        money = self._price(charge.role, charge.usage)
        self._longest = max(self._longest, charge.usage.prompt_tokens)
        self._used += charge.usage
        self._money += money
        if self._quota is not None:
            self._quota.spend(charge.usage.total_tokens, money)

    def settle(self, tokens: float, money: float) -> None:
        """Count in the quota what was spent in all, with what failed, instead of what was booked on the way."""
        if self._quota is not None:
            self._quota.spend(tokens - self._used.total_tokens, money - self._money)

    async def reserve(self, role: str, wanted: int, per_request: int, prompt: int, maximum: int | None) -> Grant:
        """Room for 1 to `wanted` samples of at most `maximum` tokens each (None: whatever is left).

        Waits while work in flight might still leave room; raises `BudgetSpent` when nothing can. Fewer than `wanted`
        are granted only while nothing of this search is in flight, so that which share a request does not depend on
        which answer came first. When not even one sample fits in full, one with a smaller `tokens` is granted.
        `per_request` is how many samples share a request, `prompt` the estimated prompt tokens of a request.
        """
        while True:
            if self._quota is not None:
                await self._quota.look()
            self.check()
            waits = self.in_flight  # what is in flight may leave room
            least = wanted if self._reserved.samples else 1
            grant = self._fit(role, range(wanted, least - 1, -1), per_request, prompt, maximum, trim=not waits)
            if grant is not None:
                self._reserved += grant
                if self._quota is None or await self._hold(self._quota, grant):
                    return grant
                continue
            if not waits:
                raise self._spent()
            self._changed.clear()
            await self._changed.wait()

    async def _hold(self, quota: Quota, grant: Grant) -> bool:
        held = False
        try:
            held = await quota.hold(grant)
        finally:
            if not held:
                self._reserved -= grant
        return held

    @property
    def in_flight(self) -> bool:
        """Whether anything is reserved, here or by those that share what is outside."""
        return bool(self._reserved.samples) or (self._quota is not None and bool(self._quota.reserved.samples))

    def release(self, grant: Grant) -> None:
        """Give back a reservation whose work was booked, failed or cancelled."""
        self._reserved -= grant
        if self._quota is not None and grant.samples:
            self._quota.release(grant)
        self._changed.set()

    def check(self) -> None:
        """Raise `BudgetSpent` when a cap is reached."""
        if min(self._left()) <= 0:
            raise self._spent()
        self.check_verifier()
        if self._quota is not None and min(self._quota.room) <= 0 and not self._quota.reserved.samples:
            raise self._spent()

    def check_verifier(self) -> None:
        """Raise `BudgetSpent` when no verification may start. Samples may still be verified when no further one may be
        drawn."""
        cap = self.budget.verifier_seconds
        if cap is not None and self._used.verifier_seconds >= cap:
            raise self._spent()

    def _spent(self) -> BudgetSpent:
        caps = self.budget.model_dump(exclude_none=True)
        return BudgetSpent(f"the budget {caps} is spent" if self._quota is None else "the budget or quota is spent")

    def _fit(
        self, role: str, counts: Iterable[int], per_request: int, prompt: int, maximum: int | None, *, trim: bool
    ) -> Grant | None:
        for count in counts:
            requests = -(-count // per_request)
            tokens = self._tokens_left(role, count, requests, prompt)
            if requests > self._left()[0] - self._reserved.requests:
                continue
            if tokens >= (float("inf") if maximum is None else maximum):
                return self._grant(role, count, requests, prompt, maximum)
            if count == 1 and trim and tokens >= 1:
                return self._grant(role, 1, requests, prompt, int(tokens))
        return None

    def _grant(self, role: str, count: int, requests: int, prompt: int, tokens: int | None) -> Grant:
        usage = Usage(requests, requests * prompt, 0, count * (tokens or 0))
        money = self._price(role, usage)
        return Grant(count, requests, requests * prompt, count * (tokens or 0), money, tokens)

    def _tokens_left(self, role: str, count: int, requests: int, prompt: int) -> float:
        """Completion tokens that each of `count` samples may still use."""
        held, (_, completion, total, money) = self._reserved, self._left()
        total -= held.prompt_tokens + held.completion_tokens
        left, money = min(completion - held.completion_tokens, total - requests * prompt), money - held.money
        if self._quota is not None:
            tokens, room = self._quota.room
            left, money = min(left, tokens - requests * prompt), min(money, room)
        return min(left, affordable(partial(self._price, role), money, requests * prompt)) / count


@dataclass(frozen=True, slots=True)
class Grant:
    """Room for some samples."""

    samples: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0
    tokens: int | None = None
    """`max_tokens` of each sample granted; None: no limit."""

    def __add__(self, other: Grant) -> Grant:
        return self._combine(other, 1)

    def __sub__(self, other: Grant) -> Grant:
        return self._combine(other, -1)

    def _combine(self, other: Grant, sign: int) -> Grant:
        return Grant(
            self.samples + sign * other.samples,
            self.requests + sign * other.requests,
            self.prompt_tokens + sign * other.prompt_tokens,
            self.completion_tokens + sign * other.completion_tokens,
            self.money + sign * other.money,
        )
