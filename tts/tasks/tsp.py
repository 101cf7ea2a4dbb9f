"""Travelling salesperson: the shortest round trip through all cities of a complete graph.

After the TSP task of Balachandran et al. 2025 (arXiv 2504.00294): 6 to 13 cities. Distances are uniform whole numbers
from 1 to 99, the same both ways.
"""

from __future__ import annotations

from random import Random
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from tts.tasks import Example
from tts.tasks.building import Procedural
from tts.types import Problem
from tts.verifiers.exact_answer import ExactAnswer
from tts.verifiers.tour import Tour

Distances = list[list[int]]
PROMPT = """\
There are {n} cities, numbered 0 to {last}. These are the distances between them, the same both ways:

{lines}

Find the shortest tour that begins in city 0, visits every other city exactly once and returns to city 0. Think step \
by step. Then end with a last line of the form
Answer: 0 -> ... -> 0"""


class TSP(Procedural):
    """Right is any shortest tour, whatever its start and direction.

    Strategies may check whether a tour is valid and how long it is (`tour`); only the truth knows the least length, by
    the algorithm of Held and Karp (1962).
    """

    varied: ClassVar[tuple[str, ...]] = ("cities",)

    cities: tuple[Annotated[int, Field(ge=3, le=15)], ...] = tuple(range(6, 14))
    """The numbers of cities."""
    each: PositiveInt = 100
    """Problems of each number of cities."""

    def make(self, id: str, rng: Random, difficulty: tuple[Any, ...]) -> Example:
        (n,) = difficulty
        distances = random_distances(n, rng)
        lines = "\n".join(f"{a} - {b}: {distances[a][b]}" for a in range(n) for b in range(a + 1, n))
        problem = Problem.from_prompt(
            PROMPT.format(n=n, last=n - 1, lines=lines),
            id=id,
            verifier=Tour.name,
            answer=ExactAnswer.name,
            metadata={"distances": distances},
        )
        return Example(problem, Tour(shortest=shortest(distances)))


def random_distances(n: int, rng: Random) -> Distances:
    """A symmetric matrix with a zero diagonal."""
    matrix = [[0] * n for _ in range(n)]
    for a in range(n):
        for b in range(a):
            matrix[a][b] = matrix[b][a] = rng.randint(1, 99)
    return matrix


def shortest(distances: Distances) -> int:
    """The length of a shortest round trip through all cities.

    `best[visited, last]` is the shortest path from city 0 through the cities in `visited` (bits; without 0) to `last`.
    """
    weights = np.array(distances)
    n, between = len(weights) - 1, weights[1:, 1:]
    best = np.full((1 << n, n), np.iinfo(np.int32).max, dtype=np.int64)
    cities = np.arange(n)
    best[1 << cities, cities] = weights[0, 1:]
    for visited in range(1, 1 << n):
        further = cities[(visited >> cities & 1) == 0]
        ways = best[visited][:, np.newaxis] + between[:, further]
        reached = visited | 1 << further
        best[reached, further] = ways.min(axis=0)
    return int((best[-1] + weights[1:, 0]).min())
