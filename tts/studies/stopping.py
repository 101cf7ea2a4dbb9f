"""What rules of stopping would have saved in a stored run, and what that would have cost in accuracy.

Every problem's independent samples are replayed in random orders, and a rule is compared with the same number of
samples of every problem that costs as much on average.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import PositiveInt

from tts.curves import mean_interval, paired_difference
from tts.errors import ConfigError
from tts.runs import Run
from tts.runs.estimates import GradedPool, by_problem
from tts.runs.run import Floats, Track
from tts.stopping import RULES, Evidence, RuleField, Stopping
from tts.studies import Study, StudyFindings, Table, TrackReport, reports_on
from tts.tables import interval, number, percent, points, points_between


class StoppingRules(Study):
    """What rules of stopping (`stop=` of `self_consistency` and `best_of_n`) would have saved, and cost."""

    name = "stopping"

    rules: tuple[RuleField, ...] = ()
    """By default each with its defaults: `rules=[beta(confidence=0.9),windows(size=4)]`."""
    x: str = "completion_tokens"
    """What compute is counted in."""
    orders: PositiveInt = 20
    """Random orders of each problem's samples."""
    seed: int = 0

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        rules = self.rules or tuple(rule() for rule in RULES.values())
        reports, rows = reports_on(
            runs, lambda run: stopping_report(run, rules, self.x, orders=self.orders, seed=self.seed)
        )
        columns = ("samples", self.x.replace("_", " "), "accuracy", "95 %", "changed", "fixed n, same cost", "95 %")
        made = Table("Stopping by evidence", ("strategy", "rule"), columns)
        for label, one in reports:
            for found in one.rules:
                made.add_row(
                    label,
                    found.rule,
                    f"{found.samples:.2f}",
                    number(found.cost),
                    percent(found.accuracy),
                    interval(found.low, found.high),
                    percent(found.changed),
                    points(found.gain),
                    points_between(found.gain_low, found.gain_high),
                )
        made.notes = [
            "changed: how often all samples select another answer (by scores: a better one)",
            "fixed n, same cost: points of accuracy over drawing the same number of samples of every problem",
        ]
        return StudyFindings(rows, [made])


@dataclass(frozen=True)
class RuleFigures:
    """One rule over a track."""

    rule: str
    samples: float
    """Mean samples of a problem."""
    cost: float
    """Mean compute of a problem."""
    accuracy: float
    low: float
    high: float
    changed: float
    """Share of problems and orders in which all samples would select another answer."""
    gain: float
    """Accuracy less that of the fixed number of samples with the same mean cost, paired over problems."""
    gain_low: float
    gain_high: float


@dataclass(frozen=True)
class StoppingReport(TrackReport):
    """Rules over one strategy and model."""

    n: int
    rules: list[RuleFigures]


def stopping_report(
    run: Run, rules: Sequence[Stopping], x: str = "completion_tokens", *, orders: int = 20, seed: int = 0
) -> list[StoppingReport]:
    """The `rules` over every strategy with independent samples that they fit.

    Raises `ConfigError` where there is none, or nothing is graded.
    """
    found = []
    for track in run.tracks:
        if not track.independent or track.estimator == "replay":
            continue
        reads = "votes" if track.estimator == "majority" else "scores"
        fitting = [rule for rule in rules if rule.reads == reads]
        pool = GradedPool.of(track)
        if not fitting or len({pool.track.rows[i].problem for i in pool.kept}) < 2 or pool.sizes.max() < 2:
            continue
        figures = [_replayed(rule, track, pool, x, orders, seed) for rule in fitting]
        found.append(StoppingReport(track.label, int(pool.sizes.max()), figures))
    if not found:
        raise ConfigError(
            f"no strategy of {run.path} tells what a rule would have stopped: it takes independent, graded samples of "
            "two problems, from self_consistency or best_of_n without stop"
        )
    return found


def _replayed(rule: Stopping, track: Track, pool: GradedPool, x: str, orders: int, seed: int) -> RuleFigures:
    costs, rng = track.mean_cost(x), np.random.default_rng(seed)
    select, scored = (majority_of, False) if rule.reads == "votes" else (best_of, True)
    rows = []
    for i, right in zip(pool.kept, pool.flags, strict=True):
        whole = track.whole[i]
        said = [answer for answer, kept in zip(track.answers[i], whole, strict=True) if kept]
        ranks = track.ranks[i][whole].tolist()
        seen, values = (_scores(track, i), ranks) if scored else (said, said)
        for _ in range(orders):
            order = rng.permutation(len(right))
            k = stopped_at(rule, [seen[j] for j in order])
            chosen, final = select([values[j] for j in order[:k]]), select([values[j] for j in order])
            changed = final is not None and (chosen is None or values[order[chosen]] != values[order[final]])
            rows.append((k, costs[i][k - 1], 0.0 if chosen is None else right[order[chosen]], changed))
    figures = np.array(rows, dtype=np.float64).reshape(len(pool.kept), orders, 4).mean(axis=1)
    problems = [track.rows[i].problem for i in pool.kept]
    means = by_problem(figures, problems)
    fixed = by_problem(at_cost(pool, [costs[i] for i in pool.kept], float(figures[:, 1].mean())), problems)
    over, gain = mean_interval(means[:, 2:3]), paired_difference(means[:, 2:3], fixed)
    samples, cost, _, changed = means.mean(axis=0).tolist()
    return RuleFigures(rule.spec, samples, cost, *over.at(), changed, *gain.at())


def _scores(track: Track, i: int) -> list[float | None]:
    """The evidence of verdicts, as `tts.stopping.scores_of` has it."""
    scores, whole = track.split(track.verdicts[0])[i], track.whole[i]
    pairs = zip(scores[whole], track.passed[i][whole], strict=True)
    return [math.inf if passed == 1 else None if math.isnan(score) else float(score) for score, passed in pairs]


def majority_of(answers: Sequence[Any]) -> int | None:
    """The first of the most frequent answer, of equally frequent ones the one that came first."""
    votes = Counter(answer for answer in answers if answer is not None)
    return answers.index(max(votes, key=lambda answer: votes[answer])) if votes else None


def best_of(ranks: Sequence[Any]) -> int | None:
    """The first of the highest."""
    return ranks.index(max(ranks)) if ranks else None


def at_cost(pool: GradedPool, costs: Sequence[Floats], mean: float) -> Floats:
    """The accuracy of each problem with the same number of samples of all, between two whole ones, that costs so much
    on average."""
    at = np.minimum(np.arange(1, int(pool.sizes.max()) + 1), pool.sizes[:, np.newaxis])
    accuracies = pool.selected(at)[0]
    spent = np.array([cost[ks - 1] for cost, ks in zip(costs, at, strict=True)]).mean(axis=0)
    k = float(np.interp(mean, spent, np.arange(len(spent))))
    low, share = int(k), k - int(k)
    return ((1 - share) * accuracies[:, low] + share * accuracies[:, min(low + 1, len(spent) - 1)])[:, np.newaxis]


def stopped_at(rule: Stopping, evidence: Evidence) -> int:
    """How many of these samples are drawn."""
    drawn = 0
    while drawn < len(evidence) and (more := rule.more(evidence[:drawn], len(evidence))):
        drawn = min(drawn + more, len(evidence))
    return drawn
