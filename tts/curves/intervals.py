"""Confidence intervals over problems: how the mean would vary with another set of problems like these.

A problem counts as one observation: its samples are not independent evidence about the benchmark.

Two functions make every interval that the library prints, each in one of two closed forms:

| | every problem right or wrong | shares of samples, seeds or rewards |
|---|---|---|
| `mean_interval` | inverts Blaker's exact test | beta distribution with one pseudo-problem |
| `paired_difference` | combines the bounds of wins and of losses | the same with 1.5 pseudo-problems |

With 10 problems or more, a nominal 95 % covers the truth at least 93 % of the time, at any rate from .005 to .995. It
may cover more than 98 % where it has to: an interval that nobody draws lots for is the same whenever the outcome is the
same, and with 10 problems and a rate of .01 either the outcome "none" alone is covered (90.4 %), or "none" and "one"
are (99.6 %). So it is where only a few problems are expected to be solved, to be missed or to differ. Where shares
differ little between problems the coverage is high too, because a problem of another kind may not have been seen yet.
experiments/intervals has the figures, and those of other methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from tts.curves.estimators import CurveError, Floats, Integers

SLACK = 0.2
"""By how much the exact test may miss its level: at 1.2 times 5 % it covers 94 % at the worst rate, and 95 to 96 % on
average, where 1 would cover 95 % at the worst and up to 97 % on average."""

FAR = 0.6
"""Of one pseudo-problem, the share that stands at the end of the range that a bound lies towards; the rest stands at
the other end."""

PAIRS = 1.5
"""Pseudo-problems of a paired difference of shares, where 1 is too few for ten pairs (Agresti and Min 2005 add 2)."""

UNSEEN = 0.3
"""What a difference as large as can be weighs in the size of these pseudo-problems, beside the sizes observed."""

SAME = 1e-9
"""Of the range: what is this near to one of its ends is there."""


@dataclass(frozen=True)
class Interval:
    """A mean over problems with its confidence bounds; one entry per k."""

    mean: Floats
    low: Floats
    high: Floats
    level: float

    def at(self, place: int = 0) -> tuple[float, float, float]:
        """Mean and bounds at one k."""
        return float(self.mean[place]), float(self.low[place]), float(self.high[place])


def mean_interval(values: ArrayLike, *, level: float = 0.95, low: float = 0.0, high: float = 1.0) -> Interval:
    """Mean over problems of a (problems x ks) matrix of values between `low` and `high`, with its interval.

    Where every problem is at one end of the range, so that successes are counted, the interval has the rates that
    Blaker's test (2000) does not reject. Elsewhere each bound is a quantile of the beta distribution over the range
    that has the mean and variance of the Bayesian bootstrap (Rubin 1981) after one pseudo-problem at the ends of the
    range (`FAR`): shares get the narrower interval that their spread warrants, and problems that all agree one that
    other problems might still leave. Nothing is drawn. `level` is the coverage probability; the head of this module
    says how well it is kept.

    Raises `CurveError` for fewer than two problems, values outside the range, or a level outside (0, 1).
    """
    scaled = _scaled(np.asarray(values, dtype=np.float64), level, (low, high))
    mean, bounds = scaled.mean(axis=0), np.empty((2, scaled.shape[1]))
    counted = ((scaled <= SAME) | (scaled >= 1 - SAME)).all(axis=0)
    bounds[:, counted] = rate_bounds(np.rint(scaled[:, counted].sum(axis=0)).astype(int), len(scaled), level)
    bounds[:, ~counted] = _beta_bounds(scaled[:, ~counted], level, reach=np.ones((~counted).sum()), weight=1)
    return _interval(mean, bounds, level, (low, high))


def paired_difference(first: ArrayLike, second: ArrayLike, *, level: float = 0.95, span: float = 1.0) -> Interval:
    """Interval of mean(first - second) over the same problems in the same order, both problems x ks.

    What the two have in common (hard problems are hard for both) cancels, so it is much narrower than their own
    intervals suggest. `span` is the largest difference that is possible. Where every problem is won, lost or equal, the
    intervals of the rates of wins and of losses are combined for their difference (Zou and Donner 2008, after Newcombe
    1998). Elsewhere the interval is that of `mean_interval` for shares, with pseudo-problems that differ as much,
    either way, as problems that differ do (their mean weighted by itself, and by `UNSEEN`).
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape:
        raise CurveError(
            f"a paired difference needs the same problems and ks on both sides: {one.shape}, {other.shape}"
        )
    scaled = _scaled(one - other, level, (-span, span))
    mean, bounds = scaled.mean(axis=0), np.empty((2, scaled.shape[1]))
    signed = 2 * scaled - 1
    counted = (np.abs(signed - np.rint(signed)) <= SAME).all(axis=0)
    wins, losses = ((np.rint(sign * signed[:, counted]) > 0).sum(axis=0) for sign in (1, -1))
    bounds[:, counted] = (1 + _difference_bounds(wins, losses, len(scaled), level)) / 2
    size = np.abs(signed[:, ~counted])
    reach = (UNSEEN + (size**2).sum(axis=0)) / (UNSEEN + size.sum(axis=0))
    bounds[:, ~counted] = _beta_bounds(scaled[:, ~counted], level, reach, PAIRS)
    return _interval(mean, bounds, level, (-span, span))


