"""What strategies share whose work another one does, in other conditions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Self, cast

from pydantic import model_validator

from tts.base import Estimator, Strategy, StrategyField
from tts.registry import Plugin
from tts.session import Session
from tts.strategies.single import Single
from tts.types import Candidate, Problem


class Wrapping(Strategy):
    """A strategy whose work another one does."""

    strategy: StrategyField = Single()
    """What draws the samples and selects: `best_of_n(n=4)`, `self_consistency(n=8)`, ..."""

    @property
    def roles(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.strategy.roles

    @property
    def needs_verifier(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.strategy.needs_verifier

    @property
    def rates_steps(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.strategy.rates_steps

    @property
    def independent(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.strategy.independent

    @property
    def estimator(self) -> Estimator:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.strategy.estimator

    @property
    def in_pieces(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.strategy.in_pieces

    @property
    def by_turns(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.strategy.by_turns

    @property
    def weighs_votes(self) -> bool:
        return self.strategy.weighs_votes

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.strategy.verifier is not None or self.strategy.policies:
            raise ValueError(f"give verifier= and policies= to {self.name}, not to the strategy in it")
        return self

    def ready(self, problem: Problem) -> None:
        self.strategy.ready(problem)

    def taught(self, training: Plugin) -> Self:
        return self.model_copy(update={"strategy": self.strategy.taught(training)})

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        return self.strategy.select(candidates)

    def warning(self, candidates: Iterable[Candidate]) -> str:
        return self.strategy.warning(candidates)

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        return self.strategy.settled(candidates)


class Reworded(Wrapping):
    """A strategy that asks another problem, made of its own, and has all the rest done by another strategy."""

    @property
    def several(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.strategy.several

    @property
    def exhaustive(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.strategy.exhaustive

    def check_policies(self, policies: Mapping[str, str]) -> None:
        self.strategy.check_policies(policies)

    async def asked(self, problem: Problem, session: Session) -> Problem:
        """What is asked in place of `problem`. What finding it costs is charged to every candidate."""
        raise NotImplementedError

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        other, charges = await session.priced(lambda inner: self.asked(problem, inner))
        async with aclosing(cast(Any, self.strategy.search(other, session.asking(other)))) as found:
            async for one in found:
                yield replace(one, charges=one.charges | charges) if charges else one
