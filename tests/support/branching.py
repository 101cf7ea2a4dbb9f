"""A tree with known values: below every text are the steps 0, 1, 2, ..., and at a known depth the answers end."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tts.base import Verifier
from tts.sampler import Endpoint
from tts.sampler.mock import MockModel
from tts.types import Candidate, Problem, Sample, Scale, Verdict

DIGITS = Problem(id="digits", messages="Digits:\n", answer="exact_answer")


def chance(text: str) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.strip().encode(), digest_size=4).digest()) / 2**32


@dataclass
class Branching:
    """The model of that world: siblings come in order, however many requests ask for them."""

    depth: int = 3
    seconds: Callable[[str], float] | None = None
    """How long the steps below a text take."""
    said: Counter[str] = field(default_factory=Counter[str])

    def step(self, request: dict[str, Any]) -> str | Awaitable[str]:
        written = request["prompt"].removeprefix(str(DIGITS.messages))
        number = self.said[written]
        self.said[written] += 1
        steps = [str(number), *["0"] * (self.depth - written.count("\n") - 1)]
        whole = "\n".join(steps)  # a server would stop at the first line's end
        step = whole if "stop" not in request or len(steps) == 1 else f"{number}\n"

        async def late() -> str:
            assert self.seconds is not None
            await asyncio.sleep(self.seconds(written))
            return step

        return late() if self.seconds else step

    @property
    def endpoint(self) -> Endpoint:
        return MockModel(self.step)


class KnownValue(Verifier):
    """Rates every text, finished or not, by `chance`; texts in `nameless` cannot be rated."""

    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    nameless: tuple[str, ...] = ()

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        text = candidate.content.strip()
        return Verdict(float("nan") if text in self.nameless else chance(text))


@dataclass
class Memory:
    """A store of samples that outlives a session."""

    kept: dict[tuple[bytes, int], Sample] = field(default_factory=dict[tuple[bytes, int], Sample])

    async def get(self, key: bytes, occurrences: Sequence[int]) -> dict[int, Sample]:
        return {one: self.kept[key, one] for one in occurrences if (key, one) in self.kept}

    def put(self, key: bytes, sample: Sample) -> Awaitable[None]:
        self.kept[key, sample.index] = sample
        return asyncio.sleep(0)
