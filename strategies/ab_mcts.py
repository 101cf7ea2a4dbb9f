"""Adaptive branching: whether the next answer is a new one or one made better is drawn by what both have given so far.

Inoue et al. 2025, "Wider or Deeper? Scaling LLM Inference-Time Compute with Adaptive Branching Tree Search" (arXiv
2503.04412), section 3, variants A and M.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from tts.base import Strategy
from tts.concurrency import Flow, flow
from tts.errors import BudgetSpent, ConfigError, EndpointError, EndpointRefused
from tts.prompting import answer_of, fill, template
from tts.session import Session
from tts.strategies.self_refine import REFINE
from tts.strategies.stepwise.tree import first
from tts.types import Candidate, Charge, Problem, Prompt, Verdict


@dataclass(slots=True, eq=False)
class Refined:
    """An answer and those that were made of it; the root is no answer yet, and what is made of it is new."""

    candidate: Candidate | None = None
    above: Refined | None = None
    name: str = ""
    begun: int = 0
    """How often something was made of it, whatever came of that."""
    below: list[Refined] = field(default_factory=list["Refined"])
    direct: list[float] = field(default_factory=list[float])
    """The scores of `below`: what making something of it has given."""
    deeper: list[float] = field(default_factory=list[float])
    """The scores of all that is below those: what going on below it has given."""
    scores: list[float] = field(default_factory=list[float])
    """Its own score and those of all below it."""

    def gained(self, candidate: Candidate, name: str, score: float) -> None:
        """Put an answer that was made of it below it, and let all above know its score."""
        self.below.append(Refined(candidate, self, name, scores=[score]))
        self.direct.append(score)
        node = self
        while node.above is not None:
            node.scores.append(score)
            node.above.deeper.append(score)
            node = node.above


class AbMcts(Strategy):
    """N whole answers: at each node Thompson sampling decides between a new child and going down to one of its own.

    Needs scores from 0 to 1. A child of the root answers the problem; any other improves on its parent by the words of
    the parent's verdict. Of several policies, which writes an answer is drawn in the same way, by the scores of each.
    """

    several = True
    needs_verifier = True

    n: PositiveInt = 16
    """Answers."""
    model: Literal["gaussian", "beta", "mixed"] = "gaussian"
    """What scores are taken to follow: variant A with normal or with Beta-distributed scores, or variant M, in which a
    child and all below it are a group around a level of its own."""
    prior: float | None = Field(default=None, ge=0, le=1)
    """The score that variant A expects of what was never tried; by default 0 (gaussian) or 0.5 (beta)."""
    in_flight: PositiveInt = 1
    """Answers at once. They do not know of each other, so that many make the tree wide: 5 at most, say its authors."""
    refine_prompt: Annotated[str, template("feedback")] = REFINE
    """What the author of an answer is told to make a better one."""

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        """Every answer with its verdict. What it costs has in it what was known when it was begun."""

        async def grow(out: Flow[Candidate]) -> None:
            await self._grow(problem, session, out)

        return flow(grow)

    async def _grow(self, problem: Problem, session: Session, out: Flow[Candidate]) -> None:
        root, rng = Refined(), session.rng
        known: frozenset[Charge] = frozenset()
        running: dict[str, asyncio.Task[Candidate | None]] = {}
        parents: dict[str, Refined] = {}
        spent: list[BudgetSpent] = []
        gained: dict[str, list[float]] = {role: [] for role in session.policies}

        async def answered(above: Refined, number: int, known: frozenset[Charge], role: str) -> Candidate | None:
            try:
                sample = await session.at((number,)).one(self._prompt(problem, above), role=role)
                if sample is None:
                    return None
                parent = [above.candidate] if above.candidate else []
                candidate = session.candidate(sample, parents=parent, spawned=(number,), charges=known)
            except BudgetSpent as error:
                spent.append(error)
                return None
            except EndpointRefused:
                raise
            except EndpointError as error:
                session.ledger.failures.append(f"answer {number}: {error}")
                return None
            try:
                return await session.judged(candidate)
            except BudgetSpent as error:
                spent.append(error)
                return candidate

        async with asyncio.TaskGroup() as group:
            begun = 0
            while True:
                while begun < self.n and len(running) < self.in_flight and not spent:
                    above = self.chosen(root, rng)
                    name = ".".join(filter(None, (above.name, str(above.begun))))
                    above.begun += 1
                    arms = session.policies
                    role = arms[0] if len(arms) == 1 else max(arms, key=lambda arm: self.draw(gained[arm], rng))
                    parents[name], running[name] = above, group.create_task(answered(above, begun, known, role))
                    begun += 1
                if not running:
                    break
                name = await first(session, (begun - len(running),), running)
                above, candidate = parents.pop(name), running.pop(name).result()
                if candidate is None:
                    continue
                known |= candidate.charges
                score = worth(candidate.verdict)
                out.emit(replace(candidate, notes={"node": name, "tree": [_record(candidate, name, score)]}))
                if score is not None:
                    above.gained(candidate, name, score)
                    gained[candidate.samples[-1].role].append(score)
        if spent:
            raise spent[0]

    def _prompt(self, problem: Problem, above: Refined) -> Prompt:
        if above.candidate is None:
            return problem.messages
        said = above.candidate.verdict.feedback if above.candidate.verdict else ""
        words = fill(self.refine_prompt, feedback=said or "It is not right yet.")
        answer = {"role": "assistant", "content": answer_of(above.candidate)}
        return [*problem.turns, answer, {"role": "user", "content": words}]

    def chosen(self, node: Refined, rng: np.random.Generator) -> Refined:
        """The node at or below `node` of which the next answer is made."""
        while node.below:
            if self.model == "mixed":
                open_ones = [place for place, child in enumerate(node.below) if not worn_out(child.scores)]
                draws = mixed_draws([child.scores for child in node.below], rng)
                place = max(open_ones, key=lambda place: draws[place], default=-1)
                if draws[place] <= draws[-1]:
                    return node
                node = node.below[place]
            elif self.draw(node.direct, rng) >= self.draw(node.deeper, rng):
                return node
            else:
                node = max(node.below, key=lambda child: self.draw(child.scores, rng))
        return node

    def draw(self, scores: Sequence[float], rng: np.random.Generator) -> float:
        """A mean that `scores` may have, drawn from its posterior distribution in variant A."""
        n, total = len(scores), sum(scores)
        if self.model == "beta":
            prior = 0.5 if self.prior is None else self.prior
            return rng.beta(max(prior + total, 1e-9), max(1 - prior + n - total, 1e-9))
        prior, mean = self.prior or 0.0, total / max(n, 1)
        scatter = sum((score - mean) ** 2 for score in scores) + n * (prior - mean) ** 2 / (1 + n)
        variance = (0.1 + scatter) / 2 / rng.gamma((1 + n) / 2)
        return rng.normal((prior + total) / (1 + n), (variance / (1 + n)) ** 0.5)


def worth(verdict: Verdict | None) -> float | None:
    """The score of a verdict, from 0 to 1; None where it could not be rated. Raises `ConfigError` for other scores."""
    if verdict is None or verdict.score is None:
        return None if verdict is None or verdict.passed is None else float(verdict.passed)
    if verdict.weight is None or verdict.weight > 1:
        raise ConfigError(f"ab_mcts needs scores from 0 to 1, or of a known scale; this verifier gives {verdict.score}")
    return verdict.weight


def worn_out(scores: Sequence[float]) -> bool:
    """Whether a group has shown what it has: four answers or more, three quarters of them with one score."""
    return len(scores) >= 4 and max(Counter(scores).values()) >= 0.75 * len(scores)


LEVEL, LEVEL_SPREAD, SPREAD, NOISE = 0.5, 0.2, 0.2, 0.3
"""Variant M: mean and deviation of the mean level; the scales of the levels' deviation and of that around a level."""
QUANTILES = np.array([NormalDist().inv_cdf(1 - (i + 0.5) / 64) for i in range(32)])
"""Of the half-normal distribution, each of the same weight."""


