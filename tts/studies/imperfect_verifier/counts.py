"""When more samples stop paying: resampling against an imperfect verifier, exactly and from counts alone.

Stroebl et al. 2024, "Inference Scaling fLaws" (arXiv 2411.17501), whose names of measures are given where they differ:
samples are drawn until the verifier accepts one, at most K times, else the run abstains. An accepted right answer is
worth 1, an accepted wrong one costs lambda, abstaining is worth 0. The paper shuffles recorded samples; as samples are
exchangeable, the mean over all orders has a closed form (`first_pass_at_k`), and nothing here is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tts.curves import CurveError, FirstPassEstimate, Interval, first_pass_at_k, mean_interval
from tts.curves.estimators import Floats, Integers, whole_numbers
from tts.curves.fits import LinearFit, fit_line
from tts.studies.judging import Decisions

Mode = Literal["exact", "paper"]
"""What is right, or what the paper's notebooks compute."""
SAME = 1e-12
"""Rewards that differ by less are equal but for rounding."""


@dataclass(frozen=True)
class Counts:
    """What a verifier made of the samples of each problem: all that resampling depends on.

    Each array has one whole number per problem.
    """

    n: Integers
    """Samples, at least 1."""
    accepted: Integers
    """Those that the verifier accepts; an undecided one is not accepted."""
    accepted_correct: Integers
    """Those that it accepts and that are right."""
    correct: Integers
    """Those that are right, accepted or not."""

    @classmethod
    def of(
        cls, n: ArrayLike, accepted: ArrayLike, accepted_correct: ArrayLike, correct: ArrayLike | None = None
    ) -> Counts:
        """Checked counts; `correct` is by default `accepted_correct`, as where a verifier accepts all that is right.

        Raises `CurveError` for no counts, or counts that contradict each other.
        """
        given = {"n": n, "accepted": accepted, "accepted_correct": accepted_correct}
        given["correct"] = accepted_correct if correct is None else correct
        whole = (np.atleast_1d(whole_numbers(values, name)) for name, values in given.items())
        sizes, passed, both, right = np.broadcast_arrays(*whole)
        if not len(sizes) or np.any(sizes < 1):
            raise CurveError("counts need at least one problem, and a sample of each")
        if np.any((both < 0) | (both > np.minimum(passed, right)) | (passed + right - both > sizes)):
            raise CurveError("accepted_correct counts samples that are both accepted and correct, all of them among n")
        return cls(sizes, passed, both, right)

    def __len__(self) -> int:
        return len(self.n)

    def __getitem__(self, problems: Integers) -> Counts:
        """The counts of some problems, which may be named more than once."""
        return Counts(*(part[problems] for part in (self.n, self.accepted, self.accepted_correct, self.correct)))

    # -- without resampling ---------------------------------------------------------------------------------------

    @property
    def accuracy(self) -> float:
        """Of a single sample: the mean over problems of the share that is right."""
        return float(np.mean(self.correct / self.n))

    @property
    def apparent_accuracy(self) -> float:
        """What the verifier suggests: the mean over problems of the share that it accepts."""
        return float(np.mean(self.accepted / self.n))

    @property
    def answered(self) -> Integers:
        """The problems with any accepted sample; the others are abstained from at every K."""
        return np.flatnonzero(self.accepted)

    @cached_property
    def precision(self) -> Floats:
        """The share of the accepted that is right, for each of the `answered` problems."""
        kept = self.answered
        return self.accepted_correct[kept] / self.accepted[kept]

    @property
    def decisions(self) -> Decisions:
        """Completeness, soundness and false-discovery rate over all samples together."""
        parts = (self.n, self.accepted, self.accepted_correct, self.correct)
        total, passed, both, right = (int(part.sum()) for part in parts)
        return Decisions(
            total,
            completeness=both / right if right else None,
            soundness=1 - (passed - both) / (total - right) if total > right else None,
            false_discovery=1 - both / passed if passed else None,
        )

    @property
    def conditional_accuracy(self) -> float:
        """P(right | accepted), the mean over `answered` problems: what resampling tends to as K grows.

        Raises `CurveError` where nothing is accepted.
        """
        if not len(self.answered):
            raise CurveError("the verifier accepts no sample of any problem: there is no accuracy of what it accepts")
        return float(self.precision.mean())

    @property
    def conditional_accuracy_range(self) -> tuple[float, float]:
        """The same if all problems without an accepted sample were wrong, or right, in the end."""
        silent = len(self) - len(self.answered)
        return float(self.precision.sum() / len(self)), float((self.precision.sum() + silent) / len(self))

    @property
    def generalisation_gap(self) -> float:
        """1 - `conditional_accuracy`: how often an accepted sample is wrong, each problem counting alike.

        The paper calls it the false positive rate; it is a false-discovery rate.
        """
        return 1 - self.conditional_accuracy

    @property
    def unconditional_gap(self) -> float:
        """By how much `apparent_accuracy` exceeds `accuracy`."""
        return self.apparent_accuracy - self.accuracy

    def soundness(self, mode: Mode = "exact") -> float:
        """P(refused | wrong), over all samples together; "paper" mixes it with the mean precision over problems.

        The notebook's is (1 - B - P + G B) / (1 - P) with B the apparent accuracy, P the accuracy and G the
        conditional accuracy, which presumes that all that is right is accepted. Raises `CurveError` where nothing is
        wrong, or nothing accepted.
        """
        if (found := self.decisions.soundness) is None:
            raise CurveError("soundness needs wrong samples, and all are right")
        if mode == "exact":
            return found
        passed, right = self.apparent_accuracy, self.accuracy
        return (1 - passed - right + self.conditional_accuracy * passed) / (1 - right)

    # -- with resampling ------------------------------------------------------------------------------------------

    @property
    def most(self) -> int:
        """The largest K that all problems have samples for."""
        return int(self.n.min())

    def resampled(self, k: ArrayLike) -> FirstPassEstimate:
        """The outcome of resampling at most k times, over all orders of the samples; arrays are problems x ks."""
        return first_pass_at_k(self.n, self.accepted, self.accepted_correct, k)

    def rewards(self, k: ArrayLike, ratio: float) -> Floats:
        """P(accepted and right) - ratio x P(accepted and wrong) of each problem within k attempts: problems x ks.

        `ratio` is lambda, the cost of a false positive in units of the benefit of a true one. The mean over problems
        is the paper's R(K, lambda).
        """
        found = self.resampled(k)
        return found.correct - ratio * found.false_accept


