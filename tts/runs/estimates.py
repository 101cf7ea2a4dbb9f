"""The candidates that a track's curves are over, and their accuracy at any number of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tts.base import Strategy, Verifier, selectable
from tts.curves import best_of_k, majority_at_k, pass_at_k, taken
from tts.runs.run import Floats, Row, Track, once
from tts.strategies.sequential_feedback import Sequential
from tts.strategies.voting import Voting


@dataclass(frozen=True)
class Estimate:
    """One accuracy of a pool at any number of its candidates."""

    label: str
    closed: bool
    """Over all subsets of the candidates, instead of the prefixes of one order."""
    values: Callable[[NDArray[np.int64]], tuple[Floats, str]]
    """Given how many candidates each row has at each point (rows x points): its accuracies, the estimator's name."""


@dataclass(frozen=True)
class GradedPool:
    """The candidates that a track's curves are over: of independent ones, those that the budget did not cut off."""

    track: Track
    kept: list[int]
    """The rows that have such candidates, all of them graded."""
    empty: list[int]
    """The rows without any."""
    flags: list[Floats]
    """Truth of the candidates, for each of `kept`."""

    @classmethod
    def of(cls, track: Track, only: Callable[[Row], bool] | None = None) -> GradedPool:
        """The pool of a track, or of the rows for which `only` holds."""
        return _whole_pool(track) if only is None else cls._of(track, only)

    @classmethod
    def _of(cls, track: Track, only: Callable[[Row], bool]) -> GradedPool:
        parts = [flags[whole] for flags, whole in zip(track.correct, track.whole, strict=True)]
        wanted = [i for i, row in enumerate(track.rows) if only(row)]
        kept = [i for i in wanted if len(parts[i]) and not np.isnan(parts[i]).any()]
        return cls(track, kept, [i for i in wanted if not len(parts[i])], [parts[i] for i in kept])

    @property
    def rows(self) -> list[Row]:
        """What its curves are over."""
        return [self.track.rows[i] for i in (*self.kept, *self.empty)]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Candidates of each of `kept`."""
        return np.array([len(part) for part in self.flags], dtype=np.int64)

    @property
    def bound(self) -> bool:
        """Whether a budget has left some problems with fewer candidates than others."""
        return any(row.by_budget for row in self.rows) and (bool(self.empty) or len(np.unique(self.sizes)) > 1)

    @property
    def estimates(self) -> list[Estimate]:
        """What is drawn of the track: the accuracy of what it selects, and coverage where that is known."""
        track, found = self.track, []
        label = f"{track.label} coverage"
        if not track.independent or track.estimator == "replay":
            found.append(Estimate(track.label, False, self.replayed))
            if track.method.exhaustive:
                covered = [np.maximum.accumulate(part) for part in self.flags]
                found.append(Estimate(label, False, lambda at: (taken(covered, at), "replay")))
        if track.independent:
            if track.estimator != "replay":
                found.append(Estimate(track.label, True, self.selected))
            found.append(Estimate(label, True, lambda at: (self.coverage(at), "pass@k")))
        return found

    def replayed(self, at: NDArray[np.int64]) -> tuple[Floats, str]:
        """Whether what is selected among the first candidates is right."""
        for i, known, ks in zip(self.kept, self._known, at, strict=True):
            missing = np.unique(ks[ks > 0])
            missing = missing[np.isnan(known[missing - 1])]
            if len(missing):
                known[missing - 1] = selections(self.track, i, missing)[missing - 1]
        return taken(self._known, at), "replay"

    @cached_property
    def _known(self) -> list[Floats]:
        """What `replayed` has found at each prefix, NaN where it has not looked: all, where one pass tells it."""
        track, method = self.track, self.track.method
        pools = [(i, track.whole[i], right) for i, right in zip(self.kept, self.flags, strict=True)]
        select = type(method).select if track.verifier is None or type(track.verifier).among is Verifier.among else None
        if select in (Strategy.select, Sequential.select):
            latest = select is Sequential.select
            return [best_so_far(right, track.ranks[i][in_], track.cut_off[i][in_], latest) for i, in_, right in pools]
        votes = select is Voting.select and method.weighs_votes
        if votes and all(track.columns[i].votes for i in self.kept):
            classes, weights = track.split(track.classes), track.weights
            return [voted_so_far(right, classes[i][in_], weights[i][in_]) for i, in_, right in pools]
        return [np.full(size, np.nan) for size in self.sizes]

    @cached_property
    def right(self) -> Floats:
        """How many candidates of each of `kept` are."""
        return np.array([part.sum() for part in self.flags])

    def coverage(self, at: NDArray[np.int64]) -> Floats:
        """pass@k of each of `kept`."""
        return by_pattern(at, lambda rows, ks: pass_at_k(self.sizes[rows], self.right[rows], ks))

    def selected(self, at: NDArray[np.int64]) -> tuple[Floats, str]:
        """best-of-k or majority@k of each of `kept`, all subsets and ties averaged, and the estimator's name."""
        asked = at.shape, at.tobytes()
        if asked not in self._chosen:
            self._chosen[asked] = self._select(at)
        return self._chosen[asked]

    @cached_property
    def _chosen(self) -> dict[tuple[tuple[int, ...], bytes], tuple[Floats, str]]:
        """What `selected` has found."""
        return {}

    def _select(self, at: NDArray[np.int64]) -> tuple[Floats, str]:
        track = self.track
        if track.estimator == "best_of_k":
            ranks = [track.ranks[i][track.whole[i]] for i in self.kept]

            def best(rows: NDArray[np.int64], ks: NDArray[np.int64]) -> Floats:
                return best_of_k([ranks[row] for row in rows], [self.flags[row] for row in rows], ks)

            return by_pattern(at, best), "best-of-k"
        return self.votes(track.classes, at)

    def votes(self, classes: NDArray[np.int64], at: NDArray[np.int64]) -> tuple[Floats, str]:
        """majority@k of each of `kept` by the `classes` of all candidates (see `Track.classes`); votes of a run are
        counted once, whichever track asks.
        """
        every = self.track.split(classes)
        said = [every[i][self.track.whole[i]] for i in self.kept]
        asked = b"".join(part.tobytes() for part in (*said, *self.flags, self.sizes, at)), at.shape
        if (known := self.track.run.made.get(asked)) is not None:
            return known
        names: set[str] = set()

        def vote(rows: NDArray[np.int64], ks: NDArray[np.int64]) -> Floats:
            found = majority_at_k([said[row] for row in rows], [self.flags[row] for row in rows], ks)
            names.add(found.method)
            return found.values

        return self.track.run.made.setdefault(asked, (by_pattern(at, vote), "; ".join(sorted(names))))

    def prefixes(self, costs: list[Floats]) -> list[Floats]:
        """Of cumulative costs, those up to each candidate of the pool; all there is up to the last one."""
        found = []
        for cost, whole in zip(costs, self.track.whole, strict=True):
            own = cost[: len(whole)][whole]
            own[-1:] = cost[-1:]
            found.append(own)
        return found


