"""How accurate each policy is expected to be on a problem, by how accurate it was on stored ones."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from tts.strategies.routing import Floats, Profile

BUCKETS = 256
PRIOR = 2.0
"""How many neighbours the mean over all problems counts as."""


def expected(known: Profile, texts: Sequence[str] | None = None, *, k: int | None) -> Floats:
    """Each policy's expected accuracy on each text (texts x policies), by its `k` nearest problems; None: by a linear
    model of all. Without `texts`, on each problem of the calibration by the others.
    """
    stored = known.once("features", lambda: features(known.texts))
    asked, mean = stored if texts is None else features(texts), known.solved.mean(axis=0)
    if k is None:
        inverse = np.linalg.solve(stored.T @ stored + np.eye(stored.shape[1]), stored.T)
        found = asked @ (inverse @ (known.solved - mean))
        if texts is None:  # without the problem itself: by its leverage
            lever = np.einsum("ij,ji->i", stored, inverse)[:, np.newaxis]
            found = (found - lever * (known.solved - mean)) / np.maximum(1 - lever, 1e-3)
        return np.clip(mean + found, 0, 1)
    distance = (asked**2).sum(axis=1)[:, np.newaxis] + (stored**2).sum(axis=1) - 2 * asked @ stored.T
    if texts is None:
        np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance.round(9), axis=1, kind="stable")[:, : min(k, len(stored) - (texts is None))]
    return (known.solved[near].sum(axis=1) + PRIOR * mean) / (near.shape[1] + PRIOR)


def features(texts: Sequence[str]) -> Floats:
    """A row for each text: the roots of how often each word comes, numbers by their lengths, and the text's length."""
    rows = np.zeros((len(texts), BUCKETS + 1))
    for row, text in zip(rows, texts, strict=True):
        words = "".join(sign if sign.isalnum() else f" {sign} " for sign in text.casefold()).split()
        for word in words:
            row[crc32((f"#{len(word)}" if word.isdigit() else word).encode()) % BUCKETS] += 1
        row[-1] = len(words)
    return np.sqrt(rows)
