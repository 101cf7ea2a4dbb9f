"""Reward-balanced search: the better a partial answer, the more ways in which it is continued.

Wu et al. 2024, "Inference Scaling Laws" (arXiv 2408.00724), section 3.1 and the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp

from pydantic import PositiveFloat, PositiveInt

from tts.strategies.stepwise import Node, StepSearch, Tree

ROUNDING = 1e-9
"""How much of a continuation a share may exceed a whole number without being rounded up."""


class Rebase(StepSearch):
    """N answers in all: what is left of that number is shared out at each depth in proportion to e^(value / T)."""

    n: PositiveInt = 16
    """Answers in all."""
    temperature: PositiveFloat = 0.2
    """T, how evenly the partial answers share: high for evenly. The default suits values from 0 to 1."""

    async def grow(self, tree: Tree) -> None:
        shares, room = [(tree.root, self.n)], self.n
        live: list[Node] = []
        for _ in range(self.depth):
            children = await tree.level(shares)
            if not children:
                break
            live = self.best_first(tree.harvest(children))
            room -= sum(child.done for child in children)
            if not live or room <= 0 or tree.spent:
                break
            shares = [pair for pair in zip(live, self.widths([*map(self.value, live)], room), strict=True) if pair[1]]
        tree.close(live[: max(room, 0)])

    def widths(self, values: Sequence[float], room: int) -> list[int]:
        """How many of `room` continuations each of `values`, the best first, gets; they sum to `room`.

        What cannot be rated gets a share only where nothing can.
        """
        if values[0] == float("-inf"):
            values = [0.0] * len(values)
        weights = [exp((value - values[0]) / self.temperature) for value in values]
        shares: list[int] = []
        for place, weight in enumerate(weights):
            exact = room * weight / sum(weights[place:]) if room else 0.0
            shares.append(min(room, ceil(exact - ROUNDING)))
            room -= shares[-1]
        return shares
