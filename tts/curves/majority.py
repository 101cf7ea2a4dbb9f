"""Accuracy of a majority vote among k samples, from one pool of samples per problem.

Selection: answers are grouped into classes, a sample without an answer abstains, the class with most votes
wins, and of classes with equally many votes the one that appeared first. In a random order each of the tied
classes is the first equally often, so ties share the probability equally. The sample handed out is the
earliest of the winning class, which is any of its members equally often: what a class is worth is the share
of its members that are correct. If all abstain, nothing is selected, which is not correct.

The vote among a random k-subset is a function of the class counts alone, and those are multivariate
hypergeometric. It is summed exactly where that is affordable, and else averaged over seeded shuffles of the
pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tts.curves.errors import CurveError
from tts.curves.estimators import Floats, Integers, Pools, correctness, require_samples, valid_ks
from tts.curves.exact_vote import Ballots, exact_vote, exact_work, winners_worth

EXACT_WORK = 2.5e8
"""Multiply-adds spent on exact sums in one call (about a second); the cheapest cells go first."""
SHUFFLED_SAMPLES = 1e8
"""Shuffled samples that the default number of draws aims at in one call (a few seconds)."""
DRAWS = (100, 2000)
"""Bounds of the default number of draws."""


@dataclass(frozen=True)
class MajorityEstimate:
    """Accuracy of the vote, and how each value was found."""

    values: Floats
    """Problems x ks, from 0 to 1."""
    exact: NDArray[np.bool_]
    """Same shape: true where summed exactly, false where resampled."""
    ks: Integers
    seed: int
    draws: int
    """Shuffles per problem, for the values that are not exact."""

    @property
    def method(self) -> str:
        """The estimator's name for a legend or a table."""
        exact = self.exact.reshape(-1, self.ks.size)
        resampled = f"resampled, seed {self.seed}, {self.draws} draws"
        if exact.all():
            return "majority@k (exact)"
        largest = max((k for k in self.ks.ravel() if exact[:, self.ks.ravel() <= k].all()), default=0)
        return f"majority@k (exact to k={largest}, then {resampled})" if largest > 1 else f"majority@k ({resampled})"


def majority_at_k(
    answers: Sequence[Iterable[Any]] | NDArray[np.integer],
    correct: Pools,
    k: ArrayLike,
    *,
    seed: int = 0,
    draws: int | None = None,
    exact: bool | None = None,
) -> MajorityEstimate:
    """Probability that a majority vote among k samples is correct.

    `answers` holds one sequence per problem: a numpy integer array of class numbers, where a negative one
    abstains, or any other sequence of hashable answers, where None abstains. `correct` says of every sample
    whether it is correct.

    `exact`: True sums everything exactly however long it takes, False resamples everything, None sums exactly
    what fits into `EXACT_WORK`. `draws` is the number of shuffles per problem for the rest: by default 2000,
    fewer where that would shuffle more than `SHUFFLED_SAMPLES` in total, never under 100. A problem's draws
    depend on `seed` and its position alone.

    Raises `TooFewSamples` where k > n.
    """
    ks = valid_ks(k)
    ballots = _count(answers, correct)
    sizes = np.array([ballot.size for ballot in ballots], dtype=np.int64)
    require_samples("majority@k", sizes, ks)
    flat = ks.ravel()
    chosen = _affordable(ballots, flat, exact)
    if draws is None:
        draws = int(np.clip(SHUFFLED_SAMPLES / max(sizes.sum(), 1), *DRAWS))
    if draws < 1:
        raise CurveError(f"draws must be at least 1, not {draws}")
    values = np.zeros((len(ballots), flat.size))
    for column, size in enumerate(flat):
        rows = np.flatnonzero(chosen[:, column])
        values[rows, column] = exact_vote([ballots[row] for row in rows], int(size))
    for row in np.flatnonzero(~chosen.all(axis=1)):
        columns = np.flatnonzero(~chosen[row])
        generator = np.random.default_rng([seed, int(row)])
        values[row, columns] = _resample(ballots[row], flat[columns], draws, generator)
    shape = (len(ballots), *ks.shape)
    return MajorityEstimate(values.reshape(shape), chosen.reshape(shape), ks, seed, draws)


def _count(answers: Sequence[Iterable[Any]] | NDArray[np.integer], correct: Pools) -> list[Ballots]:
    classes = [_class_numbers(pool) for pool in answers]
    worth = correctness(correct, [len(pool) for pool in classes])
    return [Ballots.count(pool, value) for pool, value in zip(classes, worth, strict=True)]


def _class_numbers(answers: Iterable[Any]) -> Integers:
    """Class numbers from 0; -1 abstains."""
    if isinstance(answers, np.ndarray) and np.issubdtype(answers.dtype, np.integer):
        voting = answers >= 0
        numbers = np.full(len(answers), -1, dtype=np.int64)
        numbers[voting] = np.unique(answers[voting], return_inverse=True)[1]
        return numbers
    seen: dict[Any, int] = {}
    return np.array([-1 if a is None else seen.setdefault(a, len(seen)) for a in answers], dtype=np.int64)


def _affordable(ballots: list[Ballots], ks: Integers, exact: bool | None) -> NDArray[np.bool_]:
    """Which cells (problems x ks) to sum exactly."""
    if exact is not None:
        return np.full((len(ballots), ks.size), exact)
    work = np.array([[exact_work(ballot, int(k)) for k in ks] for ballot in ballots])
    work = work.reshape(len(ballots), ks.size)
    cheapest = np.argsort(work, axis=None, kind="stable")
    chosen = np.zeros(work.size, dtype=np.bool_)
    chosen[cheapest] = np.cumsum(work.ravel()[cheapest]) <= EXACT_WORK
    return chosen.reshape(work.shape)


def _resample(ballots: Ballots, ks: Integers, draws: int, generator: np.random.Generator) -> Floats:
    """Mean worth of the vote over shuffles of the pool, at each prefix length in `ks`."""
    classes = len(ballots.votes)
    pool = np.repeat(np.arange(classes + 1), np.append(ballots.votes, ballots.abstained))
    order = np.argsort(ks)
    total = np.zeros(ks.size)
    at_once = max(1, 2_000_000 // ballots.size)
    for begin in range(0, draws, at_once):
        rows = min(at_once, draws - begin)
        shuffled = generator.permuted(np.broadcast_to(pool, (rows, ballots.size)), axis=1)
        shuffled += np.arange(rows)[:, np.newaxis] * (classes + 1)
        counts = np.zeros((rows, classes + 1), dtype=np.int64)
        seen = 0
        for column in order:
            new = shuffled[:, seen : ks[column]].ravel()
            counts += np.bincount(new, minlength=counts.size).reshape(counts.shape)
            seen = ks[column]
            total[column] += winners_worth(counts[:, :classes], ballots.worth).sum()
    return total / draws
