"""A reward model rates every step of an answer (Lightman et al. 2023, arXiv 2305.20050).

Each step is rated in the context of those before it. A prefix is rated only once, so an answer that grows step by step
pays for each step once.
"""

from __future__ import annotations

from asyncio import TaskGroup
from itertools import accumulate
from math import prod
from statistics import fmean
from typing import Literal

from tts.prompting import answer_of
from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.outcome_reward import OutcomeReward

AGGREGATES = {"last": lambda steps: steps[-1], "min": min, "max": max, "mean": fmean, "prod": prod}


class ProcessReward(OutcomeReward):
    """Scores by aggregating the rewards of the steps; `details` has them all as `steps`.

    The literature uses `last` for beam search and best-of-N; `min` and `prod` suit rewards that are probabilities that
    a step is right.
    """

    step: str = "\n\n"
    """The text that ends a step of an answer."""
    aggregate: Literal["last", "min", "prod", "mean", "max"] = "last"
    """How the steps' rewards are aggregated into the score."""
    separator: str | None = None
    """The token at which the model rates a step (such as `<extra_0>`), appended to each step: a single request to
    `/pooling` then returns all rewards, one row per step. None: each prefix is rated as an answer of its own."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Raises `ValueError` where the server's answer lacks the steps' rewards."""
        steps = [step for step in answer_of(candidate).split(self.step) if step.strip()]
        if not steps:
            return Verdict(None, details={"reason": "there are no steps"})
        rewards = await (self._at_separators if self.separator else self._of_prefixes)(problem, steps, session)
        return self.rated(AGGREGATES[self.aggregate](rewards), steps=rewards)

    async def _of_prefixes(self, problem: Problem, steps: list[str], session: Session) -> list[float]:
        prefixes = accumulate(steps, lambda before, step: before + self.step + step)
        async with TaskGroup() as group:
            tasks = [group.create_task(self.reward(problem, prefix, session)) for prefix in prefixes]
        return [task.result() for task in tasks]

    async def _at_separators(self, problem: Problem, steps: list[str], session: Session) -> list[float]:
        answer = "".join(f"{step}{self.separator}" for step in steps)
        data = await session.post("/../pooling", {**self._body(problem, answer), **self.params}, role="reward")
        try:
            ((*rows,),) = (item["data"] for item in data["data"])
            rewards = [float(row[self.label]) for row in rows]
        except (KeyError, IndexError, TypeError, ValueError):
            rewards = []
        if len(rewards) != len(steps):
            raise ValueError(
                f"{len(steps)} steps and {len(rewards)} rewards; does the server pool at '{self.separator}'?"
            )
        return rewards
