"""Accuracy at every k from one pool of samples per problem, in closed form over all subsets of size k.

The samples of a problem are exchangeable: any k of them, in any order, might have been the run. Estimators are
vectorised over k and return one row per problem and one column per k (no column axis if k is a plain number); means,
intervals and paired comparisons over problems follow in `tts.curves.intervals`. Majority voting is in
`tts.curves.majority`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tts.errors import TTSError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Pools = Sequence[ArrayLike] | NDArray[np.generic]
"""One array per problem, of any lengths; a 2-D array where all have the same length."""


class CurveError(TTSError, ValueError):
    """The numbers given do not determine the curve, fit or read-out that was asked for."""


class TooFewSamples(CurveError):
    """An estimate at k needs k samples of every problem, and some problem has fewer."""

    def __init__(self, estimator: str, k: int, problem: int, available: int) -> None:
        super().__init__(
            f"{estimator} at k={k} needs {k} samples of every problem, but problem {problem} (counting from 0) has "
            f"{available}: draw more of it, leave it out, or ask for k <= {available}"
        )
        self.k = k
        self.problem = problem
        self.available = available


def pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Floats:
    """Probability that at least one of k samples is correct (coverage): 1 - C(n-c, k) / C(n, k).

    Of `n` samples of a problem `c` are correct; `k` is how many would have been drawn. The result has the (broadcast)
    shape of `n` and `c` followed by that of `k`. Unbiased for independent samples (Chen et al. 2021, section 2.1).
    With c = 0 it is exactly 0.

    Raises `TooFewSamples` where k > n: padding with failures or successes would bias the curve.
    """
    sizes, right = np.broadcast_arrays(whole_numbers(n, "n"), whole_numbers(c, "c"))
    ks = valid_ks(k)
    if np.any(right < 0) or np.any(right > sizes):
        raise CurveError("c counts the correct among n samples: every c must lie between 0 and its n")
    require_samples("pass@k", sizes, ks)
    return 1.0 - all_missed(sizes, right, ks)


def filtered_pass_at_k(accepted: ArrayLike, accepted_correct: ArrayLike, k: ArrayLike) -> Floats:
    """pass@k over the candidates that passed the public tests (Wang et al. 2024, arXiv 2409.03733, appendix R).

    `accepted` candidates of a problem passed, of which `accepted_correct` are truly correct; shapes as in `pass_at_k`.
    Where fewer than k passed, all of them are submitted: 1 if any is correct, 0 otherwise.
    """
    sizes, right = np.broadcast_arrays(
        whole_numbers(accepted, "accepted"), whole_numbers(accepted_correct, "accepted_correct")
    )
    ks = valid_ks(k)
    if np.any(right < 0) or np.any(right > sizes):
        raise CurveError("counts must satisfy 0 <= accepted_correct <= accepted for every problem")
    rows = [
        1.0 - all_missed(n, c, np.minimum(ks, n)) if c else np.zeros(ks.shape)
        for n, c in zip(sizes.ravel(), right.ravel(), strict=True)
    ]
    return np.array(rows).reshape((*sizes.shape, *ks.shape))


def best_of_k(scores: Pools, correct: Pools, k: ArrayLike) -> Floats:
    """Probability that the best-scored of k samples is correct.

    `scores` and `correct` hold one array per problem: a number per sample (higher is better, -inf for a sample
    without a score) and whether it is correct. Of equal scores a run keeps the earliest; in a random order each is the
    earliest equally often, so a tied group shares its probability of being selected equally.

    With samples ranked best first, P(one of the r best is drawn) is pass@k with c = r; its growth over a tied group is
    the probability that the selected sample belongs to it. One sort per problem serves all k.

    Raises `TooFewSamples` where k > n, `CurveError` for scores that are not numbers or pools of unequal size.
    """
    ks = valid_ks(k)
    pools = [np.asarray(pool, dtype=np.float64) for pool in scores]
    flags = correctness(correct, [len(pool) for pool in pools])
    require_samples("best-of-k", np.array([len(pool) for pool in pools]), ks)
    if any(np.isnan(pool).any() for pool in pools):
        raise CurveError("a score is not a number: give -inf to samples without a score, so that they rank last")
    missed = {n: all_missed(n, np.arange(n + 1), ks) for n in {len(pool) for pool in pools}}
    rows = [_best_of_k(pool, flag, missed[len(pool)]) for pool, flag in zip(pools, flags, strict=True)]
    return np.array(rows).reshape(len(pools), *ks.shape)


def _best_of_k(scores: Floats, correct: Floats, missed: Floats) -> Floats:
    """`missed`: the probability that k samples have none of the c best (c x k)."""
    order = np.argsort(-scores)
    ranked = scores[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    ends = np.append(starts[1:], len(scores))
    accuracy = np.add.reduceat(correct[order], starts) / (ends - starts)
    none = missed[np.append(0, ends)]
    return accuracy @ (none[:-1] - none[1:])


@dataclass(frozen=True)
class FirstPassEstimate:
    """Outcome of resampling at most k times until a verifier accepts; each array is problems x ks."""

    accepted: Floats
    """Probability that some sample is accepted, so that the run does not abstain."""
    correct: Floats
    """Probability that a sample is accepted and the first one accepted is truly correct."""
    attempts: Floats
    """Expected number of samples drawn, the accepted one included."""

    @property
    def false_accept(self) -> Floats:
        """Probability that the first accepted sample is wrong."""
        return self.accepted - self.correct


def first_pass_at_k(n: ArrayLike, accepted: ArrayLike, accepted_correct: ArrayLike, k: ArrayLike) -> FirstPassEstimate:
    """Resample until the verifier accepts, at most k times, else abstain: in closed form over all orders.

    Of `n` samples of a problem the verifier accepts `accepted`, of which `accepted_correct` are truly correct;
    shapes as in `pass_at_k`. Each accepted sample is the first one equally often, so accuracy tends to the verifier's
    precision, not to coverage (Stroebl et al. 2024, arXiv 2411.17501). The expected attempts sum P(the first j are
    all refused) over j < k, which telescopes to pass@k with one more accepted sample.

    Raises `TooFewSamples` where k > n.
    """
    sizes, passed, right = np.broadcast_arrays(
        whole_numbers(n, "n"),
        whole_numbers(accepted, "accepted"),
        whole_numbers(accepted_correct, "accepted_correct"),
    )
    ks = valid_ks(k)
    if np.any(right < 0) or np.any(right > passed) or np.any(passed > sizes):
        raise CurveError("counts must satisfy 0 <= accepted_correct <= accepted <= n for every problem")
    require_samples("first-pass@k", sizes, ks)
    some = 1.0 - all_missed(sizes, passed, ks)
    columns = (..., *[np.newaxis] * ks.ndim)
    precision = (right / np.maximum(passed, 1))[columns]
    attempts = ((sizes + 1) / (passed + 1))[columns] * (1.0 - all_missed(sizes + 1, passed + 1, ks))
    return FirstPassEstimate(some, some * precision, attempts)


def all_missed(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Floats:
    """Probability that k of n samples contain none of c given ones: C(n-c, k) / C(n, k), 0 <= c <= n, k <= n.

    Shape of `n` and `c`, then of `k`. Through logarithms of factorials, so no binomial overflows.
    """
    sizes, marked = np.broadcast_arrays(np.asarray(n), np.asarray(c))
    ks = np.asarray(k)
    columns = (..., *[np.newaxis] * ks.ndim)
    log = log_factorials(int(sizes.max(initial=0)))
    others = (sizes - marked)[columns]
    left = others - ks
    # Paired so that c = 0 cancels to exactly 1.
    exponent = (log[others] - log[sizes[columns]]) + (log[sizes[columns] - ks] - log[np.maximum(left, 0)])
    return np.where(left < 0, 0.0, np.exp(exponent))


_log_factorials: Floats = np.zeros(1)


def log_factorials(limit: int) -> Floats:
    """ln 0!, ln 1!, ..., at least up to ln limit! (a table that grows and is kept)."""
    global _log_factorials
    if len(_log_factorials) <= limit:
        _log_factorials = np.array([lgamma(i + 1) for i in range(max(limit + 1, 1024))])
    return _log_factorials


def valid_ks(k: ArrayLike) -> Integers:
    """`k` as whole numbers of at least 1."""
    ks = whole_numbers(k, "k")
    if np.any(ks < 1):
        raise CurveError(f"k counts the samples that a selection sees: it must be at least 1, not {ks.min()}")
    return ks


def whole_numbers(values: ArrayLike, name: str) -> Integers:
    """`values` as int64; raises `CurveError` where that would change one."""
    array = np.asarray(values)
    whole = array.astype(np.int64)
    if np.any(whole != array):
        raise CurveError(f"{name} must be whole numbers, not {array.dtype} values with a fraction")
    return whole


def require_samples(estimator: str, sizes: NDArray[np.integer], ks: Integers) -> None:
    """Raise `TooFewSamples` for the smallest pool if the largest k exceeds it."""
    if sizes.size and ks.size and ks.max() > sizes.min():
        raise TooFewSamples(estimator, int(ks.max()), int(np.argmin(sizes)), int(sizes.min()))


def correctness(correct: Pools, sizes: Sequence[int]) -> list[Floats]:
    """One array per problem of what each sample is worth: 0 or 1, or a probability of being correct."""
    flags = [np.asarray(pool, dtype=np.float64) for pool in correct]
    if [len(flag) for flag in flags] != list(sizes):
        raise CurveError("`correct` must hold one value per sample of every problem, in the same order")
    if any(np.any((flag < 0) | (flag > 1) | np.isnan(flag)) for flag in flags):
        raise CurveError("`correct` must be false or true (or a probability from 0 to 1) for every sample")
    return flags


def mean_ranks(values: ArrayLike, groups: ArrayLike | None = None) -> Floats:
    """Rank of each of `values`, the smallest being 1; equal values share the mean of their ranks.

    With `groups`, a number for each value, ranks are among those of the same group.
    """
    flat = np.asarray(values).ravel()
    group = np.zeros(len(flat), np.int64) if groups is None else np.asarray(groups)
    order = np.lexsort((flat, group))
    flat, group, place = flat[order], group[order], np.arange(len(flat))
    begins = np.append(True, group[1:] != group[:-1])[: len(flat)]
    starts = np.flatnonzero(begins | np.append(True, flat[1:] != flat[:-1])[: len(flat)])
    counts = np.diff(np.append(starts, len(flat)))
    found = np.empty(len(flat))
    found[order] = np.repeat(starts + (counts + 1) / 2, counts) - np.maximum.accumulate(np.where(begins, place, 0))
    return found
