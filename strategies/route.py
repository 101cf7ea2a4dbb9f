"""One policy for each problem, the one that is expected to solve it at the least cost.

Nearest stored problems: Hu et al. 2024, "RouterBench" (arXiv 2403.12031), section 4; a learned predictor of who
succeeds: Ong et al. 2024, "RouteLLM" (arXiv 2406.18665), section 4; a description of what each model can do: Zhang et
al. 2025, "Capability Instruction Tuning" (Model-SAT, arXiv 2502.17282), section 3. All are calibrated on stored runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import PositiveInt

from tts.prompting import problem_text
from tts.session import Session
from tts.strategies.routing import Floats, OnPolicies, Profile, aimed
from tts.strategies.routing.expected import expected, expected_by_abilities
from tts.types import Candidate, Problem

PRICES = 257
"""Prices of accuracy that are compared."""


class Route(OnPolicies):
    """The policy whose expected accuracy, less what its cost is worth for the target, is the highest.

    Of a policy that gives no candidate, because its server is down, the work goes to the next best.
    """

    by: Literal["neighbours", "learned", "abilities"] = "neighbours"
    """How a policy's accuracy is expected: as on the `k` most similar problems of the calibration, by a linear model of
    the problem's words and length, fitted to all of them, or by how it does on problems like each of a few `probes`."""
    k: PositiveInt = 15
    """Neighbours."""
    probes: PositiveInt = 16
    """Problems of the calibration, unlike each other, that describe abilities."""

    def expects(self, known: Profile, texts: Sequence[str] | None = None) -> Floats:
        """Each policy's expected accuracy on each text; without `texts` on each problem of the calibration by the
        others."""
        if self.by == "abilities":
            return expected_by_abilities(known, texts, probes=self.probes)
        return expected(known, texts, k=self.k if self.by == "neighbours" else None)

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        order: Sequence[str] = session.policies
        if len(order) > 1:
            best_first = await asyncio.to_thread(preferred, self, session.every_policy, problem_text(problem))
            order = [role for role in best_first if role in order]
        for stage, role in enumerate(order):
            any_came = False
            async for one in self.work(problem, session, role, stage):
                any_came = True
                yield one
            if any_came:
                return

    def decide(self, known: Profile, columns: Sequence[int]) -> float:
        """How much accuracy a unit of cost must buy, such that the calibration's problems, each decided by the others,
        come out on target."""
        solved, costs, cost = known.solved[:, columns], known.cost[:, columns], known.cost[:, columns].mean(axis=0)
        chances, rows = self.expects(known)[:, columns], np.arange(len(solved))
        pairs = [(a, b) for a in range(len(cost)) for b in range(len(cost)) if cost[b] > cost[a]]
        turns = np.concatenate(
            [*((chances[:, b] - chances[:, a]) / (cost[b] - cost[a]) for a, b in pairs), np.zeros(1)]
        )
        turns = np.quantile(turns[turns >= 0], np.linspace(0, 1, PRICES))  # at which choices change
        prices = np.unique(np.append((turns[1:] + turns[:-1]) / 2, [0.0, turns[-1] * 2 + 1e-30]))
        picks = [np.argmax(chances - price * cost, axis=1) for price in prices]
        accuracies = np.array([solved[rows, pick].mean() for pick in picks])
        spent = np.array([costs[rows, pick].mean() for pick in picks])
        return float(prices[aimed(accuracies, spent, self.accuracy, self.cost)])


def preferred(route: Route, policies: Mapping[str, str], text: str) -> list[str]:
    """The policies (roles and models) from the best for `text` to the worst."""
    (columns, price), known = route.decided(policies), route.known
    values = route.expects(known, [text])[0, columns] - price * known.cost[:, columns].mean(axis=0)
    return [list(policies)[int(i)] for i in np.argsort(-values, kind="stable")]
