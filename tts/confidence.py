"""How sure a model was of what it wrote, from the log-probabilities that came with it.

Fu et al. 2025, "Deep Think with Confidence" (arXiv 2508.15260), section 2: the confidence of a token is
`Sample.confidences`, that of a group is its mean over a sliding window, and a trace is as good as its weakest group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tts.sampler.protocol import Generation
from tts.types import Candidate

LIKELIEST: dict[str, Any] = {"logprobs": True, "top_logprobs": 20}
"""Sampling parameters that make a server report the likeliest tokens at each position; few report more than 20."""


def confidences_of(candidate: Candidate) -> Sequence[float]:
    """The confidence of each token of the answer. Raises `ValueError` if the server gave no `top_logprobs`."""
    found = candidate.samples[-1].confidences if candidate.samples else None
    if not found:
        raise ValueError("the server gave no top_logprobs for this answer")
    return found


def lowest_group(confidences: Sequence[float], window: int) -> float:
    """The lowest mean over `window` consecutive tokens; the mean over all if there are no more."""
    sums = np.concatenate([[0.0], np.cumsum(confidences)])
    width = min(window, len(confidences))
    return float((sums[width:] - sums[:-width]).min() / width)


@dataclass(frozen=True)
class LowConfidence:
    """Stops an answer as soon as the mean confidence of its last `window` tokens is below `threshold`."""

    threshold: float
    window: int

    def watch(self) -> Callable[[Generation], bool]:
        """A rule for one answer (see `StopRule`); each call looks only at the new tokens."""
        seen, total = 0, 0.0

        def falls_below(choice: Generation) -> bool:
            nonlocal seen, total
            known = choice.confidences or []
            while seen < len(known):
                total += known[seen] - (known[seen - self.window] if seen >= self.window else 0.0)
                seen += 1
                if seen >= self.window and total / self.window < self.threshold:
                    return True
            return False

        return falls_below
