"""A world of steps: what follows each beginning of an answer, and what it is worth, is fixed by a seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tests.support.double import ModelDouble
from tests.support.engine import tokens_of
from tests.support.solving import endpoint
from tts.base import Verifier
from tts.sampler import Endpoint
from tts.types import Candidate, Problem, Scale

RAW = Problem(id="raw", messages="Six times seven is", answer="numeric_answer")


def written(body: dict[str, Any]) -> str:
    """The answer that a request wants to be continued."""
    text = tokens_of(body).decode()
    return text.removeprefix(str(RAW.messages)).rpartition("<|assistant|>\n")[2]


def worth(text: str, seed: int = 0) -> float:
    """What a beginning of an answer is worth, between 0 and 1."""
    return float(np.random.default_rng((seed, *text.encode())).uniform(0.02, 0.98))


@dataclass(kw_only=True)
class StepWorld:
    """Steps are lines, each different from its siblings; the last one, which has no line break, is the answer."""

    seed: int = 0
    ends: float = 0.3
    """The chance that a step is the last."""
    longest: int = 5
    """Steps of an answer, at most; 0: it never ends."""
    asked: Counter[str] = field(default_factory=Counter)
    """How many steps were asked for after each beginning."""

    def step(self, before: str, number: int) -> str:
        """The step that is the answer to the request `number` (from 0 on) for one after `before`."""
        rng = np.random.default_rng((self.seed, number, *before.encode()))
        last = before.count("\n") + 1 == self.longest or (rng.random() < self.ends and self.longest > 0)
        return f"Answer: {rng.integers(40, 44)}.{number}" if last else f"{number} and {rng.integers(100)}\n"

    def answer(self, body: dict[str, Any], rng: Any) -> str:
        """As the model of a double; when asked for more than a step, as many as there are."""
        before = written(body)
        text = self.step(before, self.asked[before])
        self.asked[before] += 1
        while not body.get("stop") and text.endswith("\n"):
            text += self.step(before + text, 0)
        return text

    def double(self, **settings: Any) -> ModelDouble:
        """A server of it."""
        return ModelDouble(answer=self.answer, **settings)


class Worth(Verifier):
    """Rates by `worth`."""

    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"
    seed: int = 0

    def check(self, problem: Problem, candidate: Candidate) -> float:
        return worth(candidate.content, self.seed)


def one_by_one(double: ModelDouble, **settings: Any) -> Endpoint:
    """An endpoint that is sent one request after the other, so that they come in the order of the search."""
    return endpoint(double, max_n=64, max_concurrency=1, **settings)
