"""Accuracy against compute: one line with its interval, and what can be read off it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tts.curves.estimators import CurveError, Floats, Integers, TooFewSamples, valid_ks
from tts.curves.intervals import mean_interval
from tts.text import counted


@dataclass(frozen=True, eq=False)
class Curve:
    """Mean accuracy over problems at increasing compute."""

    label: str
    """What the legend calls it, e.g. the strategy and the model."""
    estimator: str
    """How it was computed: `pass@k`, `best-of-k`, `majority@k (exact)`, `replay`, ..."""
    k: Integers
    """Samples (or candidates) that the selection sees; strictly increasing. Under a cap, the most of any problem."""
    x: Floats
    """Mean compute per problem at each k, in `x_unit`; never decreasing."""
    y: Floats
    """Mean accuracy, from 0 to 1."""
    low: Floats
    high: Floats
    """Bounds of the confidence interval of `y` over problems."""
    problems: int
    level: float = 0.95
    """Probability with which the interval covers."""
    x_name: str = "samples"
    x_unit: str = ""
    """E.g. `tokens`, `FLOPs`, `USD`, `s`; empty for a plain count."""
    short: int = 0
    """Problems that ended with fewer candidates than the largest k: from there on they stand at what they reached."""
    cap: Floats | None = None
    """The compute that each problem may take at most, in `x_unit`, strictly increasing; None for a curve over k."""

    def __post_init__(self) -> None:
        shapes = {np.shape(values) for values in (self.k, self.x, self.y, self.low, self.high)}
        if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or shape == (0,):
            raise CurveError(f"curve '{self.label}': k, x, y, low and high must be equally long and not empty")
        steps = self.k if self.cap is None else self.cap
        if np.shape(steps) != shape or np.any(np.diff(steps) <= 0):
            grows = "k" if self.cap is None else "the cap"
            raise CurveError(f"curve '{self.label}': {grows} must increase strictly; sort it and drop repeats")
        if not np.isfinite(self.x).all() or np.any(np.diff(self.x) < 0):
            raise CurveError(f"curve '{self.label}': {self.x_name} must be finite and not fall as k grows")

    @classmethod
    def from_values(
        cls,
        label: str,
        estimator: str,
        k: ArrayLike,
        values: ArrayLike,
        *,
        x: ArrayLike | None = None,
        x_name: str = "samples",
        x_unit: str = "",
        level: float = 0.95,
        short: int = 0,
        cap: ArrayLike | None = None,
    ) -> Curve:
        """Average a (problems x ks) matrix of accuracies, with its interval over problems.

        `x` is the compute at each k, or a (problems x ks) matrix of it, which is averaged; left out, it is k. With
        `cap`, points are caps instead of ks.
        """
        matrix = np.asarray(values, dtype=np.float64)
        ks = valid_ks(k) if cap is None else np.asarray(k, dtype=np.int64)
        compute = np.asarray(ks if x is None else x, dtype=np.float64)
        if compute.ndim == 2:
            if compute.shape != matrix.shape:
                raise CurveError(f"curve '{label}': compute {compute.shape} and values {matrix.shape} differ in shape")
            compute = compute.mean(axis=0)
        interval = mean_interval(matrix, level=level)
        return cls(
            label=label,
            estimator=estimator,
            k=ks,
            x=compute,
            y=interval.mean,
            low=interval.low,
            high=interval.high,
            problems=len(matrix),
            level=level,
            x_name=x_name,
            x_unit=x_unit,
            short=short,
            cap=None if cap is None else np.asarray(cap, dtype=np.float64),
        )

    def __repr__(self) -> str:
        ends = " to ".join(f"{self.y[i]:.3g} at {self.x[i]:g}" for i in dict.fromkeys((0, len(self.k) - 1)))
        points = f"{counted(len(self.k), 'point')}, {ends} {self.x_label}, {counted(self.problems, 'problem')}"
        return f"Curve({self.label!r}, {self.estimator!r}: {points})"

    @property
    def x_label(self) -> str:
        """Axis title: name and unit."""
        return f"{self.x_name} ({self.x_unit})" if self.x_unit else self.x_name

    def accuracy_at(self, compute: float) -> float:
        """Accuracy at `compute` (in the x axis's unit), interpolated linearly between the measured points.

        Raises `CurveError` outside the measured range: curves are not extrapolated.
        """
        if not self.x[0] <= compute <= self.x[-1]:
            raise CurveError(
                f"curve '{self.label}' is measured from {self.x[0]:g} to {self.x[-1]:g} {self.x_label}, "
                f"not at {compute:g}: run with other budgets, or fit a law to it"
            )
        return float(np.interp(compute, self.x, self.y))

    def interval_at(self, compute: float) -> tuple[float, float]:
        """The bounds of that accuracy, interpolated as it is."""
        return float(np.interp(compute, self.x, self.low)), float(np.interp(compute, self.x, self.high))

    def compute_to_reach(self, accuracy: float) -> float | None:
        """Least compute at which the curve first reaches `accuracy`; None if it never does.

        Interpolated linearly before the first point that reaches it; a later fall does not matter. If the first point
        already reaches it, that point's compute: less was not measured.
        """
        reached = np.flatnonzero(self.y >= accuracy)
        if not reached.size:
            return None
        i = int(reached[0])
        if i == 0:
            return float(self.x[0])
        share = (accuracy - self.y[i - 1]) / (self.y[i] - self.y[i - 1])
        return float(self.x[i - 1] + share * (self.x[i] - self.x[i - 1]))


def powers_of_two(limit: int) -> Integers:
    """1, 2, 4, ... and `limit` itself: the usual ks."""
    if limit < 1:
        raise CurveError(f"a curve needs at least one sample of every problem, not {limit}")
    return np.unique([*(1 << i for i in range(limit.bit_length())), limit])


def replay(
    costs: Sequence[ArrayLike],
    correct: Sequence[ArrayLike],
    k: ArrayLike,
    *,
    finished: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """Accuracies and compute at prefixes of recorded runs, both problems x ks.

    `costs[i][j]` is the cumulative compute of the first j + 1 candidates of problem i, `correct[i][j]` whether the
    selection among them is correct. Where `finished[i]` is true, the strategy ended by itself (a verifier accepted,
    the search was exhausted): its last prefix stands for every larger k.

    Raises `TooFewSamples` where k exceeds the candidates of a problem that is not finished.
    """
    ks = np.atleast_1d(valid_ks(k))
    lengths = np.array([len(np.asarray(flags)) for flags in correct])
    if [len(np.asarray(cost)) for cost in costs] != lengths.tolist():
        raise CurveError("a replay needs one cumulative cost and one flag for every prefix of every problem")
    ended = np.zeros(len(lengths), bool) if finished is None else np.asarray(finished, bool)
    if ended.shape != lengths.shape:
        raise CurveError(f"`finished` must hold one flag for each problem: {len(lengths)}")
    if not lengths.all():
        raise CurveError(f"problem {int(np.argmin(lengths))} (counted from 0) has no candidates: leave it out")
    short: NDArray[np.bool_] = ~ended & (lengths < ks.max())
    if short.any():
        worst = int(np.flatnonzero(short)[0])
        raise TooFewSamples("replay", int(ks.max()), worst, int(lengths[worst]))
    at = np.minimum(ks, lengths[:, np.newaxis]) - 1
    values = np.array([np.asarray(c, np.float64)[i] for c, i in zip(correct, at, strict=True)])
    compute = np.array([np.asarray(c, np.float64)[i] for c, i in zip(costs, at, strict=True)])
    return values, compute


def affordable(costs: Sequence[Floats], caps: Floats) -> NDArray[np.int64]:
    """How many candidates each cap affords (rows x caps), given the cumulative costs of each row's."""
    return np.array([np.searchsorted(part, caps * (1 + 1e-12), side="right") for part in costs])


def caps_over(costs: Sequence[Floats], most: int = 24) -> Floats:
    """Caps at which a candidate more is affordable somewhere: all of them, or so many at even ratios."""
    every = np.unique(np.concatenate(costs))
    every = every[every > 0] if every.any() else every[-1:]
    if len(every) <= most:
        return every
    wanted = np.geomspace(every[0], every[-1], most)
    return np.unique(every[np.minimum(np.searchsorted(every, wanted * (1 - 1e-12)), len(every) - 1)])


def taken(parts: Sequence[Floats], at: NDArray[np.int64]) -> Floats:
    """What each row has after so many candidates (rows x points), 0 after none."""
    starts = np.cumsum([0, *map(len, parts[:-1])])[:, np.newaxis]
    return np.where(at > 0, np.append(0.0, np.concatenate(parts))[starts + at], 0.0)
