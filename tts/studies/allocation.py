"""What a total budget would have gained in a stored run by going where it gains most, at every total.

Each problem's samples are replayed in random orders through the allocator of `tts run --total-budget`, which sees what
the verifier said of a sample and what it cost; the truth grades what is selected. So a verifier that accepts wrong
answers costs the allocation accuracy, as it would live.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from tts.allocation import Allocator, Kind, Policy, evidence_kind
from tts.curves import mean_interval, paired_difference
from tts.errors import ConfigError
from tts.runs import Run
from tts.runs.estimates import GradedPool
from tts.runs.run import Track
from tts.studies import Study, StudyFindings, Table, TrackReport, reports_on
from tts.studies.stopping import best_of, majority_of
from tts.tables import interval, number, percent, points, points_between

Floats = NDArray[np.float64]
Way = Policy | Literal["rates", "oracle"]

WAYS: tuple[Way, ...] = ("greedy", "thompson", "uniform", "rates", "oracle")
GRID = 48
"""Total budgets between which is interpolated."""
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Of what all samples cost."""


class Allocation(Study):
    """What a total budget would have gained by going where it gains most (`tts run --total-budget`)."""

    x: str = "completion_tokens"
    """What the budget is counted in."""
    orders: PositiveInt = 20
    """Random orders of each problem's samples."""
    seed: int = 0

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        reports, rows = reports_on(runs, lambda run: allocation_report(run, self.x, orders=self.orders, seed=self.seed))
        columns = (self.x.replace("_", " "), "accuracy", "95 %", "over uniform", "95 %", "saves", "95 %")
        made = Table("A total budget over all problems", ("strategy", "policy"), columns)
        for label, one in reports:
            for found in one.points:
                made.add_row(
                    label,
                    found.policy,
                    number(found.budget),
                    percent(found.accuracy),
                    interval(found.low, found.high),
                    points(found.gain),
                    points_between(found.gain_low, found.gain_high),
                    _times(found.saves),
                    _times(found.saves_low, found.saves_high),
                )
            made.notes += [f"{label}: {words}" for words in one.sentences()]
        made.notes += [
            "saves: by how much less the policy reaches what uniform reaches with this budget; intervals over problems",
            "rates: knows beforehand how often each problem's samples are right, as a perfect guess would, and what "
            "they cost; where a verifier accepts",
            "oracle: knows beforehand which samples are right, and draws those problems' first that take least",
        ]
        return StudyFindings(rows, [made])


@dataclass(frozen=True)
class AllocationPoint:
    """One policy at one total budget."""

    policy: str
    budget: float
    accuracy: float
    low: float
    high: float
    gain: float
    """Accuracy less that of `uniform`, paired over problems."""
    gain_low: float
    gain_high: float
    saves: float | None
    """The budget over that with which the policy reaches what `uniform` reaches with it; None: it does not."""
    saves_low: float | None
    saves_high: float | None


@dataclass(frozen=True)
class AllocationReport(TrackReport):
    """All policies over one strategy and model."""

    kind: Kind
    problems: int
    precision: float | None
    """Share of the accepted samples that are right, where the verifier accepts."""
    points: list[AllocationPoint]

    def sentences(self) -> Iterator[str]:
        if self.precision is not None:
            yield f"of the samples that the verifier accepted, {percent(self.precision)} are right"


def allocation_report(
    run: Run, x: str = "completion_tokens", *, orders: int = 20, seed: int = 0
) -> list[AllocationReport]:
    """Every strategy with independent samples under every policy. Raises `ConfigError` where there is none."""
    found = []
    for track in run.tracks:
        if track.independent and track.estimator != "replay" and track.method.gains:
            replayed = Replay.of(track, x)
            if len(replayed.outcomes) > 1 and max(map(len, replayed.outcomes)) > 1:
                found.append(_report(track, replayed, orders, seed))
    if not found:
        raise ConfigError(
            f"no strategy of {run.path} has what could have been shared out: it takes independent, graded samples of "
            "two problems, from self_consistency or best_of_n without stop and without a total budget"
        )
    return found


