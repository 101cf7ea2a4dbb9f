"""Ranks with ties, and what they tell of how well a score orders."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tts.curves.estimators import Floats


def mean_ranks(values: ArrayLike) -> Floats:
    """Rank of each of `values`, the smallest being 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse.ravel()]
