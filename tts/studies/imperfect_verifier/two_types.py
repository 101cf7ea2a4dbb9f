"""Resampling against an imperfect verifier in closed form: problems are of two types, easy and hard.

The analytic model of Stroebl et al. 2024 (arXiv 2411.17501). A problem is easy with probability `easy_share`; a sample
is right with probability `easy` or `hard`; the verifier accepts what is right with probability `completeness` and
refuses what is wrong with probability `soundness`.

Their notebook weights the chance of reaching attempt k by the posterior of the types, which already accounts for the
rejections, and so counts those twice. `mode="paper"` reproduces it; everything else weights by the prior.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil, inf, log

import numpy as np

from tts.curves import CurveError
from tts.curves.estimators import Floats
from tts.studies.imperfect_verifier.counts import Best, Counts, Mode


@dataclass(frozen=True)
class TwoTypes:
    """The model. All fields are probabilities, `easy` at least `hard`; anything else raises `CurveError`."""

    easy_share: float
    easy: float
    hard: float
    soundness: float
    completeness: float = 1.0

    def __post_init__(self) -> None:
        if wrong := [field.name for field in fields(self) if not 0 <= getattr(self, field.name) <= 1]:
            raise CurveError(f"a probability lies between 0 and 1, unlike {', '.join(wrong)}")
        if self.easy < self.hard:
            raise CurveError(f"easy problems are solved more often than hard ones, not {self.easy} and {self.hard}")

    @classmethod
    def fit(cls, counts: Counts, *, threshold: float = 0.5, mode: Mode = "exact") -> TwoTypes:
        """The model whose types are the problems above and below a share of right samples.

        "paper" takes the notebook's soundness and a completeness of 1. A type without a problem has no weight.
        """
        rates = counts.correct / counts.n
        above = rates > threshold
        completeness = counts.decisions.completeness if mode == "exact" else 1.0
        return cls(
            float(above.mean()),
            float(rates[above].mean()) if above.any() else 1.0,
            float(rates[~above].mean()) if not above.all() else 0.0,
            counts.soundness(mode),
            1.0 if completeness is None else completeness,
        )

    @property
    def priors(self) -> Floats:
        """Share of easy and of hard problems."""
        return np.array([self.easy_share, 1 - self.easy_share])

    @property
    def accepted_right(self) -> Floats:
        """Probability that an attempt ends with a true positive, easy and hard."""
        return self.completeness * self._rates

    @property
    def accepted_wrong(self) -> Floats:
        """Probability that it ends with a false positive."""
        return (1 - self._rates) * (1 - self.soundness)

    @property
    def refused(self) -> Floats:
        """Probability that it is refused, so that another follows."""
        return (1 - self.completeness) * self._rates + self.soundness * (1 - self._rates)

    @property
    def _rates(self) -> Floats:
        return np.array([self.easy, self.hard])

    def values(self, ratio: float) -> Floats:
        """What an attempt is worth, easy and hard, if a false positive costs `ratio`."""
        return self.accepted_right - ratio * self.accepted_wrong

    def rewards(self, most: int, ratio: float, mode: Mode = "exact") -> Floats:
        """R(K) for K = 1, ..., most."""
        reached = self.refused ** np.arange(most)[:, np.newaxis]  # attempts x types
        weights = self.priors * reached
        values = self.values(ratio)
        if mode == "exact":
            return np.cumsum(weights @ values)
        total = weights.sum(axis=1, keepdims=True)
        posterior = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        return np.cumsum((posterior @ values) * (posterior * reached).sum(axis=1))

    def limit(self, ratio: float) -> float:
        """R(K) as K grows without end."""
        ends = 1 - self.refused
        worth = np.divide(self.values(ratio), ends, out=np.zeros(2), where=ends > 0)  # never accepted: worth nothing
        return float(self.priors @ worth)

    @property
    def critical_ratio(self) -> float:
        """The lambda up to which hard problems are worth an attempt, so that it never harms to go on.

        c r / ((1 - r)(1 - s)) of the hard type, where there are hard problems.
        """
        true, false = (part[1 if self.easy_share < 1 else 0] for part in (self.accepted_right, self.accepted_wrong))
        return float(true / false) if false > 0 else inf

    def best(self, ratio: float, mode: Mode = "exact", most: int = 200) -> Best:
        """K* and its reward: in closed form, or the first largest of `most` rewards in "paper"."""
        if mode == "paper":
            rewards = self.rewards(most, ratio, mode)
            k = int(np.argmax(rewards))
            return Best(ratio, k + 1, float(rewards[k])) if rewards[k] >= 0 else Best(ratio, 0, 0.0)
        k = self._best_k(ratio)
        if k == 0:
            return Best(ratio, 0, 0.0)
        return Best(ratio, k, self.limit(ratio) if k == inf else float(self.rewards(int(k), ratio)[-1]))

    def _best_k(self, ratio: float) -> float:
        """The increments of R are a sum of two powers, easy and hard, which changes its sign at most once."""
        easy, hard = self.priors * self.values(ratio)
        leave, stay = self.refused  # of easy and hard problems
        if max(leave, stay) == 0:  # whatever it is, the first is accepted
            return int(easy + hard > 0)
        if hard < 0 and leave < stay:  # what is left after some refusals is not worth another attempt
            if easy + hard <= 0:
                return 0
            return 1 if leave == 0 else max(1, ceil(log(-hard / easy) / log(leave / stay)))
        if max(easy * leave, hard * stay) <= 0:  # nothing is gained after the first attempt
            return int(easy + hard > 0)
        return inf if self.limit(ratio) > 0 else 0
