"""How accurate each policy is expected to be on a problem, by how accurate it was on stored ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Abilities:
    """What describes each policy: how it does on problems like each of a few probes."""

    probes: Floats
    """Their features: problems of the calibration, each as unlike those before as there is one."""
    weights: Floats
    """How much each problem of the calibration is like each probe (problems x probes), 1 in all."""
    solved: Floats
    """The accuracy of each policy on problems like each probe (probes x policies), at the mean of all where few are."""

    @classmethod
    def of(cls, known: Profile, count: int) -> Abilities:
        """The description of all policies by `count` probes, or as many as there are different problems."""
        stored = features(known.texts)
        chosen = [int(((stored - stored.mean(axis=0)) ** 2).sum(axis=1).argmin())]
        apart = ((stored - stored[chosen[0]]) ** 2).sum(axis=1)
        while len(chosen) < count and apart.max() > 1e-9:
            chosen.append(int(apart.argmax()))
            apart = np.minimum(apart, ((stored - stored[chosen[-1]]) ** 2).sum(axis=1))
        weights = likeness(stored, stored[chosen])
        return cls(stored[chosen], weights, _shrunk(weights, known.solved, known.solved.mean(axis=0)))


def expected_by_abilities(known: Profile, texts: Sequence[str] | None = None, *, probes: int) -> Floats:
    """The same by what each policy can do (Model-SAT): its accuracy on problems like each probe, weighted by how like
    them the text is."""
    found = known.once(("abilities", probes), lambda: Abilities.of(known, probes))
    if texts is not None:
        return likeness(features(texts), found.probes) @ found.solved
    mean, rows = known.solved.mean(axis=0), range(len(known.solved))
    others = (_shrunk(np.delete(found.weights, i, 0), np.delete(known.solved, i, 0), mean) for i in rows)
    return np.array([weight @ solved for weight, solved in zip(found.weights, others, strict=True)])


def _shrunk(weights: Floats, solved: Floats, mean: Floats) -> Floats:
    return (weights.T @ solved + PRIOR * mean) / (weights.sum(axis=0)[:, np.newaxis] + PRIOR)


def likeness(rows: Floats, probes: Floats) -> Floats:
    """How like each probe each row is, 1 in all: it falls with the squared distance as a normal density does."""
    apart = ((rows[:, np.newaxis] - probes) ** 2).sum(axis=2)
    weights = np.exp(apart.min(axis=1, keepdims=True) - apart)
    return weights / weights.sum(axis=1, keepdims=True)


def features(texts: Sequence[str]) -> Floats:
    """A row for each text: the roots of how often each word comes, numbers by their lengths, and the text's length."""
    rows = np.zeros((len(texts), BUCKETS + 1))
    for row, text in zip(rows, texts, strict=True):
        words = "".join(sign if sign.isalnum() else f" {sign} " for sign in text.casefold()).split()
        for word in words:
            row[crc32((f"#{len(word)}" if word.isdigit() else word).encode()) % BUCKETS] += 1
        row[-1] = len(words)
    return np.sqrt(rows)
