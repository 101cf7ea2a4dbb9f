"""Fits: a straight line through points, and the coverage law c = exp(a k^b).

The law says how the share of problems solved at least once grows with samples (Brown et al. 2024, "Large Language
Monkeys", arXiv 2407.21787, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tts.curves.estimators import CurveError, Floats


@dataclass(frozen=True)
class CoverageLaw:
    """c(k) = exp(a k^b): a < 0 sets coverage at one sample, b < 0 (where coverage grows) its growth."""

    a: float
    b: float
    r_squared: float
    """Share of the variance of coverage that the law explains, over all points given."""
    k_range: tuple[float, float]
    """Smallest and largest k it was fitted to; beyond it is extrapolation."""

    def __call__(self, k: ArrayLike) -> Floats:
        """The coverage that the law predicts at k samples."""
        return np.exp(self.a * np.asarray(k, dtype=np.float64) ** self.b)


def fit_coverage_law(k: ArrayLike, coverage: ArrayLike) -> CoverageLaw:
    """Least squares of coverage on k, by Gauss-Newton from a straight line through ln(-ln c) over ln k.

    Points with c = 0 or c = 1 have no ln(-ln c): they do not enter the starting line, but count in the least
    squares like any other.

    Raises `CurveError` with fewer than two different ks at which 0 < c < 1, or values out of range.
    """
    ks, covered = np.asarray(k, dtype=np.float64), np.asarray(coverage, dtype=np.float64)
    if ks.ndim != 1 or ks.shape != covered.shape:
        raise CurveError(f"one coverage for each k is needed, not {covered.shape} for {ks.shape}")
    if not (np.isfinite(ks).all() and np.all(ks > 0) and np.all((covered >= 0) & (covered <= 1))):
        raise CurveError("k must be positive, and coverage a share between 0 and 1")
    inside = (covered > 0) & (covered < 1)
    if len(np.unique(ks[inside])) < 2:
        raise CurveError(
            "the coverage law needs at least two ks at which coverage is neither 0 nor 1: draw more "
            "samples, or use harder or easier problems"
        )
    log_k = np.log(ks)
    slope, intercept = np.polyfit(log_k[inside], np.log(-np.log(covered[inside])), 1)
    intercept, slope = _gauss_newton(log_k, covered, np.array([intercept, slope]))
    residual = covered - _law(log_k, np.array([intercept, slope]))
    variance = ((covered - covered.mean()) ** 2).sum()
    r_squared = 1 - (residual**2).sum() / variance if variance else float("nan")
    return CoverageLaw(-float(np.exp(intercept)), float(slope), float(r_squared), (float(ks.min()), float(ks.max())))


def _law(log_k: Floats, parameters: Floats) -> Floats:
    """exp(-exp(ln(-a) + b ln k)): in these parameters a stays negative."""
    return np.exp(-np.exp(np.minimum(parameters[0] + parameters[1] * log_k, 700)))


def _gauss_newton(log_k: Floats, covered: Floats, parameters: Floats, steps: int = 100) -> Floats:
    """Damped steps, each accepted only if it lowers the squared error."""
    damping = 1e-6
    error = ((covered - _law(log_k, parameters)) ** 2).sum()
    for _ in range(steps):
        fitted = _law(log_k, parameters)
        slope = -fitted * np.exp(np.minimum(parameters[0] + parameters[1] * log_k, 700))
        jacobian = np.column_stack([slope, slope * log_k])
        normal = jacobian.T @ jacobian
        damped = normal + damping * np.diag(np.diag(normal)) + 1e-300 * np.eye(2)
        step = np.linalg.lstsq(damped, jacobian.T @ (covered - fitted), rcond=None)[0]
        better = ((covered - _law(log_k, parameters + step)) ** 2).sum()
        if better < error:
            parameters, damping = parameters + step, damping / 10
            if error - better <= 1e-15 * error:
                break
            error = better
        elif damping > 1e6:
            break
        else:
            damping *= 10
    return parameters


@dataclass(frozen=True)
class LinearFit:
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


def fit_line(x: ArrayLike, y: ArrayLike) -> LinearFit:
    """The regression of `y` on `x`. Raises `CurveError` with fewer than three points or where all x are equal."""
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.shape != ys.shape or xs.ndim != 1 or len(xs) < 3:
        raise CurveError(f"a regression needs three points or more, not {len(xs)}: more models, strategies or runs")
    if np.ptp(xs) == 0:
        raise CurveError("a regression needs points that differ in x")
    slope, intercept = np.polyfit(xs, ys, 1)
    correlation = float(np.corrcoef(xs, ys)[0, 1]) if np.ptp(ys) else 0.0
    return LinearFit(float(slope), float(intercept), correlation, len(xs))