# -- the K that pays --------------------------------------------------------------------------------------------------


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
    """Whether k uses all samples there are: more might still pay."""


def best_k(counts: Counts, ratio: float) -> Best:
    """K* = argmax of R(K, lambda) over K = 0, 1, ..., `counts.most`; the smallest of equals."""
    ks = np.arange(1, counts.most + 1)
    rewards = np.concatenate([[0.0], counts.rewards(ks, ratio).mean(axis=0)])
    k = int(np.flatnonzero(rewards >= rewards.max() - SAME)[0])
    return Best(ratio, k, float(rewards[k]), at_most=k == counts.most)


def critical_ratio(counts: Counts) -> float:
    """The largest lambda at which `counts.most` attempts are as good as any fewer; infinite where more never harm.

    Beyond it, more samples make the result worse. At 0 or below, some smaller K is better even if mistakes are free.
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
    gained, risked = (np.concatenate([[0.0], part.mean(axis=0)]) for part in (found.correct, found.false_accept))
    return gained, risked


@dataclass(frozen=True)
class Attempts:
    """How reliable late acceptances are. Each array has one entry for each range of attempts."""

    first: Integers
    last: Integers
    stopped: Floats
    """Probability that the first acceptance falls into the range."""
    false_discovery: Floats
    """P(wrong | first accepted there), over all runs that end there. NaN where none can."""
    by_problem: Floats
    """The paper's figure: the same within each problem, averaged over those that can end there, however rarely."""


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
    """Whether resampling a weak model catches up with one sample of a strong one."""

    weak: float
    """A single sample of the weak model."""
    ceiling: float
    """The weak model's conditional accuracy: no K exceeds it on the problems it answers."""
    strong: float
    """A single sample of the strong model."""
    shortfall: Interval
    """`strong` minus `ceiling`, over resampled problems; one entry."""
    k: int | None
    """The fewest attempts at which the weak model, with unanswered problems counted as wrong, is right as often as the
    strong one; None where no K up to the number of samples reaches that."""

    @property
    def hopeless(self) -> bool:
        """The paper's test: the strong model is right more often than the weak model's accepted samples are."""
        return self.strong > self.ceiling


def weak_against_strong(weak: Counts, strong: Counts) -> Rivalry:
    """Compare two models on the same problems in the same order (Stroebl et al. 2024).

    Conditional accuracy is a ratio of means over all problems; the interval, of 95 %, is that of its linear form.
    Raises `CurveError` for other problems, or where nothing of the weak model is accepted.
    """
    if len(weak) != len(strong):
        raise CurveError(f"the models must have the same problems: {len(weak)} and {len(strong)}")
    by_k = weak.resampled(np.arange(1, weak.most + 1)).correct.mean(axis=0)
    reached = np.flatnonzero(by_k >= strong.accuracy - SAME)
    ceiling, answered = weak.conditional_accuracy, len(weak.answered) / len(weak)
    gaps = strong.correct / strong.n - ceiling
    gaps[weak.answered] -= (weak.precision - ceiling) / answered
    shortfall = mean_interval(
        gaps[:, np.newaxis], low=-ceiling - (1 - ceiling) / answered, high=1 - ceiling + ceiling / answered
    )
    k = int(reached[0]) + 1 if len(reached) else None
    return Rivalry(weak.accuracy, weak.conditional_accuracy, strong.accuracy, shortfall, k)


def ceiling_line(models: Mapping[str, Counts]) -> LinearFit:
    """The regression of conditional accuracy on single-sample accuracy over models.

    It rises, as weaker models overfit a verifier more. Raises `CurveError` for fewer than three models.
    """
    return fit_line([one.accuracy for one in models.values()], [one.conditional_accuracy for one in models.values()])


def reward_interval(counts: Counts, k: ArrayLike, ratio: float) -> Interval:
    """R(K, lambda) at each k with its 95 % interval over problems."""
    return mean_interval(counts.rewards(np.atleast_1d(k), ratio), low=-ratio)
