"""N independent attempts at every problem: how good, how reliable, and how even in cost.

The parallel protocol of Balachandran et al. 2025, "Inference-Time Scaling for Complex Tasks" (arXiv 2504.00294).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tts.curves import CurveError


@dataclass(frozen=True)
class Repeats:
    """Accuracy over N attempts at each problem."""

    n: int
    average: float
    """The mean over attempts of the share of problems solved: an estimate of pass@1."""
    deviation: float | None
    """Standard deviation (N - 1) of that share over attempts; None for one attempt."""
    best: float
    """The share of problems that any attempt solves: an upper bound, reached by a perfect verifier alone."""
    worst: float
    """The share that all attempts solve: how reliable one attempt is."""
    majority: float | None = None
    """The share in which the most frequent answer is right; where several are, each of them counts in part."""


def repeats(correct: ArrayLike, answers: Sequence[Sequence[Hashable | None]] | None = None) -> Repeats:
    """The statistics of a problems x attempts matrix of 1 (right), 0 (wrong) and NaN (no answer).

    An attempt without an answer solves nothing, but does not count against `worst`, unless there is no other. `answers`
    are what was answered, None where nothing was, for the majority. Raises `CurveError` for an empty matrix.
    """
    matrix = np.asarray(correct, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise CurveError(f"repeats are a matrix of problems x attempts, not of shape {matrix.shape}")
    solved, silent = np.nan_to_num(matrix), np.isnan(matrix)
    by_attempt = solved.mean(axis=0)
    return Repeats(
        n=matrix.shape[1],
        average=float(by_attempt.mean()),
        deviation=float(by_attempt.std(ddof=1)) if matrix.shape[1] > 1 else None,
        best=float(solved.max(axis=1).mean()),
        worst=float(np.where(silent.all(axis=1), 0.0, np.where(silent, 1.0, matrix).min(axis=1)).mean()),
        majority=None
        if answers is None
        else float(np.mean([_majority(flags, said) for flags, said in zip(solved, answers, strict=True)])),
    )


def _majority(flags: ArrayLike, said: Sequence[Hashable | None]) -> float:
    """How often the most frequent answer is right, if ties are broken at random."""
    right = {answer: flag for answer, flag in zip(said, np.asarray(flags), strict=True) if answer is not None}
    votes = Counter(answer for answer in said if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    return float(np.mean([right[answer] for answer, count in votes.items() if count == most]))


@dataclass(frozen=True)
class Spread:
    """How unevenly attempts at the same problem cost."""

    mean: float
    """Tokens of an attempt."""
    deviation: float | None
    """Standard deviation over the attempts at a problem, the mean over problems; None for one attempt."""
    all_right: float | None
    """The same over problems that all attempts solve; None where there are none."""
    mixed: float | None
    """Over those that some solve."""
    all_wrong: float | None
    """Over those that none solves."""


def cost_spread(tokens: ArrayLike, correct: ArrayLike) -> Spread:
    """Cost nondeterminism of a problems x attempts matrix of tokens (arXiv 2504.00294, section 4).

    Raises `CurveError` where it does not have the shape of `correct`.
    """
    costs, solved = np.asarray(tokens, dtype=np.float64), np.nan_to_num(np.asarray(correct, dtype=np.float64))
    if costs.shape != solved.shape or costs.ndim != 2 or not costs.size:
        raise CurveError(f"tokens and correct are matrices of the same shape, not {costs.shape} and {solved.shape}")
    if costs.shape[1] < 2:
        return Spread(float(costs.mean()), None, None, None, None)
    deviation, share = costs.std(axis=1, ddof=1), solved.mean(axis=1)

    def over(problems: np.ndarray) -> float | None:
        return float(deviation[problems].mean()) if problems.any() else None

    some = (share > 0) & (share < 1)
    return Spread(float(costs.mean()), float(deviation.mean()), over(share == 1), over(some), over(share == 0))


def conventional_to_reasoning_gap(models: Sequence[Repeats]) -> float:
    """By how much the best model's average exceeds what the weakest would reach with a perfect verifier.

    Where it is small or negative, scaling a conventional model could replace a reasoning one. Raises `CurveError`
    without a model.
    """
    if not models:
        raise CurveError("the gap is between models, and there is none")
    return max(one.average for one in models) - min(one.best for one in models)
