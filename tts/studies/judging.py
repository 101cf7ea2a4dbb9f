"""How well a verifier's decisions and scores agree with the truth, over candidates whose truth is known.

All work on flat arrays of candidates: `correct` is 1 or 0, `passed` is 1, 0 or NaN where the verifier does not decide,
`scores` are numbers, higher is better. What cannot be measured, such as an AUROC without a wrong candidate, is None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tts.curves import CurveError, mean_ranks
from tts.curves.estimators import Floats, Integers

Measure = Callable[[ArrayLike, ArrayLike, Integers], Floats]
"""Of scores, truth and groups: one number for each group."""


@dataclass(frozen=True)
class Decisions:
    """How often a verifier accepts what is right and refuses what is wrong."""

    decided: int
    """Candidates that it accepts or refuses."""
    completeness: float | None
    """Share of the right ones that it accepts (true positive rate, recall)."""
    soundness: float | None
    """Share of the wrong ones that it refuses (true negative rate)."""
    false_discovery: float | None
    """Share of the accepted ones that are wrong (1 - precision)."""


def decisions(passed: ArrayLike, correct: ArrayLike) -> Decisions:
    """The rates of a verifier's decisions; candidates on which it does not decide do not count."""
    said, truth = _flat(passed, correct)
    decided = ~np.isnan(said)
    accepted, right = said[decided] > 0, truth[decided] > 0
    return Decisions(
        int(decided.sum()),
        completeness=_share(accepted[right]),
        soundness=_share(~accepted[~right]),
        false_discovery=_share(~right[accepted]),
    )


def auroc(scores: ArrayLike, correct: ArrayLike) -> float | None:
    """Probability that a right candidate scores higher than a wrong one, both drawn at random; a tie counts half.

    The Mann-Whitney statistic U / (right x wrong) (Hanley & McNeil 1982). None where all are right or all are wrong.
    """
    return _alone(aurocs, scores, correct)


def rank_correlation(scores: ArrayLike, correct: ArrayLike) -> float | None:
    """Spearman's rank correlation of scores and truth, from -1 to 1, with mean ranks for ties.

    None where all scores are equal, or all are right, or all are wrong.
    """
    return _alone(rank_correlations, scores, correct)


def aurocs(scores: ArrayLike, correct: ArrayLike, groups: Integers) -> Floats:
    """`auroc` within each of the groups 0, 1, ...; NaN where there is none."""
    values, truth = _flat(scores, correct)
    right, size = np.bincount(groups, truth), np.bincount(groups)
    above = np.bincount(groups, mean_ranks(values, groups) * truth) - right * (right + 1) / 2
    pairs = right * (size - right)
    return np.where(pairs > 0, above / np.maximum(pairs, 1), np.nan)


def rank_correlations(scores: ArrayLike, correct: ArrayLike, groups: Integers) -> Floats:
    """`rank_correlation` within each of the groups 0, 1, ...; NaN where there is none."""
    values, truth = _flat(scores, correct)
    middle = (np.bincount(groups)[groups] + 1) / 2
    one, other = (mean_ranks(part, groups) - middle for part in (values, truth))
    both, *squares = (np.bincount(groups, part) for part in (one * other, one**2, other**2))
    scale = np.sqrt(squares[0] * squares[1])
    return np.where(scale > 0, np.clip(both / np.where(scale > 0, scale, 1), -1, 1), np.nan)


def _alone(measure: Measure, scores: ArrayLike, correct: ArrayLike) -> float | None:
    found = measure(scores, correct, np.zeros(np.size(scores), np.int64))
    return float(found[0]) if len(found) and not np.isnan(found[0]) else None


def within_problems(
    measure: Measure, scores: ArrayLike, correct: ArrayLike, problems: Integers
) -> tuple[float | None, int]:
    """The mean of a measure over the problems in which it can be taken, and how many those are.

    `problems` are the numbers of the candidates' problems. This is what selection depends on: that easy problems score
    higher than hard ones helps no choice within a problem.
    """
    values = measure(scores, correct, problems)
    known = values[~np.isnan(values)]
    return (float(known.mean()) if len(known) else None), len(known)


@dataclass(frozen=True)
class Reliability:
    """How far scores between 0 and 1 are from probabilities. Arrays have one entry for each bin that is not empty."""

    error: float
    """Expected calibration error: the mean of |mean score - share right| over bins, weighted by their candidates."""
    low: Floats
    """Where each bin starts; all are equally wide."""
    count: Integers
    score: Floats
    """Mean score."""
    right: Floats
    """Share of right candidates."""


def calibration(scores: ArrayLike, correct: ArrayLike, bins: int = 10) -> Reliability | None:
    """Reliability in bins of equal width (Guo et al. 2017, arXiv 1706.04599, section 2).

    A score on an edge belongs to the bin above it, 1 to the last. None without scores in 0 to 1.
    """
    values, truth = _flat(scores, correct)
    if not len(values) or values.min() < 0 or values.max() > 1:
        return None
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    filled = np.flatnonzero(count)
    score, right = (np.bincount(place, part, minlength=bins)[filled] / count[filled] for part in (values, truth))
    error = float((count[filled] * np.abs(score - right)).sum() / len(values))
    return Reliability(error, filled / bins, count[filled], score, right)


def _flat(values: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    said, truth = np.asarray(values, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if said.shape != truth.shape or said.ndim != 1:
        raise CurveError(f"one value and one truth for each candidate, not {said.shape} and {truth.shape}")
    if not np.isin(truth, (0.0, 1.0)).all():
        raise CurveError("correct must be 0 or 1: leave out candidates that could not be graded")
    return said, truth


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None
