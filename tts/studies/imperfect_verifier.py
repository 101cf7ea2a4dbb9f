"""When more samples stop paying: resampling against an imperfect verifier, exactly and from counts alone.

Stroebl et al. 2024, "Inference Scaling fLaws" (arXiv 2411.17501): samples are drawn until the verifier accepts one, at
most K times, else the run abstains. An accepted right answer is worth 1, an accepted wrong one costs lambda, abstaining
is worth 0. The paper shuffles recorded samples; as samples are exchangeable, the mean over all orders has a closed form
(`first_pass_at_k`), and nothing here is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tts.curves import CurveError
from tts.curves.bootstrap import Interval, bootstrap
from tts.curves.estimators import Floats, Integers
from tts.studies.counts import Counts
from tts.studies.diversity_math import Line, fit_line

__all__ = [
    "Attempts",
    "Best",
    "Counts",
    "Rivalry",
    "abstention_ratio",
    "best_k",
    "ceiling_line",
    "critical_ratio",
    "false_discovery_by_attempt",
    "reward_interval",
    "weak_against_strong",
]

SAME = 1e-12
"""Rewards that differ by less are rounding apart."""


@dataclass(frozen=True)
class Best:
    """The K that pays most under one cost of false positives."""

    ratio: float
    """lambda."""
    k: float
    """Attempts; 0 is to abstain always, infinity to go on until one is accepted."""
    reward: float
    """R(k, lambda)."""
    at_most: bool = False
    """Whether k is as large as there were samples: more might pay still."""


def best_k(counts: Counts, ratio: float) -> Best:
    """K* = argmax of R(K, lambda) over K = 0, 1, ..., `counts.most`; the smallest of equals."""
    ks = np.arange(1, counts.most + 1)
    rewards = np.concatenate([[0.0], counts.rewards(ks, ratio).mean(axis=0)])
    k = int(np.flatnonzero(rewards >= rewards.max() - SAME)[0])
    return Best(ratio, k, float(rewards[k]), at_most=k == counts.most)


def critical_ratio(counts: Counts) -> float:
    """The largest lambda at which `counts.most` attempts are as good as any fewer; infinite where none ever harms.

    Beyond it, more samples make the result worse. At 0 or below, some K serves better even if mistakes are free.
    """
    gained, risked = _true_and_false(counts)
    more, worse = gained[-1] - gained[:-1], risked[-1] - risked[:-1]
    return float(np.min(more[worse > SAME] / worse[worse > SAME], initial=np.inf))


def abstention_ratio(counts: Counts) -> float:
    """The lambda from which it is best to abstain always; infinite where some K has no false positives at all."""
    gained, risked = (part[1:] for part in _true_and_false(counts))
    if np.any((risked <= SAME) & (gained > SAME)):
        return float("inf")
    return float(np.max(gained[risked > SAME] / risked[risked > SAME], initial=0.0))


def _true_and_false(counts: Counts) -> tuple[Floats, Floats]:
    """P(true positive by K) and P(false positive by K) for K = 0, 1, ..., most."""
    found = counts.resampled(np.arange(1, counts.most + 1))
    return tuple(np.concatenate([[0.0], part.mean(axis=0)]) for part in (found.correct, found.false_accept))  # type: ignore[return-value]


@dataclass(frozen=True)
class Attempts:
    """How reliable an acceptance is that came late. Each array has one entry for each range of attempts."""

    first: Integers
    last: Integers
    stopped: Floats
    """Probability that the first acceptance falls into the range."""
    false_discovery: Floats
    """P(wrong | first accepted there): of all runs that end there. NaN where none can."""
    by_problem: Floats
    """The paper's figure: the same within each problem, averaged over those that can end there however rarely."""


def false_discovery_by_attempt(counts: Counts) -> Attempts:
    """The false-discovery rate in the ranges 1, 2-3, 4-7, ... up to `counts.most`.

    Within a problem it is the same at every attempt; it grows because easy problems leave early.
    """
    first = 2 ** np.arange(int(counts.most).bit_length())
    last = np.minimum(2 * first - 1, counts.most)
    ends = np.concatenate([[0], last])
    reached = np.zeros((len(counts), len(ends)))
    reached[:, 1:] = counts.resampled(last).accepted
    stopped = np.diff(reached, axis=1)
    wrong = np.zeros(len(counts))
    wrong[counts.answered] = 1 - counts.precision
    can = (counts.accepted[:, np.newaxis] > 0) & (counts.n - counts.accepted + 1 >= first[:, np.newaxis]).T
    total = stopped.sum(axis=0)
    return Attempts(
        first,
        last,
        stopped=stopped.mean(axis=0),
        false_discovery=_ratio(wrong @ stopped, total),
        by_problem=_ratio(wrong @ can, can.sum(axis=0)),
    )


def _ratio(over: Floats, under: Floats) -> Floats:
    return np.divide(over, under, out=np.full(len(under), np.nan), where=under > SAME)


# -- between models -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rivalry:
    """Whether resampling a weak model can catch up with one sample of a strong one."""

    weak: float
    """A single sample of the weak model."""
    ceiling: float
    """The weak model's conditional accuracy: no K goes beyond it on the problems it answers."""
    strong: float
    """A single sample of the strong model."""
    shortfall: Interval
    """`strong` less `ceiling`, over problems drawn anew; one entry."""
    k: int | None
    """The fewest attempts by which the weak model, unanswered problems counting as wrong, is as often right as the
    strong one; None where no K does it with the samples that there are."""

    @property
    def hopeless(self) -> bool:
        """The paper's test: the strong model is right more often than what the verifier accepts of the weak one."""
        return self.strong > self.ceiling


def weak_against_strong(weak: Counts, strong: Counts, *, resamples: int = 2000, seed: int = 0) -> Rivalry:
    """Compare two models on the same problems in the same order (Stroebl et al. 2024).

    The interval is a percentile bootstrap of 95 %: conditional accuracy is a mean over whichever problems are
    answered. Raises `CurveError` for other problems, or where nothing of the weak model is accepted.
    """
    if len(weak) != len(strong):
        raise CurveError(f"the models must have the same problems: {len(weak)} and {len(strong)}")
    by_k = weak.resampled(np.arange(1, weak.most + 1)).correct.mean(axis=0)
    reached = np.flatnonzero(by_k >= strong.accuracy - SAME)
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(weak), size=(resamples, len(weak)))
    gaps = [strong[drawn].accuracy - weak[drawn].conditional_accuracy for drawn in draws if weak.accepted[drawn].any()]
    middle = strong.accuracy - weak.conditional_accuracy
    low, high = np.quantile(gaps, [0.025, 0.975])
    shortfall = Interval(np.array([middle]), np.array([low]), np.array([high]), 0.95)
    k = int(reached[0]) + 1 if len(reached) else None
    return Rivalry(weak.accuracy, weak.conditional_accuracy, strong.accuracy, shortfall, k)


def ceiling_line(models: Mapping[str, Counts]) -> Line:
    """The regression of conditional accuracy on single-sample accuracy over models.

    Weaker models overfit a verifier more, so that the line rises. Raises `CurveError` for fewer than three models.
    """
    return fit_line([one.accuracy for one in models.values()], [one.conditional_accuracy for one in models.values()])


def reward_interval(counts: Counts, k: ArrayLike, ratio: float) -> Interval:
    """R(K, lambda) at each k with its 95 % interval over problems."""
    return bootstrap(counts.rewards(np.atleast_1d(k), ratio))
