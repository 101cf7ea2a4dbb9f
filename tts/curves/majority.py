"""Accuracy of a majority vote among k samples, from one pool of samples per problem.

Selection: answers are grouped into classes, those of the whole pool; a sample without an answer abstains, the class
with most votes wins, and of classes with equally many votes the one that appeared first. In a random order each of the
tied classes is the first equally often, so ties share the probability equally. The sample handed out is the
earliest of the winning class, which is any of its members equally often: what a class is worth is the share
of its members that are correct. If all abstain, nothing is selected, which is not correct.

The vote among a random k-subset depends on the class counts alone, which are multivariate hypergeometric. It is summed
exactly where that is affordable, and otherwise averaged over seeded shuffles of the pool.

The exact sum: with X_i the votes of class i in a random k-subset, the worth is a sum over the winning count v of
P(X_j = v, no other class above v, ties shared). Independent binomials X_i ~ Bin(n_i, p), given that they add up to k,
are distributed exactly like the votes in a k-subset, for any p; that turns the sum into products of polynomials, one
factor per class. A tie of 1 + t classes must be shared by 1 / (1 + t), which is the integral of z^t over z from 0 to
1: each class tied with the winner contributes a factor z, and Gauss-Legendre nodes integrate the resulting polynomial
in z exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tts.curves.estimators import (
    CurveError,
    Floats,
    Integers,
    Pools,
    correctness,
    log_factorials,
    require_samples,
    valid_ks,
)

EXACT_WORK = 2.5e8
"""Multiply-adds spent on exact sums in one call (about a second); the cheapest cells go first."""
SHUFFLED_SAMPLES = 2e7
"""Shuffled samples that the default number of draws aims at in one call (about a second)."""
DRAWS = (100, 2000)
"""Bounds of the default number of draws."""
STATE = 400_000
"""Numbers held at once per polynomial, which fits a processor's cache."""


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
    sizes = ballots.sizes
    require_samples("majority@k", sizes, ks)
    flat = ks.ravel()
    chosen = _affordable(ballots, flat, exact)
    if draws is None:
        draws = int(np.clip(SHUFFLED_SAMPLES / max(sizes.sum(), 1), *DRAWS))
    if draws < 1:
        raise CurveError(f"draws must be at least 1, not {draws}")
    values = np.zeros((len(sizes), flat.size))
    for column, size in enumerate(flat):
        rows = np.flatnonzero(chosen[:, column])
        values[rows, column] = exact_vote(ballots[rows], int(size))
    for row in np.flatnonzero(~chosen.all(axis=1)).tolist():
        columns = np.flatnonzero(~chosen[row])
        generator = np.random.default_rng([seed, row])
        values[row, columns] = _resample(ballots[[row]], flat[columns], draws, generator)
    shape = (len(sizes), *ks.shape)
    return MajorityEstimate(values.reshape(shape), chosen.reshape(shape), ks, seed, draws)


def _count(answers: Sequence[Iterable[Any]] | NDArray[np.integer], correct: Pools) -> Ballots:
    classes = [_class_numbers(pool) for pool in answers]
    worth = correctness(correct, [len(pool) for pool in classes])
    none = np.empty(0)
    return Ballots.count(
        np.concatenate([none.astype(np.int64), *classes]),
        np.concatenate([none, *worth]),
        np.array([len(pool) for pool in classes], dtype=np.int64),
    )


def _class_numbers(answers: Iterable[Any]) -> Integers:
    """Class numbers; a negative one abstains."""
    if isinstance(answers, np.ndarray) and np.issubdtype(answers.dtype, np.integer):
        return answers.astype(np.int64)
    seen: dict[Any, int] = {}
    return np.array([-1 if a is None else seen.setdefault(a, len(seen)) for a in answers], dtype=np.int64)


def _affordable(ballots: Ballots, ks: Integers, exact: bool | None) -> NDArray[np.bool_]:
    """Which cells (problems x ks) to sum exactly."""
    if exact is not None:
        return np.full((len(ballots.sizes), ks.size), exact)
    work = np.array([exact_work(ballots, int(k)) for k in ks]).reshape(ks.size, len(ballots.sizes)).T
    cheapest = np.argsort(work, axis=None, kind="stable")
    chosen = np.zeros(work.size, dtype=np.bool_)
    chosen[cheapest] = np.cumsum(work.ravel()[cheapest]) <= EXACT_WORK
    return chosen.reshape(work.shape)


