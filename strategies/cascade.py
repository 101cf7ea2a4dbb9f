"""The cheapest policy first, the next one where its answer is not good enough.

FrugalGPT: Chen et al. 2023 (arXiv 2305.05176), section 3, with thresholds chosen on stored problems. That disagreement
among a model's own samples tells when to go on: Yue et al. 2023 (arXiv 2310.03094), section 3; that a verifier of any
kind may: AutoMix, Aggarwal et al. 2023 (arXiv 2310.12963).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import product
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator

from tts.base import Estimator
from tts.session import Session
from tts.strategies.routing import Floats, OnPolicies, Profile, aimed, sureness
from tts.types import Candidate, Problem

MOST_WAYS = 4096
"""Combinations of thresholds that are compared."""
ANY = -np.finfo(float).max
"""A threshold below all answers that were not refused."""
TELLING = {"agreement": "self_consistency:n=4", "score": "best_of_n:n=1"}
"""A strategy, with a verifier for `score`, that tells how sure an answer is."""


class PolicyCascade(OnPolicies):
    """Policies in turn, from the cheapest to the strongest, until one gives an answer that is good enough.

    A refused answer never is. The answer is what the inner strategy selects among the last policy's candidates.
    """

    name: ClassVar[str] = "cascade"
    # whether more candidates come depends on those before
    independent: ClassVar[bool] = False
    estimator: ClassVar[Estimator] = "replay"
    most_samples: ClassVar[int | None] = None

    by: Literal["refusal", "agreement", "score"] = "refusal"
    """What an answer must have: the verifier's acceptance; or, from a threshold that the calibration chooses on, the
    share of the policy's candidates that agree with it, or the verifier's score, such as a judge's or the confidence of
    `mean_logprob`."""

    @model_validator(mode="after")
    def _aims(self) -> Self:
        if self.by == "refusal" and any(one is not None for one in (self.calibration, self.accuracy, self.cost)):
            raise ValueError("a refusal knows no threshold to set for a target: by=agreement and by=score do")
        return self

    @property
    def needs_calibration(self) -> bool:
        return self.by != "refusal"

    @property
    def needs_verifier(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.by != "agreement" or self.strategy.needs_verifier

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        policies, enough = list(session.policies), dict[str, float]()
        if self.needs_calibration and len(policies) > 1:
            every = session.every_policy
            enough = dict(zip(every, (await asyncio.to_thread(self.decided, every))[1], strict=True))
        for stage, role in enumerate(policies):
            found: dict[int, Candidate] = {}
            async for one in self.work(problem, session, role, stage):
                found[one.id] = one
                yield one
            ordered = sorted(found.values(), key=lambda one: one.spawned)
            selected = self.strategy.select(ordered)
            if selected is not None and selected.verdict is None and self.by != "agreement" and role != policies[-1]:
                selected = await session.judged(selected)
                yield selected
            if sureness(ordered, selected)[self.by] >= enough.get(role, 1.0):
                return

    def decide(self, known: Profile, columns: Sequence[int]) -> Sequence[float]:
        """From which sureness on the answer of each policy is kept, the last one's in any case.

        Raises `ConfigError` also where the calibration has nothing to go by.
        """
        sure: Floats = (known.agreement if self.by == "agreement" else known.score)[:, columns]
        solved, costs = known.solved[:, columns], known.cost[:, columns].cumsum(axis=1)
        most = max(2, int(MOST_WAYS ** (1 / (len(columns) - 1))) - 1)
        grids: list[list[float]] = []
        for column in sure.T[:-1]:
            values = np.unique(column[np.isfinite(column)])
            if not len(values):
                raise self.lacking(f"{self.calibration} has no {self.by} to go by", TELLING[self.by])
            grids.append(
                [ANY, *values[np.linspace(0, len(values) - 1, min(most, len(values))).astype(int)].tolist(), np.inf]
            )
        ways, rows = [(*way, -np.inf) for way in product(*grids)], np.arange(len(solved))
        ends = [np.argmax(sure >= way, axis=1) for way in ways]
        accuracies = np.array([solved[rows, end].mean() for end in ends])
        spent = np.array([costs[rows, end].mean() for end in ends])
        return ways[aimed(accuracies, spent, self.accuracy, self.cost)]

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        """Whether an answer was accepted, by which `refusal` decides; else how sure an answer is may still change."""
        return self.by == "refusal" and any(one.passed for one in candidates)
