"""How different candidates are, and whether that predicts what more of them gain.

Idea diversity after Wang et al. 2024 (arXiv 2409.03733), section 6.1: the probability that two programs drawn from a
pool differ. `similar` may come from a judge or from any proxy: equal syntax, equal behaviour, near vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import ArrayLike

from tts.curves import CurveError


def pair_diversity(similar: ArrayLike) -> float:
    """D = 1 - (sum over i < j of S_ij) / C(n, 2) of a pool of n.

    `similar` is n x n with S from 0 to 1, read above its diagonal. Pairs that are NaN were not judged and count
    neither way. Raises `CurveError` when not a single pair was judged.
    """
    matrix = np.asarray(similar, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise CurveError(f"similarity is a square matrix over the candidates of a problem, not {matrix.shape}")
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    judged = pairs[~np.isnan(pairs)]
    if not len(judged):
        raise CurveError("diversity needs at least one judged pair of candidates")
    if judged.min() < 0 or judged.max() > 1:
        raise CurveError("similarity lies between 0 and 1")
    return float(1 - judged.mean())


def group_diversity(labels: Sequence[Hashable]) -> float:
    """`pair_diversity` where two candidates are similar iff their labels are equal.

    Raises `CurveError` for fewer than two candidates.
    """
    if len(labels) < 2:
        raise CurveError("diversity needs at least two candidates")
    return 1 - sum(comb(size, 2) for size in Counter(labels).values()) / comb(len(labels), 2)


def vector_diversity(vectors: ArrayLike) -> float:
    """Mean cosine distance over all pairs of rows; 0 for parallel ones, up to 1 where no entry is negative.

    Raises `CurveError` for fewer than two rows, or one that is zero.
    """
    matrix = np.asarray(vectors, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < 2:
        raise CurveError("diversity needs at least two vectors")
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    if not lengths.all():
        raise CurveError("a vector that is zero has no direction")
    n, unit = len(matrix), matrix / lengths
    together = float((unit.sum(axis=0) ** 2).sum())  # = n + twice the sum of all cosines of pairs
    return max(0.0, 1 - (together - n) / (n * (n - 1)))  # rounding may make it a little less


def relative_gain(once: float, often: float) -> float:
    """By which share of pass@1 pass@k is larger. Raises `CurveError` where pass@1 is 0."""
    if once <= 0:
        raise CurveError("there is no relative gain over a pass@1 of 0")
    return often / once - 1


@dataclass(frozen=True)
class Line:
    """A straight line through points, by least squares."""

    slope: float
    intercept: float
    correlation: float
    """Pearson's r."""
    points: int

    @property
    def r_squared(self) -> float:
        """The share of the variance of y that the line explains."""
        return self.correlation**2

    def x_at(self, y: float) -> float:
        """Where the line has the height `y`; infinite for a level line."""
        return (y - self.intercept) / self.slope if self.slope else float("inf")


def fit_line(x: ArrayLike, y: ArrayLike) -> Line:
    """The regression of `y` on `x`. Raises `CurveError` with fewer than three points or where all x are equal."""
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.shape != ys.shape or xs.ndim != 1 or len(xs) < 3:
        raise CurveError(f"a regression needs three points or more, not {len(xs)}: more models, strategies or runs")
    if np.ptp(xs) == 0:
        raise CurveError("a regression needs points that differ in x")
    slope, intercept = np.polyfit(xs, ys, 1)
    correlation = float(np.corrcoef(xs, ys)[0, 1]) if np.ptp(ys) else 0.0
    return Line(float(slope), float(intercept), correlation, len(xs))
