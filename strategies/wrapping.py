"""What strategies share whose work another one does, in other conditions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar, Self, cast

from pydantic import model_validator

from tts.base import Strategy, StrategyField, of
from tts.registry import Plugin
from tts.session import Session
from tts.strategies.single import Single
from tts.types import Candidate, Problem


class Wrapping(Strategy):
    """A strategy whose work another one does."""

    strategy: StrategyField = Single()
    """What draws the samples and selects: `best_of_n(n=4)`, `self_consistency(n=8)`, ..."""

    roles: ClassVar[Any] = of("strategy.roles")
    needs_verifier: ClassVar[Any] = of("strategy.needs_verifier")
    rates_steps: ClassVar[Any] = of("strategy.rates_steps")
    independent: ClassVar[Any] = of("strategy.independent")
    estimator: ClassVar[Any] = of("strategy.estimator")
    in_pieces: ClassVar[Any] = of("strategy.in_pieces")
    by_turns: ClassVar[Any] = of("strategy.by_turns")
    weighs_votes: ClassVar[Any] = of("strategy.weighs_votes")  # pyright: ignore[reportIncompatibleMethodOverride]
    most_samples: ClassVar[Any] = of("strategy.most_samples")  # pyright: ignore[reportIncompatibleMethodOverride]
    ready = of("strategy.ready")
    select = of("strategy.select")
    warning: ClassVar[Any] = of("strategy.warning")
    settled: ClassVar[Any] = of("strategy.settled")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.strategy.verifier is not None or self.strategy.policies:
            raise ValueError(f"give verifier= and policies= to {self.name}, not to the strategy in it")
        return self

    def taught(self, training: Plugin) -> Self:
        return self.model_copy(update={"strategy": self.strategy.taught(training)})


class Reworded(Wrapping):
    """A strategy that asks another problem, made of its own, and has all the rest done by another strategy."""

    several: ClassVar[Any] = of("strategy.several")
    exhaustive: ClassVar[Any] = of("strategy.exhaustive")
    check_policies: ClassVar[Any] = of("strategy.check_policies")

    async def asked(self, problem: Problem, session: Session) -> Problem:
        """What is asked in place of `problem`. What finding it costs is charged to every candidate."""
        raise NotImplementedError

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        other, charges = await session.priced(lambda inner: self.asked(problem, inner))
        async with aclosing(cast(Any, self.strategy.search(other, session.asking(other)))) as found:
            async for one in found:
                yield replace(one, charges=one.charges | charges) if charges else one
