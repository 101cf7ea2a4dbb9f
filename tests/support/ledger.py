"""What the double counts: requests, tokens and faults, in total and by model."""

import asyncio
from collections import Counter, defaultdict, deque
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.support.wire import Generation


@dataclass(slots=True)
class Stats:
    """What happened to generation requests. Every token generated is counted once: as served or as wasted."""

    received: int = 0
    served: int = 0
    """Requests whose answer was sent to its end, also where a fault made it less than was asked for."""
    choices: int = 0
    """Choices in the served answers."""
    cancelled: int = 0
    """Requests whose client left before the answer was complete."""
    running: int = 0
    peak_running: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    wasted_prompt_tokens: int = 0
    wasted_completion_tokens: int = 0
    """Generated, and so billed, for answers that were lost: cut, dropped, or cancelled on the way."""
    faults: Counter[str] = field(default_factory=Counter)
    """Requests by what went wrong: a `FaultKind`, or a refusal of the server's own (`busy`, `not_found`)."""


@dataclass(slots=True)
class Seen:
    """One request as it came: header names in lower case, `at` in seconds of the loop's clock."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float


class Ledger:
    """Counters, and the last `log` requests and times; a `log` of 0 keeps none."""

    def __init__(self, log: int):
        self.total = Stats()
        self.by_model: defaultdict[str, Stats] = defaultdict(Stats)
        self.requests: deque[Seen] = deque(maxlen=log)
        self.cancel_times: deque[float] = deque(maxlen=log)
        self.served_times: deque[float] = deque(maxlen=log)
        self.nothing_open = asyncio.Event()
        self.nothing_open.set()
        self._open = 0

    def count(self, model: str, **amounts: int) -> None:
        """Add amounts to counters of `Stats`."""
        for stats in (self.total, self.by_model[model]):
            for name, amount in amounts.items():
                setattr(stats, name, getattr(stats, name) + amount)

    def count_served(self, work: Generation) -> None:
        """Count an answer that was sent to its end."""
        self.count(
            work.model,
            served=1,
            choices=len(work.choices),
            prompt_tokens=len(work.prompt),
            cached_tokens=work.cached_tokens or 0,
            completion_tokens=work.completion_tokens,
        )

    def count_wasted(self, work: Generation, elapsed: float) -> None:
        """Count what was generated in `elapsed` seconds for an answer that was lost."""
        generated = sum(choice.tokens_after(elapsed) for choice in work.choices)
        self.count(work.model, wasted_prompt_tokens=len(work.prompt), wasted_completion_tokens=generated)

    def count_fault(self, kind: str, model: str | None = None) -> None:
        """Count one request that met a fault; of no model where it did not come so far."""
        self.total.faults[kind] += 1
        if model is not None:
            self.by_model[model].faults[kind] += 1

    def open(self, model: str) -> None:
        """A request has come."""
        self.count(model, received=1)
        self._open += 1
        self.nothing_open.clear()

    def close(self) -> None:
        """A request is done with, however it ended."""
        self._open -= 1
        if not self._open:
            self.nothing_open.set()

    def start(self, model: str) -> None:
        """A request begins to be generated."""
        self.count(model, running=1)
        for stats in (self.total, self.by_model[model]):
            stats.peak_running = max(stats.peak_running, stats.running)

    def finish(self, model: str) -> None:
        """A request is no longer generated."""
        self.count(model, running=-1)

    def as_json(self) -> dict[str, Any]:
        """The totals, with those of each model under `models`."""
        return asdict(self.total) | {"models": {name: asdict(stats) for name, stats in self.by_model.items()}}
