"""The exact probability that a majority vote among k of a problem's samples is correct.

With X_i the votes of class i in a random k-subset, the worth is a sum over the winning count v of P(X_j = v,
no other class above v, ties shared). Independent binomials X_i ~ Bin(n_i, p), given that they add up to k,
are distributed exactly like the votes in a k-subset, for any p; that turns the sum into products of
polynomials, one factor per class. A tie of 1 + t classes must be shared by 1 / (1 + t), which is the integral
of z^t over z from 0 to 1: each class tied with the winner contributes a factor z, and Gauss-Legendre nodes
integrate the resulting polynomial in z exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from tts.curves.estimators import Floats, Integers, log_factorials

STATE = 400_000
"""Numbers held at once per polynomial, which fits a processor's cache."""


@dataclass(frozen=True)
class Ballots:
    """One problem's pool of samples, as far as a vote can tell them apart."""

    votes: Integers
    """Samples of each answer class, largest first."""
    worth: Floats
    """Share of each class that is correct."""
    abstained: int

    @property
    def size(self) -> int:
        """Samples in the pool, abstentions included."""
        return int(self.votes.sum()) + self.abstained

    @classmethod
    def count(cls, classes: Integers, correct: Floats) -> Ballots:
        """From class numbers (0, 1, ... without gaps; -1 abstains) and the worth of each sample."""
        voting = classes >= 0
        votes = np.bincount(classes[voting])
        worth = np.bincount(classes[voting], weights=correct[voting]) / np.maximum(votes, 1)
        largest_first = np.argsort(-votes, kind="stable")
        return cls(votes[largest_first], worth[largest_first], int(len(classes) - votes.sum()))


def winners_worth(counts: Integers, worth: Floats) -> Floats:
    """Mean worth of the classes with most votes, over the last axis of `counts`; 0 where nobody votes."""
    if not counts.shape[-1]:
        return np.zeros(counts.shape[:-1])
    most = counts.max(axis=-1, keepdims=True)
    wins = (counts == most) & (most > 0)
    return (wins @ worth) / np.maximum(np.count_nonzero(wins, axis=-1), 1)


def exact_work(ballots: Ballots, k: int) -> float:
    """Estimated multiply-adds of `exact_vote` for one problem."""
    classes = len(ballots.votes)
    if not classes or k == ballots.size:
        return 1.0
    most = min(k, int(ballots.votes[0]))
    if classes <= 2:
        return 20.0 * (most + 1) * (min(k, ballots.abstained) + 1)
    return 3.0 * np.minimum(ballots.votes, k).sum() * ceil(min(classes, k) / 2) * most * (k + 1)


def exact_vote(ballots: list[Ballots], k: int) -> Floats:
    """Expected worth of the vote among k samples, one value per problem."""
    values = np.zeros(len(ballots))
    general = []
    for row, ballot in enumerate(ballots):
        if not len(ballot.votes):
            continue
        if k == ballot.size:
            values[row] = winners_worth(ballot.votes, ballot.worth)
        elif len(ballot.votes) <= 2:
            values[row] = _two_classes(ballot, k)
        else:
            general.append(row)
    general.sort(key=lambda row: len(ballots[row].votes))  # alike in shape together: less padding
    per_problem = k * (k + 1) * ceil(k / 2)
    at_once = max(1, STATE // per_problem)
    for begin in range(0, len(general), at_once):
        rows = general[begin : begin + at_once]
        values[rows] = _many_classes([ballots[row] for row in rows], k)
    return values


def _two_classes(ballots: Ballots, k: int) -> float:
    """Sum over the votes for the first class (rows) and the abstentions (columns)."""
    sizes = np.append(ballots.votes, [0, 0])[:2]
    worth = np.append(ballots.worth, [0.0, 0.0])[:2]
    first = np.arange(min(k, sizes[0]) + 1)[:, np.newaxis]
    abstained = np.arange(min(k, ballots.abstained) + 1)
    second = k - first - abstained
    possible = (second >= 0) & (second <= sizes[1])
    second = np.where(possible, second, 0)
    table = log_factorials(ballots.size)

    def log_choose(n: int, chosen: Integers) -> Floats:
        return table[n] - table[chosen] - table[n - chosen]

    ways = log_choose(sizes[0], first) + log_choose(sizes[1], second) + log_choose(ballots.abstained, abstained)
    chance = np.where(possible, np.exp(ways - log_choose(ballots.size, np.array(k))), 0.0)
    tied = chance[(first == second) & (first > 0)].sum() / 2
    return float(worth[0] * (chance[first > second].sum() + tied) + worth[1] * (chance[first < second].sum() + tied))


def _many_classes(ballots: list[Ballots], k: int) -> Floats:
    """The polynomial product, for several problems at once.

    Axes of the state: problem, node z, winning count v = 1.., votes and abstentions counted so far.
    """
    classes = max(len(ballot.votes) for ballot in ballots)
    votes = np.array([np.pad(ballot.votes, (0, classes - len(ballot.votes))) for ballot in ballots])
    worth = np.array([np.pad(ballot.worth, (0, classes - len(ballot.votes))) for ballot in ballots])
    sizes = np.array([ballot.size for ballot in ballots])
    success = k / (sizes + 1)
    nodes, weights = np.polynomial.legendre.leggauss(ceil(min(classes, k) / 2))
    z = ((nodes + 1) / 2)[:, np.newaxis]
    most = min(k, int(votes.max()))

    abstained = _binomials(np.array([ballot.abstained for ballot in ballots]), success, k)
    shape = (len(ballots), len(nodes), most, k + 1)
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