@dataclass(frozen=True)
class Replay:
    """The samples of a track, as an allocator sees them; the seeds of a problem are further samples."""

    kind: Kind
    seen: list[list[float | str | None]]
    """What an allocator reads off each sample."""
    ranks: list[list[float | str | None]]
    """What selects: verdicts' ranks, or answers."""
    outcomes: list[Floats]
    """Truth."""
    costs: list[Floats]
    """What each sample costs alone."""

    @classmethod
    def of(cls, track: Track, x: str) -> Replay:
        pool, votes = GradedPool.of(track), track.estimator == "majority"
        decisions = [None if np.isnan(one) else bool(one) for part in track.passed for one in part]
        kind = evidence_kind(votes, decisions)
        scores, means = track.split(track.verdicts[0]), track.mean_cost(x)
        made: dict[str, tuple[list[Any], ...]] = {}
        for i, right in zip(pool.kept, pool.flags, strict=True):
            whole = track.whole[i]
            answers = [one for one, kept in zip(track.answers[i], whole, strict=True) if kept]
            ranks = answers if votes else track.ranks[i][whole].tolist()
            plain = np.nan_to_num(track.passed[i]) if kind == "passes" else scores[i]
            seen = answers if votes else [None if np.isnan(one) else float(one) for one in plain[whole]]
            own = made.setdefault(track.rows[i].problem, ([], [], [], []))
            cost = [float(means[i][-1]) / len(right)] * len(right)
            for mine, more in zip(own, (seen, ranks, right.tolist(), cost), strict=True):
                mine.extend(more)
        seen, ranks, outcomes, costs = map(list, zip(*made.values(), strict=True)) if made else ([], [], [], [])
        return cls(kind, seen, ranks, [np.array(one) for one in outcomes], [np.array(one) for one in costs])

    def select(self, problem: int, order: NDArray[np.int64], k: int) -> float:
        """Whether what is selected among the first `k` in this order is right."""
        if k == 0:
            return 0.0
        ranks = [self.ranks[problem][j] for j in order[:k]]
        chosen = majority_of(ranks) if self.kind == "votes" else best_of(ranks)
        return 0.0 if chosen is None else float(self.outcomes[problem][order[chosen]])

    def spend(
        self, policy: Way | Allocator, orders: Sequence[NDArray[np.int64]], budgets: Floats, seed: int = 0
    ) -> Floats:
        """Whether each problem is solved at each total budget (problems x budgets); `seed` is for a policy's chance."""
        if policy == "oracle":
            return self._clairvoyant(orders, budgets)
        if policy == "rates":
            return self._foreseeing(orders, budgets)
        allocator = policy
        if isinstance(allocator, str):
            allocator = Allocator(allocator, self.kind, len(orders), np.random.default_rng(seed))
        drawn, right = np.zeros(len(orders), dtype=np.int64), np.zeros(len(orders))
        spent, sizes = 0.0, np.array([len(one) for one in orders])
        costs = [np.cumsum(cost[order]) for cost, order in zip(self.costs, orders, strict=True)]
        solved = np.zeros((len(orders), len(budgets)))
        reached = 0
        while True:
            chosen = allocator.round(drawn < sizes, np.zeros(len(orders)), 0.0)
            for i in chosen:
                spent += float(self.costs[i][orders[i][drawn[i]]])
                while reached < len(budgets) and budgets[reached] < spent * (1 - 1e-9):
                    solved[:, reached] = right
                    reached += 1
                drawn[i] += 1
                right[i] = self.select(i, orders[i], int(drawn[i]))
            for i in chosen:
                allocator.observe(i, [self.seen[i][j] for j in orders[i][: drawn[i]]], float(costs[i][drawn[i] - 1]))
            if not chosen or reached == len(budgets):
                break
        solved[:, reached:] = right[:, np.newaxis]
        return solved

    def _foreseeing(self, orders: Sequence[NDArray[np.int64]], budgets: Floats) -> Floats:
        """One problem after the other, from the one whose samples are right oftenest for their cost, each until one is
        accepted."""
        hits = [
            [one == 1.0 for one in seen] & (right > 0) for seen, right in zip(self.seen, self.outcomes, strict=True)
        ]
        rates = [hit.mean() / cost.mean() for hit, cost in zip(hits, self.costs, strict=True)]
        solved, spent = np.zeros((len(orders), len(budgets))), 0.0
        for i in np.argsort(-np.array(rates), kind="stable").tolist():
            for k, j in enumerate(orders[i].tolist(), 1):
                spent += self.costs[i][j]
                solved[i, budgets >= spent * (1 - 1e-9)] = self.select(i, orders[i], k)
                if self.seen[i][j] == 1.0:
                    break
        return solved

    def _clairvoyant(self, orders: Sequence[NDArray[np.int64]], budgets: Floats) -> Floats:
        first = np.full(len(orders), np.inf)
        for i, order in enumerate(orders):
            hits = np.flatnonzero(self.outcomes[i][order] > 0)
            if len(hits):
                first[i] = self.costs[i][order[: hits[0] + 1]].sum()
        cheapest = np.argsort(first, kind="stable")
        solved = np.zeros((len(orders), len(budgets)))
        solved[cheapest] = np.cumsum(first[cheapest])[:, np.newaxis] <= budgets * (1 + 1e-9)
        return solved


