"""Confidence intervals over problems: how the mean would vary with another set of problems like these.

A problem counts as one observation: its samples are not independent evidence about the benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tts.curves.estimators import CurveError, Floats

FAR = 0.6
"""Of one pseudo-problem, the share that stands at the end of the range that a bound lies towards; the rest stands at
the other end. For values of 0 and 1, shares of 1/2 give Jeffreys' interval, which covers 90 % or less at some extreme
rates, and 1 that of Clopper and Pearson, which covers 98 % and more; 0.6 is the least that keeps coverage up."""


PAIRS = 1.5
"""Pseudo-problems of a paired difference, where 1 is too few for ten pairs (Agresti and Min 2005 add 2)."""


@dataclass(frozen=True)
class Interval:
    """A mean over problems with its confidence bounds; one entry per k."""

    mean: Floats
    low: Floats
    high: Floats
    level: float


def mean_interval(values: ArrayLike, *, level: float = 0.95, low: float = 0.0, high: float = 1.0) -> Interval:
    """Mean over problems of a (problems x ks) matrix of values between `low` and `high`, with its interval.

    Each bound is a quantile of the beta distribution over that range that has the mean and variance of the Bayesian
    bootstrap (Rubin 1981) after one pseudo-problem at the ends of the range (`FAR`). Outcomes of 0 and 1 so get an
    interval between those of Jeffreys and of Clopper and Pearson, fractions the narrower one that their spread
    warrants, and problems that all agree one that other problems might still leave. It depends smoothly on the values,
    and nothing is drawn. `level` is the coverage probability, which tests/curves/test_intervals.py measures.

    Raises `CurveError` for fewer than two problems, values outside the range, or a level outside (0, 1).
    """
    return _interval(np.asarray(values, dtype=np.float64), level, (low, high), reach=np.ones(1), weight=1)


def paired_difference(first: ArrayLike, second: ArrayLike, *, level: float = 0.95, span: float = 1.0) -> Interval:
    """Interval of mean(first - second) over the same problems in the same order, both problems x ks.

    What the two have in common (hard problems are hard for both) cancels, so it is much narrower than their own
    intervals suggest. `span` is the largest difference that is possible. The pseudo-problem of `mean_interval` differs
    as much, either way, as problems that differ do (their mean weighted by itself), and by `span` where none does.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape:
        raise CurveError(
            f"a paired difference needs the same problems and ks on both sides: {one.shape}, {other.shape}"
        )
    size = np.abs(one - other) / span
    reach = (1 + (size**2).sum(axis=0)) / (1 + size.sum(axis=0))
    return _interval(one - other, level, (-span, span), reach, PAIRS)


def _interval(matrix: Floats, level: float, ends: tuple[float, float], reach: Floats, weight: float) -> Interval:
    """`weight` pseudo-problems stand at a share `reach` of the way from the middle of the range to its `ends`."""
    if matrix.ndim != 2 or len(matrix) < 2:
        raise CurveError(
            f"an interval needs a (problems x ks) matrix of at least two problems, not shape {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        raise CurveError("a value is not finite: leave out the problems without a result, for every k alike")
    if not 0 < level < 1:
        raise CurveError(f"level must lie between 0 and 1, not at {level}")
    low, high = ends
    scaled = (matrix - low) / (high - low)
    if np.any((scaled < -1e-9) | (scaled > 1 + 1e-9)):
        raise CurveError(f"values reach from {matrix.min():g} to {matrix.max():g}, beyond {low:g} to {high:g}")
    mean = scaled.mean(axis=0)
    near, far = (1 - reach) / 2, (1 + reach) / 2  # the pseudo-problem's places
    lower = np.minimum(_quantiles((1 - level) / 2, scaled, near, far, weight * FAR, weight * (1 - FAR)), mean)
    upper = np.maximum(_quantiles((1 + level) / 2, scaled, near, far, weight * (1 - FAR), weight * FAR), mean)
    return Interval(*(low + (high - low) * part for part in (mean, lower, upper)), level=level)


def _quantiles(p: float, values: Floats, near: Floats, far: Floats, at_near: float, at_far: float) -> Floats:
    """Of each column's mean, with so many pseudo-problems at `near` and at `far`."""
    count = len(values) + at_near + at_far
    mean = (values.sum(axis=0) + at_near * near + at_far * far) / count
    squares = ((values - mean) ** 2).sum(axis=0) + at_near * (near - mean) ** 2 + at_far * (far - mean) ** 2
    size = mean * (1 - mean) * count * (count + 1) / squares - 1
    return beta_quantiles(p, mean * size, (1 - mean) * size)


def beta_quantiles(p: float, a: Floats, b: Floats) -> Floats:
    """Where beta distributions reach the probability `p`, to about four digits; a and b are 0.4 at least.

    Summed over log-odds, in which the density is smooth and has one peak whatever a and b are.
    """
    odds = np.log(a / b)[:, np.newaxis] + np.sqrt(1 / a + 1 / b)[:, np.newaxis] * np.linspace(-30, 30, 1201)
    logarithm = a[:, np.newaxis] * odds - (a + b)[:, np.newaxis] * np.logaddexp(0, odds)
    density = np.exp(logarithm - logarithm.max(axis=1, keepdims=True))
    below = np.cumsum(density, axis=1) - density / 2
    found = [np.interp(p * row[-1], row, places) for row, places in zip(below, odds, strict=True)]
    return 1 / (1 + np.exp(-np.array(found)))
