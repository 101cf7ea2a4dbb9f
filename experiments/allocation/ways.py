"""Other ways to share out a total budget than `greedy`, replayed over a stored run.

    python -m experiments.allocation.ways FOLDER/humaneval best_of_n

Prints by how many times less compute than uniform each takes at 1/8, 1/4 and 1/2 of all samples.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tts import Run, registry
from tts.allocation import Allocator, Floats, fitted_prior
from tts.prompting import problem_text
from tts.stopping import lead_probability
from tts.strategies.routing.expected import features
from tts.studies.allocation import GRID, Replay, _saved

ORDERS = 6


class Told(Allocator):
    """Goes by what is known of the texts: no first sample is given to everyone; one problem in four a round."""

    texts: Floats
    """Features of each problem, centred, those of a problem of length 1 before."""
    lengths: Floats
    """Words of each problem."""

    def round(self, open_ones: NDArray[np.bool_], bounds: Floats, left: float) -> list[int]:
        able = np.flatnonzero(open_ones & ~self.settled)
        return able[np.argsort(-self._index()[able], kind="stable")][: -(-len(able) // 4)].tolist()

    def failures(self) -> Floats:
        """Of each problem so far."""
        return np.where(self.drawn > 0, self._counts[:, 1], 0)

    def costs(self) -> Floats:
        """A sample's mean; of the unseen the mean of all."""
        known = self.drawn > 0
        return np.where(known, self.spent / np.maximum(self.drawn, 1), self.spent[known].mean() if known.any() else 1.0)


class ByText(Told):
    """Each problem's prior is what a linear model of the texts, fitted to the others so far, expects of it."""

    def _index(self) -> Floats:
        seen, failed = self.drawn > 0, self.failures()
        if seen.sum() < 8:
            return np.where(seen, -1.0, self._rng.random(len(seen)))
        a, b = fitted_prior(failed.astype(np.int64), self.settled)
        found = np.where(self.settled, 1 / np.maximum(self.drawn, 1), 0.0)[seen]
        rows, off = self.texts[seen], found - found.mean()
        inverse = np.linalg.solve(rows.T @ rows + np.eye(rows.shape[1]), rows.T)
        lever = np.zeros(len(seen))
        lever[seen] = np.einsum("ij,ji->i", rows, inverse)
        own = np.zeros(len(seen))
        own[seen] = off
        guess = (self.texts @ (inverse @ off) - lever * own) / np.maximum(1 - lever, 1e-2)
        mean = np.clip(a / (a + b) + guess, 0.02, 0.98)
        return (a + b) * mean / (a + b + failed) / self.costs()


class CheapFirst(Told):
    """One prior for all, and what a sample costs is expected from the length of the text."""

    def _index(self) -> Floats:
        a, b = fitted_prior(self.failures().astype(np.int64), self.settled)
        seen, costs = self.drawn > 0, self.costs()
        if seen.sum() >= 8:
            lengths = np.c_[np.ones(len(seen)), self.lengths]
            fit = np.linalg.lstsq(lengths[seen], costs[seen], rcond=None)[0]
            costs = np.where(seen, costs, np.maximum(lengths @ fit, costs[seen].min()))
        return a / (a + b + self.failures()) / costs


class KnowledgeGradient(Told):
    """By how much one more vote is expected to make the answer in the lead surer."""

    def _index(self) -> Floats:
        second, first = (self._counts - 1).T.astype(int).tolist()
        gain = []
        for f, s in zip(first, second, strict=True):
            share = (f + 1) / (f + s + 2)
            then = share * lead_probability(f + 1, s) + (1 - share) * lead_probability(max(f, s + 1), min(f, s + 1))
            gain.append(then - lead_probability(f, s) + 1e-6 * (1 - lead_probability(f, s)))
        return np.where(self.drawn > 0, gain, np.inf) / self.costs()


class UntilUnanimous(Told):
    """Two votes of two, or a sure lead, are enough; else the fewest votes first."""

    def _index(self) -> Floats:
        second, first = (self._counts - 1).T.astype(int)
        sure = np.array([lead_probability(f, s) > 0.95 for f, s in zip(first.tolist(), second.tolist(), strict=True)])
        return -self.drawn - 100.0 * (((first >= 2) & (second == 0)) | sure)


def main(folder: str, strategy: str) -> None:
    """Prints the table."""
    run = Run(folder)
    track = next(track for track in run.tracks if track.strategy.partition(":")[0] == strategy)
    replay = Replay.of(track, "completion_tokens")
    problems = {one.problem.id: one.problem for one in registry.make("tasks", run.record["config"]["task"]).examples()}
    texts = features([problem_text(problems[name]) for name in dict.fromkeys(row.problem for row in track.rows)])
    others = (ByText, CheapFirst) if replay.kind == "passes" else (KnowledgeGradient, UntilUnanimous)

    def told(kind: type[Told], order: int) -> Told:
        one = kind("greedy", replay.kind, len(texts), np.random.default_rng(order))
        rows = texts / np.linalg.norm(texts, axis=1, keepdims=True)
        one.texts, one.lengths = rows - rows.mean(axis=0), texts[:, -1] ** 2
        return one

    ways: dict[str, Callable[[int], Allocator]] = {
        name: lambda order, name=name: Allocator(name, replay.kind, len(texts), np.random.default_rng(order))
        for name in ("uniform", "greedy", "thompson")
    }
    ways |= {kind.__name__: lambda order, kind=kind: told(kind, order) for kind in others}
    whole, rng = float(sum(cost.sum() for cost in replay.costs)), np.random.default_rng(0)
    shares = (1 / 8, 1 / 4, 1 / 2)
    budgets = np.unique([*np.geomspace(whole / 64, whole, GRID).tolist(), *(share * whole for share in shares)])
    solved = {name: np.zeros(len(budgets)) for name in ways}
    for order in range(ORDERS):
        shuffled = [rng.permutation(len(one)) for one in replay.outcomes]
        for name, make in ways.items():
            solved[name] += replay.spend(make(order), shuffled, budgets).mean(axis=0) / ORDERS
    for name, found in solved.items():
        places = [int(np.argmin(np.abs(budgets - share * whole))) for share in shares]
        print(f"{name:18s}", *(f"{_saved(budgets, found, solved['uniform'], place) or np.nan:.2f}" for place in places))


if __name__ == "__main__":
    main(*sys.argv[1:])
