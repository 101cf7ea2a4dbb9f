"""Confidence intervals over problems: how the mean would vary with another set of problems like these.

Problems are resampled as a whole: samples of one problem are not independent evidence about the benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from tts.curves.estimators import CurveError, Floats

WEIGHTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean over problems with its confidence bounds; one entry per k."""

    mean: Floats
    low: Floats
    high: Floats
    level: float


def bootstrap(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0, proportions: bool = False
) -> Interval:
    """Mean over problems of a (problems x ks) matrix with a bias-corrected, accelerated bootstrap interval.

    BCa (Efron 1987, section 3): percentiles of the resampled means, shifted for bias and skewness; for a mean the
    acceleration has a closed form. `level` is the coverage probability, `resamples` how often the problems are
    redrawn; the same `seed` and number of problems draw the same problems. A column in which all problems agree has
    an interval of width 0, unless `values` are `proportions` of successes and all problems are at 0 or all at 1: then
    it is the exact interval of as many trials (Clopper and Pearson 1934).

    Raises `CurveError` for fewer than two problems, values that are not finite, or a level outside (0, 1).
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < 2:
        raise CurveError(
            f"an interval needs a (problems x ks) matrix of at least two problems, not shape {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        raise CurveError("a value is not finite: leave out the problems without a result, for every k alike")
    if not 0 < level < 1 or resamples < 1:
        raise CurveError(f"level must lie between 0 and 1 and resamples be positive: {level=}, {resamples=}")
    mean = matrix.mean(axis=0)
    # Summed as deviations, so that a column without spread stays free of rounding.
    means = mean + _resampled_means(matrix - mean, resamples, np.random.default_rng(seed))
    bounds = np.array([_bca(means[:, i], matrix[:, i], mean[i], level) for i in range(len(mean))]).reshape(-1, 2)
    if proportions:
        surely = ((1 - level) / 2) ** (1 / len(matrix))
        bounds[(matrix == 0).all(axis=0)] = 0, 1 - surely
        bounds[(matrix == 1).all(axis=0)] = surely, 1
    return Interval(mean, bounds[:, 0], bounds[:, 1], level)


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Interval of mean(first - second) over the same problems in the same order, both problems x ks.

    What the two have in common (hard problems are hard for both) cancels, so it is much narrower than their own
    intervals suggest.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape:
        raise CurveError(
            f"a paired difference needs the same problems and ks on both sides: {one.shape}, {other.shape}"
        )
    return bootstrap(one - other, level=level, resamples=resamples, seed=seed)


def _resampled_means(matrix: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    problems = len(matrix)
    means = np.empty((resamples, matrix.shape[1]))
    at_once = max(1, WEIGHTS_AT_ONCE // problems)
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = generator.integers(problems, size=(rows, problems)) + problems * np.arange(rows)[:, np.newaxis]
        times = np.bincount(drawn.ravel(), minlength=rows * problems).reshape(rows, problems)
        means[start : start + rows] = times @ matrix / problems
    return means


def _bca(means: Floats, values: Floats, mean: float, level: float) -> tuple[float, float]:
    deviations = values - mean
    spread = (deviations**2).sum()
    if spread <= 1e-24 * len(values):
        return mean, mean
    normal = NormalDist()
    share_below = ((means < mean).sum() + 0.5 * (means == mean).sum()) / len(means)
    bias = normal.inv_cdf(float(np.clip(share_below, 1e-6, 1 - 1e-6)))
    acceleration = float((deviations**3).sum() / (6 * spread**1.5))
    low, high = (
        normal.cdf(bias + (bias + tail) / (1 - acceleration * (bias + tail)))
        for tail in (normal.inv_cdf((1 - level) / 2), normal.inv_cdf((1 + level) / 2))
    )
    lower, upper = np.quantile(means, [low, high])
    return float(lower), float(upper)
