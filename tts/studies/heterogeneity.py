"""How much a verifier has to choose from: spread of rewards within each prompt, and how often much more than the mean.

Setlur et al. 2025, "Scaling Test-Time Compute Without Verification or RL is Suboptimal" (arXiv 2502.12118): where a
model's attempts at a prompt are heterogeneous and a fair share of them is far better than the mean
(anti-concentration), search with a verifier outgrows learning or voting without one, the more so the larger the budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tts.curves import CurveError

Advice = Literal["verifier", "majority", "neither"]


@dataclass(frozen=True)
class Heterogeneity:
    """The rewards of the attempts at one prompt."""

    attempts: int
    mean: float
    """mu."""
    spread: float
    """sigma, the standard deviation over the attempts (of this very sample, not of those that might have been)."""
    anticoncentration: float
    """The share of attempts with a reward above mu + sigma sqrt(epsilon)."""
    advice: Advice
    """`neither` where nothing succeeds, `verifier` where enough attempts stand out to be found, else `majority` (or
    learning from the attempts): there is nothing to find that most do not have."""


def heterogeneity(rewards: ArrayLike, *, epsilon: float = 1.0, enough: float = 0.01) -> Heterogeneity:
    """The heterogeneity of attempts with `rewards` of 0 or more, such as 1 for a right and 0 for a wrong one.

    For rewards of 0 and 1 an attempt stands out iff it is right and mu < 1 / (1 + epsilon): with an `epsilon` of 1,
    iff less than half are right. `enough` is the share of attempts that must stand out for a verifier to be worth it.
    Raises `CurveError` for none, or rewards that are negative or not finite.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or values.min() < 0:
        raise CurveError("heterogeneity needs at least one reward, each finite and 0 or more")
    if epsilon < 0:
        raise CurveError(f"epsilon is 0 or more, not {epsilon}")
    mean, spread = float(values.mean()), float(values.std())
    # Rounding must not let a reward stand out that is just at the edge.
    share = float((values > mean + spread * np.sqrt(epsilon) + 1e-9 * max(1.0, values.max())).mean())
    advice: Advice = "neither" if values.max() == 0 else "verifier" if share >= max(enough, 1e-12) else "majority"
    return Heterogeneity(len(values), mean, spread, share, advice)


@dataclass(frozen=True)
class HeterogeneitySummary:
    """What it comes to over prompts; shares and means are over all of them."""

    prompts: int
    mean: float
    spread: float
    anticoncentration: float
    shares: dict[str, float]
    """The share of prompts for each advice."""
    advice: Advice
    """Of those by which anything is gained, the one for most prompts; `neither` where nothing succeeds anywhere."""


def summarise(found: Sequence[Heterogeneity]) -> HeterogeneitySummary:
    """The summary of prompts. Raises `CurveError` without any."""
    if not found:
        raise CurveError("there is no prompt to summarise")
    votes = Counter(one.advice for one in found)
    advice: Advice = "neither"
    if votes["verifier"] or votes["majority"]:
        advice = "verifier" if votes["verifier"] >= votes["majority"] else "majority"
    return HeterogeneitySummary(
        prompts=len(found),
        mean=float(np.mean([one.mean for one in found])),
        spread=float(np.mean([one.spread for one in found])),
        anticoncentration=float(np.mean([one.anticoncentration for one in found])),
        shares={name: votes[name] / len(found) for name in ("verifier", "majority", "neither")},
        advice=advice,
    )
