"""Whether more samples pay, from a stored run: what resampling against each strategy's verifier would have come to.

The analysis of Stroebl et al. 2024 (arXiv 2411.17501), see `tts.studies.imperfect_verifier`; nothing is sampled again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

import numpy as np

from tts.curves import CurveError, Interval, powers_of_two
from tts.curves.estimators import Integers
from tts.errors import ConfigError
from tts.runs.run import Run, Track
from tts.studies.diversity_math import Line
from tts.studies.imperfect_verifier import (
    Attempts,
    Best,
    Counts,
    Rivalry,
    abstention_ratio,
    best_k,
    ceiling_line,
    critical_ratio,
    false_discovery_by_attempt,
    reward_interval,
    weak_against_strong,
)
from tts.studies.style import StyleReport, style_report
from tts.studies.two_types import TwoTypes
from tts.studies.verifiers import plain

RATIOS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Costs of a false positive, in units of the benefit of a true one, that are shown by default."""


@dataclass(frozen=True)
class Reward:
    """R(K, lambda) under one cost of false positives."""

    best: Best
    """From the counts."""
    model: Best
    """From the model of two types, which knows no largest K."""
    k: Integers
    value: Interval
    """At each k, with 95 % intervals over problems."""


@dataclass(frozen=True)
class Resampling:
    """Resampling against one verifier, with one model."""

    track: str
    """The strategy and model whose samples they are."""
    oracle: bool
    """Whether the verifier used the hidden truth."""
    counts: Counts
    critical: float
    """The cost of a false positive beyond which more samples make the result worse."""
    abstention: float
    """The cost from which it is best to give no answer at all."""
    attempts: Attempts
    model: TwoTypes
    rewards: list[Reward]
    style: StyleReport | None
    """Of programs that passed tests."""

    @property
    def findings(self) -> list[str]:
        """What it comes to, in plain sentences."""
        return list(_findings(self))

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        counts = self.counts
        measures = ("accuracy", "apparent_accuracy", "conditional_accuracy", "generalisation_gap", "unconditional_gap")
        rows = {**asdict(self), **{name: getattr(counts, name) for name in measures}}
        rows |= {"decisions": asdict(counts.decisions), "conditional_accuracy_range": counts.conditional_accuracy_range}
        return plain({**rows, "findings": self.findings})


def resampling_report(run: Run, ratios: Sequence[float] = RATIOS) -> list[Resampling]:
    """The analysis of each strategy and model of a run whose verifier accepts and refuses independent samples.

    Raises `ConfigError` when there is none.
    """
    tracks, why_not = [], []
    for track in run.tracks:
        try:
            counts = counts_of(track)
            if len(counts) < 2:
                raise ConfigError(f"{track.label}: intervals over problems need two graded problems or more")
            tracks.append((track, counts))
        except ConfigError as error:
            why_not.append(str(error))
    if not tracks:
        raise ConfigError(f"{run.path}: {'; '.join(why_not) or 'there are no results yet'}")
    return [_report(track, counts, ratios) for track, counts in tracks]


def counts_of(track: Track) -> Counts:
    """The counts of each problem, samples of all seeds together; problems that could not be graded are left out.

    Raises `ConfigError` where samples were not drawn independently, or the verifier accepts none.
    """
    counts, _ = _by_problem(track)
    return counts


def _by_problem(track: Track) -> tuple[Counts, list[str]]:
    if not track.independent:
        raise ConfigError(f"{track.label}: resampling is judged from independent samples; run best_of_n without a stop")
    sums: dict[str, np.ndarray] = {}
    ungraded = set()
    for row, said, right in zip(track.rows, track.passed, track.correct, strict=True):
        if np.isnan(right).any():
            ungraded.add(row.problem)
        accepted, truth = said == 1, right == 1
        cell = np.array([len(right), accepted.sum(), (accepted & truth).sum(), truth.sum()])
        sums[row.problem] = sums.get(row.problem, 0) + cell
    kept = {problem: row for problem, row in sorted(sums.items()) if problem not in ungraded and row[0]}
    if not kept or not any(row[1] for row in kept.values()):
        raise ConfigError(f"{track.label}: its verifier accepts no graded sample (one that only ranks needs accept=)")
    return Counts.of(*np.array(list(kept.values())).T), list(kept)


def _report(track: Track, counts: Counts, ratios: Sequence[float]) -> Resampling:
    model, ks = _fitted(counts), powers_of_two(counts.most)
    return Resampling(
        track=track.label,
        oracle=any(row.oracle for row in track.rows),
        counts=counts,
        critical=critical_ratio(counts),
        abstention=abstention_ratio(counts),
        attempts=false_discovery_by_attempt(counts),
        model=model,
        rewards=[
            Reward(best_k(counts, ratio), model.best(ratio), ks, reward_interval(counts, ks, ratio)) for ratio in ratios
        ],
        style=style_report(track),
    )


def _fitted(counts: Counts) -> TwoTypes:
    try:
        return TwoTypes.fit(counts)
    except CurveError:  # all samples are right: there is nothing to be sound about
        return TwoTypes(1.0, 1.0, 0.0, 1.0, counts.decisions.completeness or 0.0)


@dataclass(frozen=True)
class Contest:
    """A weak model that resamples against one sample of a strong one, on the problems of both."""

    weak: str
    strong: str
    problems: int
    result: Rivalry


def rivalries(run: Run) -> list[Contest]:
    """Every pair of models under the same strategy, the weaker one resampling."""
    known = [(track, *_by_problem(track)) for track in run.tracks if _usable(track)]
    found = []
    for (weak, few, first), (strong, many, second) in permutations(known, 2):
        both = sorted(set(first) & set(second))
        if weak.strategy != strong.strategy or not both:
            continue
        weaker = few[np.array([first.index(problem) for problem in both])]
        stronger = many[np.array([second.index(problem) for problem in both])]
        if weaker.accuracy < stronger.accuracy and weaker.accepted.any():
            found.append(Contest(weak.label, strong.label, len(both), weak_against_strong(weaker, stronger)))
    return found


def ceiling_over_models(runs: Sequence[Run]) -> Line:
    """The regression of conditional accuracy on single-sample accuracy over the models of several runs.

    Raises `CurveError` for fewer than three.
    """
    return ceiling_line(
        {f"{run.path}/{track.label}": counts_of(track) for run in runs for track in run.tracks if _usable(track)}
    )


def _usable(track: Track) -> bool:
    try:
        counts_of(track)
    except ConfigError:
        return False
    return True


# -- in words ------------------------------------------------------------------------------------------------------


def _findings(report: Resampling) -> Iterator[str]:
    counts, most = report.counts, report.counts.most
    yield f"one sample is right {counts.accuracy:.1%} of the time; what is accepted, {counts.conditional_accuracy:.1%}"
    low, high = counts.conditional_accuracy_range
    if silent := len(counts) - len(counts.answered):
        yield f"{silent:,} of {len(counts):,} problems have no accepted sample (from {low:.1%} to {high:.1%} with them)"
    if report.critical == np.inf:
        yield f"no cost of a false positive makes more samples harmful, up to {most}"
    else:
        yield f"more samples HARM where a false positive costs over {report.critical:.3g} times what a right one gains"
    if report.abstention < np.inf:
        yield f"from {report.abstention:.3g} times on it is best to give no answer"
    for reward in report.rewards:
        ratio, best = reward.best.ratio, reward.best
        lost = best.reward - reward.value.mean[-1]
        if 0 < best.k < most and lost >= 0.0005:
            yield f"at {ratio:g} times, stop after {best.k:.0f}: {most} samples are worth {lost:.3f} less"
