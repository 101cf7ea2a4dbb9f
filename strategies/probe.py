"""A cheap probe says how hard a problem is; only the hard ones get more samples, or thoughts.

Which strategy is best depends on the difficulty of the problem (Snell et al. 2024, arXiv 2408.03314, section 3);
some models are trained to decide whether to think (AdaptThink, arXiv 2505.13417). The probe is
charged, and the study `probe` compares with the same policy for every problem at equal compute.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from tts.base import Strategy, StrategyField, answer_classes, of
from tts.errors import ConfigError
from tts.prompting import reworded, without_thoughts
from tts.sampler.parameters import merged
from tts.session import Session
from tts.stopping import lead_probability
from tts.strategies.self_consistency import SelfConsistency
from tts.types import Candidate, Charge, Problem

ASK = "Can you answer this at once and be right, without working it out step by step? Say yes or no.\n\n"
"""What the model is asked where it says itself."""


class Probe(Strategy):
    """Draws a few samples, and only where they leave doubt goes on to `then`, perhaps in another mode.

    The answer is what `then` selects: of all samples, or on a hard problem of its own alone where `easy` and `hard`
    differ.
    """

    then: StrategyField = Field(default_factory=SelfConsistency)
    """What hard problems get: `self_consistency(n=16)`, `best_of_n(n=16)`, `repeated_sampling`."""
    first: PositiveInt = 4
    """Samples of the probe."""
    by: Literal["samples", "confidence", "ask"] = "samples"
    """What tells an easy problem: `samples` (their vote is sure, or the verifier accepts one), `confidence` (the mean
    probability of the first sample's tokens; needs log-probabilities), `ask` (the model says so, before the probe)."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """How sure the vote (see `beta`), or how likely the tokens, must be."""
    easy: dict[str, Any] = Field(default_factory=dict)
    """Sampling parameters of the probe, and of asking: `{"chat_template_kwargs": {"enable_thinking": false}}`."""
    hard: dict[str, Any] = Field(default_factory=dict)
    """Sampling parameters of `then`."""

    needs_verifier: ClassVar[Any] = of("then.needs_verifier")
    weighs_votes: ClassVar[Any] = of("then.weighs_votes")  # pyright: ignore[reportIncompatibleMethodOverride]
    ready = of("then.ready")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.then.gains not in ("votes", "verdicts"):
            raise ValueError(f"then takes self_consistency, best_of_n or repeated_sampling, not {self.then.spec}")
        if self.then.verifier is not None:
            raise ValueError("give the verifier to probe itself, not to then")
        return self

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        asked: frozenset[Charge] = frozenset()
        hard = False
        if self.by == "ask":
            turns = reworded(problem, lambda text: ASK + text, last=True).turns
            said = await session.one(turns, inner=True, **merged(self.easy, {"max_tokens": 8}))
            asked = frozenset(said.charges) if said is not None else asked
            hard = said is None or not re.match(r"\W*yes\b", without_thoughts(said.text), re.IGNORECASE)
        if not hard:
            found: list[Candidate] = []
            probe = self.then.model_copy(update={"n": self.first, "stop": None})
            wanted = {**self.easy, "logprobs": True} if self.by == "confidence" else self.easy
            async for candidate in _drawn(probe, problem, session, wanted, asked):
                found.append(candidate)
                yield replace(candidate, notes={**candidate.notes, "probe": True})
            hard = self.by != "ask" and not self._easy(sorted(found, key=lambda one: one.spawned))
        if hard:
            async for candidate in _drawn(self.then, problem, session, self.hard, asked):
                yield candidate

    def _easy(self, found: Sequence[Candidate]) -> bool:
        """Whether the probe leaves no doubt."""
        if self.by == "confidence" and found:
            logprobs = found[0].samples[-1].logprobs
            if logprobs is None:
                raise ConfigError("probe:by=confidence needs a server that gives log-probabilities (see tts doctor)")
            return bool(logprobs) and math.exp(sum(logprobs) / len(logprobs)) >= self.confidence
        if self.then.gains == "verdicts":
            return any(candidate.passed for candidate in found)
        classes = answer_classes([one.notes for one in found])
        votes = [count for _, count in Counter(one for one in classes if one is not None).most_common(2)]
        return lead_probability(*[*votes, 0, 0][:2]) >= self.confidence

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        later = [one for one in candidates if not one.notes.get("probe") and self.easy != self.hard]
        return self.then.select(later or candidates)

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        """Whether a verifier accepted one, where `then` selects by verdicts."""
        return self.then.gains == "verdicts" and any(candidate.passed for candidate in candidates)


async def _drawn(
    strategy: Strategy, problem: Problem, session: Session, sampling: Mapping[str, Any], asked: frozenset[Charge]
) -> AsyncGenerator[Candidate, None]:
    """The candidates of `strategy` with these parameters of the policy, each charged with what was `asked` before."""
    view = copy(session)
    view.sampling = merged(session.sampling, sampling)
    async for candidate in strategy.search(problem, view):
        yield replace(candidate, charges=candidate.charges | asked)