def _scaled(matrix: Floats, level: float, ends: tuple[float, float]) -> Floats:
    """Values as shares of the way between the ends of the range. Raises `CurveError` for what has no interval."""
    if matrix.ndim != 2:
        raise CurveError(f"an interval needs a (problems x ks) matrix, not shape {matrix.shape}")
    if len(matrix) < 2:
        raise CurveError(f"an interval needs at least two problems, not {len(matrix)}")
    if not np.isfinite(matrix).all():
        raise CurveError("a value is not finite: leave out the problems without a result, for every k alike")
    if not 0 < level < 1:
        raise CurveError(f"level must lie between 0 and 1, not at {level}")
    low, high = ends
    scaled = (matrix - low) / (high - low)
    if np.any((scaled < -SAME) | (scaled > 1 + SAME)):
        raise CurveError(f"values reach from {matrix.min():g} to {matrix.max():g}, beyond {low:g} to {high:g}")
    return scaled


def _interval(mean: Floats, bounds: Floats, level: float, ends: tuple[float, float]) -> Interval:
    lower, upper = np.minimum(bounds[0], mean), np.maximum(bounds[1], mean)
    low, high = ends
    return Interval(*(low + (high - low) * part for part in (mean, lower, upper)), level=level)


# -- counts -----------------------------------------------------------------------------------------------------------


def rate_bounds(successes: Integers, n: int, level: float) -> Floats:
    """The lowest and the highest rates (2 x counts) at which so many successes of `n` are not too rare.

    Blaker's test (2000, Canadian Journal of Statistics 28) adds to the tail of an outcome the largest tail on the
    other side that is no more probable. At no rate does it cover less than 1 - 1.2 (1 - level); see `SLACK`.
    """
    size = min((1 + SLACK) * (1 - level), 0.99)
    lowest = {int(x): _lowest_rate(int(x), n, size) for x in np.unique(np.append(successes, n - successes))}
    lower, upper = [lowest[int(x)] for x in successes], [1 - lowest[n - int(x)] for x in successes]
    return np.array([lower, upper])


@dataclass(frozen=True)
class SuccessRates:
    """Success rates of problems that were drawn until so many passes, one entry per problem."""

    rate: Floats
    """Unbiased."""
    low: Floats
    high: Floats
    """Bounds of each problem's own rate; exact, so that they cover it at least as often as they say."""
    draws: Integers
    """Samples that count: those up to the last pass."""


