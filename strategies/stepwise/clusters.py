"""Clusters of partial answers, of each of which one member is kept, so that those that are kept differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
"""One row for each member."""


def word_vectors(texts: Sequence[str]) -> Vectors:
    """Unit vectors of how often each word stands in a text, a word counting the more the fewer texts have it."""
    words = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in texts]
    columns = {word: place for place, word in enumerate(dict.fromkeys(word for text in words for word in text))}
    counts = np.zeros((len(texts), len(columns)))
    for row, text in zip(counts, words, strict=True):
        np.add.at(row, [columns[word] for word in text], 1)
    counts *= np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1
    lengths = np.linalg.norm(counts, axis=1, keepdims=True)
    return counts / np.where(lengths > 0, lengths, 1)


def medoids(vectors: Vectors, k: int, rng: np.random.Generator, rounds: int = 50) -> list[int]:
    """The rows nearest to the centres of `k` clusters (k-means++: Arthur and Vassilvitskii 2007), in their order.

    Always `k` different ones, of at least as many.
    """
    centres = vectors[[int(rng.integers(len(vectors)))]]
    while len(centres) < k:
        apart = _distances(vectors, centres).min(axis=1)
        chances = apart / apart.sum() if apart.sum() > 0 else None
        centres = np.vstack([centres, vectors[rng.choice(len(vectors), p=chances)]])
    for _ in range(rounds):
        nearest = _distances(vectors, centres).argmin(axis=1)
        means = [vectors[nearest == i].mean(axis=0) if (nearest == i).any() else centres[i] for i in range(k)]
        if np.allclose(means, centres):
            break
        centres = np.array(means)
    chosen: list[int] = []
    for distances in _distances(vectors, centres).T:
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
    return sorted(chosen)


def _distances(vectors: Vectors, centres: Vectors) -> Vectors:
    """The square of the distance of each row from each centre."""
    squares = np.square(vectors).sum(axis=1)[:, np.newaxis] + np.square(centres).sum(axis=1)
    return np.maximum(squares - 2 * vectors @ centres.T, 0)