def mixed_draws(groups: Sequence[Sequence[float]], rng: np.random.Generator) -> NDArray[np.float64]:
    """A next score in each of `groups`, and last in a new one, drawn from the posterior distribution in variant M.

    Score = level of its group + noise. Over the two deviations it is summed on a grid; the levels and their mean, given
    those, are normal.
    """
    counts = np.array([len(group) for group in groups], dtype=float)
    means = np.array([sum(group) / len(group) for group in groups])
    scatter = sum(float(np.var(group)) * len(group) for group in groups)
    spread, noise = (grid.ravel() for grid in np.meshgrid(SPREAD * QUANTILES, NOISE * QUANTILES))
    variances = spread[:, None] ** 2 + noise[:, None] ** 2 / counts
    precision = LEVEL_SPREAD**-2 + (1 / variances).sum(1)
    centre = (LEVEL / LEVEL_SPREAD**2 + (means / variances).sum(1)) / precision
    fit = (np.log(variances) + means**2 / variances).sum(1) + np.log(precision) - precision * centre**2
    fit = -fit / 2 - (counts - 1).sum() * np.log(noise) - scatter / (2 * noise**2)
    odds = np.exp(fit - fit.max())
    cell = rng.choice(len(odds), p=odds / odds.sum())
    mean = rng.normal(centre[cell], precision[cell] ** -0.5)
    weights = spread[cell] ** -2 + np.append(counts, 0) / noise[cell] ** 2
    levels = rng.normal(
        (mean * spread[cell] ** -2 + np.append(counts * means, 0) / noise[cell] ** 2) / weights, weights**-0.5
    )
    return rng.normal(levels, noise[cell])


def _record(candidate: Candidate, name: str, score: float | None) -> dict[str, object]:
    """What is kept of an answer for those who look at the tree."""
    sample = candidate.samples[-1]
    tokens = sum(charge.usage.completion_tokens for charge in sample.charges)
    place = {"node": name, "turn": candidate.spawned[0], "text": candidate.content, "tokens": int(tokens)}
    return {**place, "reward": score, "ended": sample.finish_reason or "stop"}
