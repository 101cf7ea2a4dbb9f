"""Particle filtering: partial answers are drawn anew after each step, in proportion to the odds that they are right.

Puri et al. 2025, "A Probabilistic Inference Approach to Inference-Time Scaling of LLMs using Particle-Based Monte
Carlo Methods" (arXiv 2502.01618), section 3, algorithm 1.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveInt

from tts.errors import ConfigError
from tts.strategies.stepwise import Node, StepSearch, Tree, shared_out
from tts.strategies.stepwise.tree import first

EDGE = 1e-7
"""How near to 0 and 1 a reward may be."""


class ParticleFilter(StepSearch):
    """N partial answers; after each step N are drawn from them, with replacement, with weights r / (1 - r).

    A finished answer keeps its weight and takes part in every draw until all are finished; what is left then are the
    candidates, an answer that was drawn twice two of them. Several `filters` know nothing of each other. Needs rewards
    from 0 to 1.
    """

    n: PositiveInt = 16
    """Particles in all."""
    filters: PositiveInt = 1
    """Independent filters, which share the particles."""
    resampling: Literal["systematic", "multinomial"] = "systematic"
    """How particles are drawn; systematic draws vary less."""
    start_temperature: NonNegativeFloat = 0.0
    """By how much the weights are flattened at first, above 1, falling to nothing over `cooling` steps: it keeps early
    rewards, which say little, from leaving one particle alone."""
    cooling: PositiveInt = 10
    """Steps over which the flattening falls."""
    wait_for: float = Field(default=1.0, gt=0, le=1)
    """The share of the particles under way that must have their next step before a draw. Below 1 slow ones hold nobody
    up: they take part in a later draw, and quick steps are drawn more often than weights alone would have it."""

    async def grow(self, tree: Tree) -> None:
        sizes = shared_out(self.n, min(self.filters, self.n))
        await tree.session.together(self._filter(tree.part(i), size) for i, size in enumerate(sizes))

    async def _filter(self, tree: Tree, size: int) -> None:
        copies, number, rng = Counter({tree.root: size}), 0, tree.session.at(tree.place).rng
        running: dict[Node, asyncio.Task[list[Node]]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                for node, count in copies.items():
                    if not (node in running or node.done or node.depth >= self.depth or tree.spent):
                        running[node] = group.create_task(tree.expand(node, count))
                if not running:
                    break
                ready = await self._ready(tree, copies, running)
                grown = {node: family for node in ready if (family := running.pop(node).result()) or not tree.spent}
                children = [child for family in grown.values() for child in family]
                tree.take(children)
                tree.hold(children)
                standing = [node for node in copies if node not in running]
                moved = [one for node in standing for one in grown.get(node, [node] * copies[node])]
                waiting = Counter({node: copies[node] for node in running})
                if not (moved or waiting):
                    break
                if not (tree.spent or all(node.done for node in moved)):
                    moved = self.drawn(moved, size - waiting.total(), number, rng)
                copies, number = waiting + Counter(moved), number + 1
        tree.close(node for node in copies.elements() if node is not tree.root)

    async def _ready(
        self, tree: Tree, copies: Mapping[Node, int], running: Mapping[Node, asyncio.Task[Any]]
    ) -> list[Node]:
        """Those that have grown once `wait_for` of the particles under way have, in the order of `copies`."""
        if self.wait_for == 1:
            await asyncio.wait(running.values())
            return list(running)
        left = {node.name: node for node in running}
        late = (1 - self.wait_for) * sum(copies[node] for node in running)
        while len(left) == len(running) or sum(copies[node] for node in left.values()) > late:
            tasks = {name: running[node] for name, node in left.items()}
            del left[await first(tree.session, (*tree.place, len(left)), tasks)]
        return [node for node in copies if node in running and node.name not in left]

    def drawn(self, particles: Sequence[Node], size: int, number: int, rng: np.random.Generator) -> list[Node]:
        """`size` of `particles` after step `number`, drawn by their weights, in the order in which they stand."""
        weights = self.weights(particles, number)
        if self.resampling == "systematic":
            marks = (rng.random() + np.arange(size)) / size
            picks = np.minimum(np.searchsorted(np.cumsum(weights), marks, side="right"), len(particles) - 1)
        else:
            picks = np.sort(rng.choice(len(particles), size, p=weights))
        return [particles[pick] for pick in picks]

    def weights(self, particles: Sequence[Node], number: int) -> NDArray[np.float64]:
        """The normalised weights after step `number`; what cannot be rated has none, unless nothing can be rated."""
        rewards = np.array([self.value(node) for node in particles])
        if rewards.max() > 1 + EDGE:
            raise ConfigError(
                f"{self.name} needs rewards from 0 to 1, and the verifier gave {rewards.max():g}. Use one that gives "
                "probabilities, or say by its scale that its scores are rewards of any size"
            )
        known = np.isfinite(rewards)
        if not known.any():
            return np.full(len(rewards), 1 / len(rewards))
        sure = np.clip(rewards, EDGE, 1 - EDGE)
        flattening = 1 + self.start_temperature * max(0.0, 1 - number / self.cooling)
        logits = np.where(known, np.log(sure / (1 - sure)) / flattening, -np.inf)
        odds = np.exp(logits - logits.max())
        return odds / odds.sum()