def _resample(ballots: Ballots, ks: Integers, draws: int, generator: np.random.Generator) -> Floats:
    """Mean worth of the vote over shuffles of one problem's pool, at each prefix length in `ks`."""
    votes, worth, size = ballots.votes[0], ballots.worth[0], int(ballots.sizes[0])
    classes = len(votes)
    pool = np.repeat(np.arange(classes + 1), np.append(votes, ballots.abstained))
    order = np.argsort(ks)
    total = np.zeros(ks.size)
    at_once = max(1, 2_000_000 // size)
    for start in range(0, draws, at_once):
        rows = min(at_once, draws - start)
        shuffled = generator.permuted(np.broadcast_to(pool, (rows, size)), axis=1)
        shuffled += np.arange(rows)[:, np.newaxis] * (classes + 1)
        counts = np.zeros((rows, classes + 1), dtype=np.int64)
        seen = 0
        for column in order:
            new = shuffled[:, seen : ks[column]].ravel()
            counts += np.bincount(new, minlength=counts.size).reshape(counts.shape)
            seen = ks[column]
            total[column] += winners_worth(counts[:, :classes], worth).sum()
    return total / draws


# -- the exact sum --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ballots:
    """The pools of some problems, as far as a vote can tell their samples apart; a row for each problem."""

    votes: Integers
    """Samples of each answer class, largest first, then 0 (problems x classes)."""
    worth: Floats
    """Share of each class that is correct."""
    abstained: Integers

    @property
    def sizes(self) -> Integers:
        """Samples in each pool, abstentions included."""
        return self.votes.sum(axis=1) + self.abstained

    @property
    def classes(self) -> Integers:
        """How many classes each pool has."""
        return np.count_nonzero(self.votes, axis=1)

    def __getitem__(self, rows: Integers | list[int]) -> Ballots:
        """Those of some problems, in as many columns as they need."""
        votes, worth = self.votes[rows], self.worth[rows]
        most = np.count_nonzero(votes, axis=1).max(initial=0)
        return Ballots(votes[:, :most], worth[:, :most], self.abstained[rows])

    @classmethod
    def count(cls, classes: Integers, correct: Floats, sizes: Integers) -> Ballots:
        """From the class number (negative: it abstains) and the worth of each sample, problem after problem."""
        voting = classes >= 0
        problem = np.repeat(np.arange(len(sizes)), sizes)[voting]
        named = problem * (classes.max(initial=0) + 1) + classes[voting]
        _, first, number, votes = np.unique(named, return_index=True, return_inverse=True, return_counts=True)
        worth = np.bincount(number, weights=correct[voting], minlength=len(votes)) / votes
        row = problem[first]
        order = np.lexsort((first, -votes, row))  # of classes with equally many votes the one that appeared first
        of = np.bincount(row, minlength=len(sizes))
        column = np.arange(len(row)) - np.repeat(np.cumsum(of) - of, of)
        shape = (len(sizes), of.max(initial=0))
        table, shares = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        table[row[order], column], shares[row[order], column] = votes[order], worth[order]
        return cls(table, shares, sizes - table.sum(axis=1))


def winners_worth(counts: Integers, worth: Floats) -> Floats:
    """Mean worth of the classes with most votes, over the last axis of `counts`; 0 where nobody votes.

    `worth` is that of the classes, the same in all rows or one row for each.
    """
    if not counts.shape[-1]:
        return np.zeros(counts.shape[:-1])
    most = counts.max(axis=-1, keepdims=True)
    wins = (counts == most) & (most > 0)
    total = wins @ worth if worth.ndim == 1 else (wins * worth).sum(axis=-1)
    return total / np.maximum(np.count_nonzero(wins, axis=-1), 1)


def exact_work(ballots: Ballots, k: int) -> Floats:
    """Estimated multiply-adds of `exact_vote` for each problem."""
    classes, most = ballots.classes, np.minimum(ballots.votes[:, :1].sum(axis=1), k)
    two = 20.0 * (most + 1) * (np.minimum(k, ballots.abstained) + 1)
    many = 3.0 * np.minimum(ballots.votes, k).sum(axis=1) * np.ceil(np.minimum(classes, k) / 2) * most * (k + 1)
    return np.where((classes == 0) | (ballots.sizes == k), 1.0, np.where(classes <= 2, two, many))


def exact_vote(ballots: Ballots, k: int) -> Floats:
    """Expected worth of the vote among k samples, one value per problem."""
    classes, whole = ballots.classes, ballots.sizes == k
    values = np.zeros(len(classes))
    values[whole] = winners_worth(ballots.votes[whole], ballots.worth[whole])
    for row in np.flatnonzero(~whole & (classes > 0) & (classes <= 2)):
        values[row] = _two_classes(ballots.votes[row], ballots.worth[row], int(ballots.abstained[row]), k)
    general = np.flatnonzero(~whole & (classes > 2))
    general = general[np.argsort(classes[general], kind="stable")]  # similar shapes together: less padding
    per_problem = k * (k + 1) * ceil(k / 2)
    at_once = max(1, STATE // per_problem)
    for start in range(0, len(general), at_once):
        rows = general[start : start + at_once]
        values[rows] = _many_classes(ballots[rows], k)
    return values


def _two_classes(votes: Integers, worth: Floats, silent: int, k: int) -> float:
    """Sum over the votes for the first class (rows) and the abstentions (columns)."""
    sizes = np.append(votes, [0, 0])[:2]
    worth = np.append(worth, [0.0, 0.0])[:2]
    first = np.arange(min(k, sizes[0]) + 1)[:, np.newaxis]
    abstained = np.arange(min(k, silent) + 1)
    second = k - first - abstained
    possible = (second >= 0) & (second <= sizes[1])
    second = np.where(possible, second, 0)
    size = int(sizes.sum()) + silent
    table = log_factorials(size)

    def log_choose(n: int, chosen: Integers) -> Floats:
        return table[n] - table[chosen] - table[n - chosen]

    ways = log_choose(sizes[0], first) + log_choose(sizes[1], second) + log_choose(silent, abstained)
    chance = np.where(possible, np.exp(ways - log_choose(size, np.array(k))), 0.0)
    tied = chance[(first == second) & (first > 0)].sum() / 2
    return float(worth[0] * (chance[first > second].sum() + tied) + worth[1] * (chance[first < second].sum() + tied))


def _many_classes(ballots: Ballots, k: int) -> Floats:
    """The polynomial product, for several problems at once.

    Axes of the state: problem, node z, winning count v = 1.., votes and abstentions counted so far.
    """
    votes, worth, sizes = ballots.votes, ballots.worth, ballots.sizes
    classes = votes.shape[1]
    success = k / (sizes + 1)
    nodes, weights = np.polynomial.legendre.leggauss(ceil(min(classes, k) / 2))
    z = ((nodes + 1) / 2)[:, np.newaxis]
    most = min(k, int(votes.max()))

    abstained = _binomials(ballots.abstained, success, k)
    shape = (len(sizes), len(nodes), most, k + 1)
    undecided = np.broadcast_to(abstained[:, np.newaxis, np.newaxis, :], shape).copy()
    won = np.zeros(shape)
    for number in range(classes):
        chances = _binomials(votes[:, number], success, k)[:, :, np.newaxis, np.newaxis, np.newaxis]
        value = worth[:, number, np.newaxis, np.newaxis]
        next_undecided, next_won = np.zeros(shape), np.zeros(shape)
        for u in range(min(k, int(votes[:, number].max())) + 1):
            chance, rest = chances[:, u], k + 1 - u
            # Fewer votes than the winner: no matter.
            next_undecided[:, :, u:, u:] += chance * undecided[:, :, u:, :rest]
            next_won[:, :, u:, u:] += chance * won[:, :, u:, :rest]
            if 1 <= u <= most:  # As many as the winner: tied with it (z), or the winner itself.
                chance, before = chance[..., 0], undecided[:, :, u - 1, :rest]
                next_undecided[:, :, u - 1, u:] += chance * z * before
                next_won[:, :, u - 1, u:] += chance * (z * won[:, :, u - 1, :rest] + value * before)
        undecided, won = next_undecided, next_won
    joint = won[:, :, :, k].sum(axis=2) @ (weights / 2)
    return joint / _binomials(sizes, success, k)[:, k]


def _binomials(n: Integers, success: Floats, k: int) -> Floats:
    """P(Bin(n, success) = u) for u = 0..k, one row per problem."""
    u = np.arange(k + 1)
    table = log_factorials(max(int(n.max()), k))
    n, success = n[:, np.newaxis], success[:, np.newaxis]
    failures = np.maximum(n - u, 0)
    exponent = table[n] - table[u] - table[failures] + u * np.log(success) + failures * np.log1p(-success)
    return np.where(u <= n, np.exp(exponent), 0.0)
