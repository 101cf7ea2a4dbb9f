"""What a verifier made of the samples of each problem, in counts: all that resampling depends on.

Stroebl et al. 2024, "Inference Scaling fLaws" (arXiv 2411.17501), whose names of measures are given where they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tts.curves import CurveError
from tts.curves.estimators import FirstPassEstimate, Floats, Integers, first_pass_at_k, whole_numbers
from tts.studies.judging import Decisions

Mode = Literal["exact", "paper"]
"""What is right, or what the paper's notebooks compute."""


@dataclass(frozen=True)
class Counts:
    """What a verifier made of the samples of each problem. All arrays have one whole number for each problem."""

    n: Integers
    """Samples, at least 1."""
    accepted: Integers
    """Those that the verifier accepts; one on which it does not decide is not accepted."""
    accepted_correct: Integers
    """Those that it accepts and that are right."""
    correct: Integers
    """Those that are right, accepted or not."""

    @classmethod
    def of(
        cls, n: ArrayLike, accepted: ArrayLike, accepted_correct: ArrayLike, correct: ArrayLike | None = None
    ) -> Counts:
        """Checked counts; `correct` is `accepted_correct` where the verifier accepts all that is right, as tests do.

        Raises `CurveError` for counts that contradict each other, or none.
        """
        right = accepted_correct if correct is None else correct
        sizes, passed, both, all_right = np.broadcast_arrays(
            *(
                np.atleast_1d(whole_numbers(values, name))
                for values, name in ((n, "n"), (accepted, "accepted"), (accepted_correct, "both"), (right, "correct"))
            )
        )
        if not len(sizes) or np.any(sizes < 1):
            raise CurveError("counts need at least one problem, and a sample of each")
        if (
            np.any(both < 0)
            or np.any(both > np.minimum(passed, all_right))
            or np.any(passed + all_right - both > sizes)
        ):
            raise CurveError("accepted_correct counts samples that are both accepted and correct, all of them among n")
        return cls(sizes, passed, both, all_right)

    def __len__(self) -> int:
        return len(self.n)

    def __getitem__(self, problems: Integers) -> Counts:
        """Those of some problems, which may be named more than once."""
        return Counts(
            self.n[problems], self.accepted[problems], self.accepted_correct[problems], self.correct[problems]
        )

    # -- without resampling ---------------------------------------------------------------------------------------

    @property
    def accuracy(self) -> float:
        """Of a single sample: the mean over problems of the share that is right."""
        return float(np.mean(self.correct / self.n))

    @property
    def apparent_accuracy(self) -> float:
        """What the verifier makes believe: the mean over problems of the share that it accepts."""
        return float(np.mean(self.accepted / self.n))

    @property
    def answered(self) -> Integers:
        """The problems of which the verifier accepts any sample: the others are abstained from at every K."""
        return np.flatnonzero(self.accepted)

    @cached_property
    def precision(self) -> Floats:
        """The share of the accepted that is right, for each of the `answered` problems."""
        kept = self.answered
        return self.accepted_correct[kept] / self.accepted[kept]

    @property
    def decisions(self) -> Decisions:
        """Completeness, soundness and false-discovery rate over all samples together."""
        total, passed, both, right = (
            int(part.sum()) for part in (self.n, self.accepted, self.accepted_correct, self.correct)
        )
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
        self._require_accepted()
        return float(self.precision.mean())

    @property
    def conditional_accuracy_range(self) -> tuple[float, float]:
        """The same if all problems without an accepted sample would end wrong, or right."""
        silent = len(self) - len(self.answered)
        return float(self.precision.sum() / len(self)), float((self.precision.sum() + silent) / len(self))

    @property
    def generalisation_gap(self) -> float:
        """1 - `conditional_accuracy`: how often what is accepted is wrong after all, each problem counting alike.

        The paper calls it the false positive rate; it is a false-discovery rate.
        """
        return 1 - self.conditional_accuracy

    @property
    def unconditional_gap(self) -> float:
        """`apparent_accuracy` less `accuracy`."""
        return self.apparent_accuracy - self.accuracy

    def soundness(self, mode: Mode = "exact") -> float:
        """P(refused | wrong), over all samples together; "paper" mixes it with the mean precision over problems.

        The notebook's is (1 - B - P + G B) / (1 - P) with B the apparent accuracy, P the accuracy and G the
        conditional accuracy: it presumes that all that is right is accepted. Raises `CurveError` where nothing is
        wrong, or accepted.
        """
        if mode == "exact":
            if (found := self.decisions.soundness) is None:
                raise CurveError("soundness needs wrong samples, and all are right")
            return found
        passed, right = self.apparent_accuracy, self.accuracy
        if right == 1:
            raise CurveError("soundness needs wrong samples, and all are right")
        return (1 - passed - right + self.conditional_accuracy * passed) / (1 - right)

    def _require_accepted(self) -> None:
        if not len(self.answered):
            raise CurveError("the verifier accepts no sample of any problem: there is no accuracy of what it accepts")

    # -- with resampling ------------------------------------------------------------------------------------------

    @property
    def most(self) -> int:
        """The largest K that all problems have samples for."""
        return int(self.n.min())

    def resampled(self, k: ArrayLike) -> FirstPassEstimate:
        """What resampling at most k times comes to, over all orders of the samples; arrays are problems x ks."""
        return first_pass_at_k(self.n, self.accepted, self.accepted_correct, k)

    def rewards(self, k: ArrayLike, ratio: float) -> Floats:
        """P(accepted and right) - ratio x P(accepted and wrong) of each problem by k attempts: problems x ks.

        `ratio` is lambda, the cost of a false positive in units of the benefit of a true one. The mean over problems
        is R(K, lambda) of the paper.
        """
        found = self.resampled(k)
        return found.correct - ratio * found.false_accept