def _report(track: Track, replayed: Replay, orders: int, seed: int) -> AllocationReport:
    rng, count = np.random.default_rng(seed), len(replayed.outcomes)
    whole = float(sum(cost.sum() for cost in replayed.costs))
    budgets = np.unique([*np.geomspace(whole / 64, whole, GRID).tolist(), *(share * whole for share in SHARES)])
    ways: list[Way] = [way for way in WAYS if way != "rates" or replayed.kind == "passes"]
    solved: dict[Way, Floats] = {way: np.zeros((count, len(budgets))) for way in ways}
    for number_ in range(orders):
        shuffled = [rng.permutation(len(one)) for one in replayed.outcomes]
        for way, sums in solved.items():
            sums += replayed.spend(way, shuffled, budgets, seed + number_) / orders
    places = [int(np.argmin(np.abs(budgets - share * whole))) for share in SHARES]
    resampled = rng.multinomial(count, np.full(count, 1 / count), 200) / count
    found = []
    for way, values in solved.items():
        uniform = solved["uniform"]
        over = mean_interval(values[:, places])
        ahead = paired_difference(values[:, places], uniform[:, places])
        for column, place in enumerate(places):
            each = [_saved(budgets, weights @ values, weights @ uniform, place) for weights in resampled]
            known = np.array([one for one in each if one is not None])
            reached = len(known) > 0.975 * len(each)
            accuracy, low, high = over.at(column)
            gain, gain_low, gain_high = ahead.at(column)
            found.append(
                AllocationPoint(
                    policy=way,
                    budget=float(budgets[place]),
                    accuracy=accuracy,
                    low=low,
                    high=high,
                    gain=gain,
                    gain_low=gain_low,
                    gain_high=gain_high,
                    saves=_saved(budgets, values.mean(axis=0), uniform.mean(axis=0), place),
                    saves_low=float(np.quantile(known, 0.025)) if reached else None,
                    saves_high=float(np.quantile(known, 0.975)) if reached else None,
                )
            )
    accepted = [flags[said == 1] for flags, said in zip(track.correct, track.passed, strict=True)]
    accepted = np.concatenate(accepted) if accepted else np.zeros(0)
    precision = float(np.nanmean(accepted)) if len(accepted) and not np.isnan(accepted).all() else None
    return AllocationReport(track.label, replayed.kind, count, precision, found)


def _saved(budgets: Floats, values: Floats, uniform: Floats, place: int) -> float | None:
    """How many times less it takes to reach what uniform does at a place; None where it is not reached."""
    best = np.maximum.accumulate(values)
    if best[-1] < uniform[place] - 1e-12 or uniform[place] <= best[0]:
        return None
    return float(budgets[place] / np.interp(uniform[place] - 1e-9, best, budgets))


def _times(*values: float | None) -> str:
    return " to ".join("" if value is None else f"{value:.2f}×" for value in values).strip(" to")
