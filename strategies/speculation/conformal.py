"""Conformal rejection: which scores are too poor to keep, at a rate of your choice, whatever their distribution.

A score is compared with calibration scores. If it is exchangeable with them, its p-value is super-uniform (Vovk et
al. 2005, chapter 2), so that rejecting p > 1 - r rejects the share r. ATTS (arXiv
2509.15148, equation 13) applies it to drafts scored by a larger model: a large p means that many calibration drafts
were at least as good.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tts.errors import ConfigError
from tts.files import write_calibration_file

Floats = NDArray[np.float64]
Better = Literal["higher", "lower"]
"""Which scores are good: log-probabilities `higher`, perplexities `lower`."""
Stratum = Literal["question", "turn", "length"]
"""What scores must have in common to be compared. Lengths are classes of a factor of two."""
_Key: TypeAlias = tuple[str, int, int]

ROUNDING = 1e-12
STEP = 0.02
"""By how much one rejection too many or too few moves the rate of the next decision."""


def p_values(scores: ArrayLike, calibration: ArrayLike, *, better: Better, u: ArrayLike = 1.0) -> Floats:
    """The p-value of each score against all of `calibration`, in (0, 1].

    (#better + u (1 + #equal)) / (N + 1). With `u` = 1 that is the share of the N calibration scores and itself that
    are at least as good: P(p <= a) <= a. With `u` drawn uniformly from (0, 1] it is exactly uniform, ties and small
    N included.
    """
    new, known = _oriented(scores, better), _oriented(calibration, better)
    known = np.sort(known)
    better_than = len(known) - np.searchsorted(known, new, side="right")
    at_least = len(known) - np.searchsorted(known, new, side="left")
    return (better_than + np.asarray(u) * (1 + at_least - better_than)) / (len(known) + 1)


def rejects(p: ArrayLike, rejection_rate: float) -> Any:
    """Whether scores with these p-values are rejected, so that exchangeable ones are at the given rate."""
    return np.asarray(p) > 1 - rejection_rate + ROUNDING


def rate_within(budget: float, *, samples: int, rounds: int, tokens: int) -> float:
    """The largest rejection rate whose expected continuations, `tokens` long at most, stay within `budget` tokens."""
    return min(1.0, budget / (samples * rounds * tokens))


def _oriented(scores: ArrayLike, better: Better) -> Floats:
    """Scores as an array in which higher is better. Raises `ValueError` for a score that is no number."""
    values = np.atleast_1d(np.asarray(scores, dtype=np.float64))
    if np.isnan(values).any():
        raise ValueError("a missing score has no p-value")
    return values if better == "higher" else -values


@dataclass(frozen=True, slots=True)
class Scored:
    """A score and where it was taken."""

    score: float
    question: str
    turn: int
    """Round of the sample, from 0."""
    tokens: int
    """Length of what was scored."""


class Calibration:
    """Scores to compare with, only those of the same stratum; it may grow while it is used.

    With `by` empty all scores are compared (marginal); `("question",)` is the paper's conditional form. Growing, a
    score is compared with those before it: its p-value is exactly uniform from the first one on, as long as the
    order in which they come is exchangeable. `window` keeps the last so many of a stratum, for scores that drift.
    A calibration that does not grow answers for a turn or a length that it has not seen with the nearest it has.
    """

    def __init__(
        self,
        scored: Sequence[Scored] = (),
        *,
        better: Better,
        by: Sequence[Stratum] = (),
        window: int | None = None,
        grows: bool = True,
    ) -> None:
        self.better: Better = better
        self.by: frozenset[Stratum] = frozenset(by)
        self.window = window
        self.grows: bool = True
        self._strata: dict[_Key, tuple[list[float], deque[float]]] = {}
        self._owed: dict[_Key, float] = {}  # rejections by which the realised rate is behind the nominal one
        for one in scored:
            self.add(one)
        self.grows = grows

    def add(self, scored: Scored) -> None:
        """Let later scores be compared with this one, if the calibration grows."""
        if not self.grows:
            return
        value = self._value(scored)
        ordered, recent = self._strata.setdefault(self._stratum(scored), ([], deque()))
        insort(ordered, value)
        recent.append(value)
        if self.window is not None and len(recent) > self.window:
            del ordered[bisect_left(ordered, recent.popleft())]

    def p_value(self, scored: Scored, u: float = 1.0) -> float:
        """The p-value of `scored` within its stratum, as `p_values` defines it; `u` where there is nothing to compare.

        Raises `ConfigError` for a question that a fixed calibration by question does not have.
        """
        value = self._value(scored)
        ordered = self._ordered(self._stratum(scored))
        low, high = bisect_left(ordered, value), bisect_right(ordered, value)
        return (len(ordered) - high + u * (1 + high - low)) / (len(ordered) + 1)

    def balanced(self, scored: Scored, p: float, rejection_rate: float) -> float:
        """`p`, moved so that the realised rate of the stratum stays at the nominal one also where the order is not
        exchangeable: where what comes late is poorer, say.

        Adaptive conformal inference (Gibbs and Candes 2021, arXiv 2106.00170, equation 2): every decision moves the
        next one's rate by `STEP` towards what is owed. After n decisions the realised rate differs from the nominal
        one by less than (1 + `STEP`) / (`STEP` n), whatever the scores.
        """
        stratum = self._stratum(scored)
        owed = self._owed.get(stratum, 0.0)
        moved = min(1.0, max(ROUNDING, p + STEP * owed))
        self._owed[stratum] = owed + rejection_rate - bool(rejects(moved, rejection_rate))
        return moved

    def _value(self, scored: Scored) -> float:
        if math.isnan(scored.score):
            raise ValueError("a missing score has no p-value")
        return scored.score if self.better == "higher" else -scored.score

    def _stratum(self, scored: Scored) -> _Key:
        return (
            scored.question if "question" in self.by else "",
            scored.turn if "turn" in self.by else 0,
            max(1, scored.tokens).bit_length() if "length" in self.by else 0,
        )

    def _ordered(self, stratum: _Key) -> list[float]:
        if stratum in self._strata:
            return self._strata[stratum][0]
        if self.grows:
            return []
        question, turn, length = stratum
        same = [one for one in self._strata if one[0] == question]
        if not same:
            raise ConfigError(
                f"the calibration has no scores of '{question}'; calibrate on it, or leave out by=question"
            )
        nearest = min(same, key=lambda one: (abs(one[1] - turn), abs(one[2] - length), one))
        return self._strata[nearest][0]


def save(path: Path, scored: Sequence[Scored], *, better: Better, made_with: Mapping[str, Any]) -> None:
    """Write calibration scores with all that shaped them. Raises `ConfigError` if there is such a file already."""
    content = {"better": better, "made_with": dict(made_with), "scores": [asdict(one) for one in scored]}
    write_calibration_file(path, content)


def load(path: Path, made_with: Mapping[str, Any], *, better: Better, by: Sequence[Stratum] = ()) -> Calibration:
    """The calibration in a file, fixed.

    Raises `ConfigError` that names what differs if its scores were made with anything else than `made_with`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        before, scored = content["made_with"], [Scored(**one) for one in content["scores"]]
        direction = content["better"]
    except OSError as error:
        raise ConfigError(f"cannot read the calibration {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no calibration file: {error}") from error
    before, now = {**before, "better": direction}, {**json.loads(json.dumps(made_with)), "better": better}
    differ = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differ:
        raise ConfigError(
            f"{path} was made otherwise: {'; '.join(differ)}. Calibrate again, or go back to its settings"
        )
    if not scored:
        raise ConfigError(f"{path} has no scores")
    return Calibration(scored, better=better, by=by, grows=False)