def pass_until(outcomes: Sequence[ArrayLike], passes: int, *, level: float = 0.95) -> SuccessRates:
    """The success rate of each problem from its samples in spawned order (true: passed), drawn until `passes` passes.

    Of K draws up to the last pass, (r - 1) / (K - 1) is unbiased (Haldane 1945, Biometrika 33; PassUntil, arXiv
    2310.03262); where a cap came first it is the share of all, which keeps the whole unbiased. Bounds invert the tests
    of Clopper and Pearson in the order of the estimates. Raises `CurveError` with fewer than 2 passes, without samples,
    or for a level outside (0, 1).
    """
    if passes < 2:
        raise CurveError(f"the unbiased estimate takes 2 passes or more, not {passes}")
    if not 0 < level < 1:
        raise CurveError(f"level must lie between 0 and 1, not at {level}")
    rows = []
    for number, part in enumerate(outcomes):
        flags = np.asarray(part, dtype=np.bool_)
        if not len(flags):
            raise CurveError(f"problem {number} (counting from 0) has no samples: leave it out")
        places = np.flatnonzero(flags)
        reached = len(places) >= passes
        k = int(places[passes - 1]) + 1 if reached else len(flags)
        s = passes if reached else len(places)
        rate = (s - 1) / (k - 1) if reached else s / k
        fails = k - s
        low = beta_quantiles((1 - level) / 2, np.array([s]), np.array([fails + 1]))[0] if s else 0.0
        above = s if reached else s + 1
        high = beta_quantiles((1 + level) / 2, np.array([above]), np.array([fails]))[0] if fails else 1.0
        rows.append((rate, low, high, k))
    rate, low, high, draws = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return SuccessRates(rate, low, high, draws.astype(np.int64))


@lru_cache(maxsize=10_000)
def _lowest_rate(x: int, n: int, size: float) -> float:
    if x == 0:
        return 0.0
    # Between where the tail above alone has the probability size / 2, and where it has size.
    start, stop = (float(beta_quantiles(p, np.array([x]), np.array([n - x + 1]))[0]) for p in (size / 2, size))
    rates = np.linspace(start, stop, 256)[:, np.newaxis]
    reach = 10 * (n * stop * (1 - start)) ** 0.5 + 20  # beyond it nothing is left
    places = np.arange(max(0, int(n * start - reach)), min(n, int(n * stop + reach)) + 1)
    chances = np.exp(_log_choose(n)[places] + places * np.log(rates) + (n - places) * np.log1p(-rates))
    above = chances[:, places >= x].sum(axis=1, keepdims=True)
    below = np.cumsum(chances[:, places < x], axis=1)
    other = np.where(below <= above, below, 0).max(axis=1, initial=0)
    accepted = np.flatnonzero(above[:, 0] + other > size)
    return float(rates[max(accepted[0] - 1, 0), 0]) if len(accepted) else stop


def _log_choose(n: int) -> Floats:
    """The logarithm of n over each k."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    return factorials[n] - factorials - factorials[::-1]


def _difference_bounds(wins: Integers, losses: Integers, n: int, level: float) -> Floats:
    """Of the rate of wins less that of losses; the two hinder each other, which widens the bounds."""
    won, lost = rate_bounds(wins, n, level), rate_bounds(losses, n, level)
    p, q = wins / n, losses / n
    hindrance = 2 * np.sqrt(p * q / np.maximum((1 - p) * (1 - q), 1e-12))

    def apart(one: Floats, other: Floats) -> Floats:
        return np.sqrt(one**2 + other**2 + hindrance * one * other)

    return np.array([p - q - apart(p - won[0], lost[1] - q), p - q + apart(won[1] - p, q - lost[0])]).clip(-1, 1)


# -- shares -----------------------------------------------------------------------------------------------------------


def _beta_bounds(scaled: Floats, level: float, reach: Floats, weight: float) -> Floats:
    """`weight` pseudo-problems stand at a share `reach` of the way from the middle of the range to its ends."""
    near, far = (1 - reach) / 2, (1 + reach) / 2  # the pseudo-problem's places
    lower = _quantiles((1 - level) / 2, scaled, near, far, weight * FAR, weight * (1 - FAR))
    upper = _quantiles((1 + level) / 2, scaled, near, far, weight * (1 - FAR), weight * FAR)
    return np.array([lower, upper])


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
    logarithm = a[:, np.newaxis] * odds - (a + b)[:, np.newaxis] * np.log1p(np.exp(odds))
    density = np.exp(logarithm - logarithm.max(axis=1, keepdims=True))
    below = np.cumsum(density, axis=1) - density / 2
    found = [np.interp(p * row[-1], row, places) for row, places in zip(below, odds, strict=True)]
    return 1 / (1 + np.exp(-np.array(found)))
