"""Who is best of many, from comparisons of two: pure, so that what was played is replayed for any prefix."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator

import numpy as np
from numpy.typing import NDArray

Match = tuple[int, int, int]
"""Two contestants, the earlier one first, and the number of contestants from which on the match is needed."""

Bracket = Generator[Match, bool, int]
"""Yields a match, is sent whether the later contestant won it, returns the champion."""


def knockout(contestants: int) -> Bracket:
    """Single elimination among contestants 0, 1, ... such that every prefix has its champion.

    Blocks whose sizes are powers of two are played out, and the champion of the prefix before a block meets its
    winner, as sums are kept in a Fenwick tree: for all prefixes of n together there are fewer than 2 n matches, and
    none waits for more than 2 log n others.
    """
    size = contestants & -contestants
    winner = yield from _block(contestants - size, contestants)
    if size == contestants:
        return winner
    champion = yield from knockout(contestants - size)
    return winner if (yield champion, winner, contestants) else champion


def _block(begin: int, end: int) -> Bracket:
    if end - begin == 1:
        return begin
    middle = (begin + end) // 2
    first = yield from _block(begin, middle)
    second = yield from _block(middle, end)
    return second if (yield first, second, end) else first


async def play(bracket: Bracket, later_wins: Callable[[int, int, int], Awaitable[bool]]) -> int:
    """The champion; each match is asked for when the bracket comes to it."""
    try:
        match = next(bracket)
        while True:
            match = bracket.send(await later_wins(*match))
    except StopIteration as end:
        return end.value


def replay(bracket: Bracket, later_wins: Callable[[int, int], bool]) -> int:
    """The champion, by matches that were played."""
    try:
        one, other, _ = next(bracket)
        while True:
            one, other, _ = bracket.send(later_wins(one, other))
    except StopIteration as end:
        return end.value


def bradley_terry(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """The most likely log-strengths, where i beats j with probability 1 / (1 + exp(s_j - s_i)).

    `wins[i, j]` is how often i beat j; a draw is half a win for both. Every contestant also draws once with one of
    strength 0, so that who wins or loses all is finite and who was never compared is in the middle.
    Bradley and Terry 1952, "Rank Analysis of Incomplete Block Designs", Biometrika 39; found by Newton's method.
    """
    games, total = wins + wins.T, wins.sum(axis=1) + 0.5
    strength = np.zeros(len(wins))
    for _ in range(1000):  # concave: a step that is not too long leads there
        chance = 1 / (1 + np.exp(strength - strength[:, np.newaxis]))
        alone = 1 / (1 + np.exp(-strength))
        spread = games * chance * (1 - chance)
        curvature = np.diag(spread.sum(axis=1) + alone * (1 - alone)) - spread
        step = np.linalg.solve(curvature, total - (games * chance).sum(axis=1) - alone)
        strength = strength + step / max(1.0, np.abs(step).max(initial=0.0))
        if np.abs(step).max(initial=0.0) < 1e-9:
            break
    return strength