@once
def _whole_pool(track: Track) -> GradedPool:
    return GradedPool._of(track, lambda row: True)


def by_pattern(at: NDArray[np.int64], estimate: Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]) -> Floats:
    """`estimate` of rows at ks, for all rows with the same ks in `at` at once; 0 at no candidates."""
    values = np.zeros(at.shape)
    patterns, which = np.unique(at, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows, asked = np.flatnonzero(which.ravel() == number), pattern > 0
        if asked.any():
            ks, places = np.unique(pattern[asked], return_inverse=True)
            values[np.ix_(rows, asked)] = estimate(rows, ks)[:, places]
    return values


def selections(track: Track, index: int, grid: NDArray[Any]) -> Floats:
    """Whether the selection among a cell's candidates is right at every prefix that `grid` asks for (0 elsewhere)."""
    kept = np.flatnonzero(track.whole[index])
    every, correct = track.candidates(track.rows[index]), track.correct[index]
    candidates = [every[i] for i in kept]
    right = np.zeros(len(candidates))
    for k in {min(int(k), len(candidates)) for k in grid}:
        prefix = selectable(candidates[:k])
        chosen = track.method.select(track.verifier.among(prefix) if track.verifier else prefix)
        right[k - 1] = correct[chosen.spawned[0]] if chosen is not None else 0.0
    return right


def best_so_far(right: Floats, ranks: Floats, cut_off: NDArray[np.bool_], latest: bool) -> Floats:
    """Whether the best of what is `selectable` in each prefix is right, the first among equals or the `latest`."""
    ranks = np.where(cut_off, ranks - ranks.max() - 1, ranks)
    before = np.maximum.accumulate(ranks)[:-1]
    better = np.append(True, ranks[1:] >= before if latest else ranks[1:] > before)
    return right[np.maximum.accumulate(np.where(better, np.arange(len(ranks)), 0))]


def voted_so_far(right: Floats, classes: NDArray[np.int64], weights: Floats) -> Floats:
    """Whether what each prefix votes for is right (`tts.base.majority`): the number of each answer, a negative one for
    none, and weights of which NaN is no vote.
    """
    voters = np.flatnonzero((classes >= 0) & ~np.isnan(weights))
    if not len(voters):
        return np.zeros(len(right))
    _, first, number = np.unique(classes[voters], return_index=True, return_inverse=True)
    votes = np.zeros((len(right), len(first)))
    votes[voters, np.argsort(np.argsort(first))[number]] = weights[voters]  # classes in the order of their first voters
    winners = np.argmax(np.cumsum(votes, axis=0), axis=1)
    return np.where(np.arange(len(right)) < voters[0], 0.0, right[voters[np.sort(first)]][winners])


@once
def final_accuracies(track: Track) -> list[float]:
    """The accuracy of each of `Track.rows` with all its candidates, as its curve ends; NaN where it is not graded.

    Where the curve has a closed form it is the mean over all orders of the candidates, so that ties are averaged;
    elsewhere whether the selected candidate is correct.
    """
    if not track.independent or track.estimator == "replay":
        pairs = zip(track.rows, track.correct, strict=True)
        return [float(flags[row.selected]) if row.selected is not None else 0.0 for row, flags in pairs]
    pool = GradedPool.of(track)
    found = np.full(len(track.rows), np.nan)
    found[pool.empty] = 0.0
    if pool.kept:
        found[pool.kept] = pool.selected(pool.sizes[:, np.newaxis])[0][:, 0]
    return found.tolist()


def by_problem(values: Floats, problems: Sequence[str] | NDArray[Any]) -> Floats:
    """The mean of the rows (seeds) of each problem, in the order of their names or numbers."""
    names, index = np.unique(np.array(problems), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    return sums / np.bincount(index)[:, np.newaxis]
