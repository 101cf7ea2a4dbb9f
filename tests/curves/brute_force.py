"""What the estimators must equal: the plain run, repeated over every order in which k samples can come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any


def over_all_orders(n: int, k: int, outcome: Callable[[Sequence[int]], float]) -> float:
    """Mean of `outcome` of the positions drawn, over all ordered draws of k among n."""
    outcomes = [outcome(order) for order in permutations(range(n), k)]
    return sum(outcomes) / len(outcomes)


def best(scores: Sequence[float], correct: Sequence[bool]) -> Callable[[Sequence[int]], float]:
    """The earliest of the best-scored is kept."""
    return lambda order: correct[max(order, key=lambda i: scores[i])]


def vote(answers: Sequence[Any], correct: Sequence[bool]) -> Callable[[Sequence[int]], float]:
    """The first-seen of the most frequent answers wins; its earliest sample is kept; None does not vote."""

    def run(order: Sequence[int]) -> float:
        counts = Counter(answers[i] for i in order if answers[i] is not None)  # in order of first appearance
        if not counts:
            return False
        winner = max(counts, key=lambda answer: counts[answer])
        return correct[next(i for i in order if answers[i] == winner)]

    return run


def first_accepted(accepted: Sequence[bool]) -> Callable[[Sequence[int]], int | None]:
    """Position of the first accepted sample; None if there is none."""
    return lambda order: next((i for i in order if accepted[i]), None)
