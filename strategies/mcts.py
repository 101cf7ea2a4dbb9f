"""Monte Carlo tree search over steps: what simulations say of a step decides how often it is gone through again.

Selection by UCT (Kocsis and Szepesvari 2006, "Bandit based Monte-Carlo Planning") or by PUCT with the constants of
AlphaZero (Silver et al. 2018, Science 362:1140), as Wang et al. 2024, "OpenR" (arXiv 2410.09671), search over steps;
virtual loss after Chaslot et al. 2008, "Parallel Monte-Carlo Tree Search".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import exp, inf, isfinite, log, sqrt
from statistics import fmean
from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt

from tts.strategies.stepwise import Node, StepSearch, Tree
from tts.strategies.stepwise.tree import first

SLOWLY = 19652
"""Visits over which AlphaZero's exploration grows."""


@dataclass(slots=True, eq=False)
class Place:
    """A node as the simulations know it."""

    node: Node
    value: float = 0.0
    prior: float = 1.0
    visits: int = 0
    total: float = 0.0
    """The sum of what its simulations were worth."""
    passing: int = 0
    """Simulations that went through it and are not over: each counts as a visit worth nothing (virtual loss)."""
    below: list[Place] = field(default_factory=list["Place"])
    growing: bool = False
    closed: bool = False
    """Whether nothing can be below it."""

    @property
    def tried(self) -> int:
        """Its visits, those under way among them."""
        return self.visits + self.passing

    @property
    def all(self) -> Iterator[Place]:
        """Itself and all below it."""
        return chain([self], *(place.all for place in self.below))


class Mcts(StepSearch):
    """Simulations go down the tree by the steps' values and visits, add steps below, and back up what these are worth.

    A finished answer is gone through again, at no cost, while it looks best. Values should lie from 0 to 1.
    """

    simulations: PositiveInt = 16
    """How often the tree is gone down."""
    branching: PositiveInt = 4
    """Next steps that are sampled, once, below a step that is gone through."""
    policy: Literal["uct", "puct"] = "puct"
    """How a simulation chooses among the steps below: by UCT, where each is tried once before any is tried again, or by
    PUCT, which also trusts the model: the prior of a step is the exponential of its mean log-probability, where the
    server gives token ids and log-probabilities, and else the same for all."""
    exploration: NonNegativeFloat | None = None
    """How much steps that were seldom tried are favoured: c, by default the square root of 2 (UCT) or 1.25 (PUCT)."""
    until: Literal["leaf", "answer"] = "answer"
    """Where a simulation ends: at the first step with nothing below it, whose value it backs up after steps were added
    to it; or at a whole answer, adding steps on its way. With `rollouts` the first is the usual one."""
    in_flight: PositiveInt = 1
    """Simulations at once. More are quicker, and know less of each other."""

    async def grow(self, tree: Tree) -> None:
        root, found = Place(tree.root), list[Node]()
        running: dict[str, asyncio.Task[list[Node]]] = {}
        paths: dict[str, list[Place]] = {}
        async with asyncio.TaskGroup() as group:

            def go_on(path: list[Place]) -> None:
                """Down from the end of `path`, to where steps are to be added or where nothing can be."""
                path = [*path, *self.way(path[-1])]
                if (leaf := path[-1]).closed:
                    return back_up(path)
                for place in path:
                    place.passing += 1
                leaf.growing = True
                params = {"logprobs": True} if self.policy == "puct" and leaf.node.answer.exact else {}
                running[leaf.node.name] = group.create_task(tree.expand(leaf.node, self.branching, **params))
                paths[leaf.node.name] = path

            begun = 0
            while True:
                while begun < self.simulations and len(running) < self.in_flight and not tree.spent:
                    if root.closed or [root, *self.way(root)][-1].growing:
                        break
                    begun += 1
                    go_on([root])
                if not running:
                    break
                name = await first(tree.session, tree.place, running)
                path, children = paths.pop(name), running.pop(name).result()
                tree.harvest(children)
                found += children
                for place in path:
                    place.passing -= 1
                leaf = path[-1]
                leaf.below, leaf.growing = self.places(children), False
                leaf.closed = not leaf.below
                if self.until == "leaf" or leaf.closed:
                    back_up(path)
                elif not tree.spent:
                    go_on(path)
        visits = {place.node.name: place.visits for place in root.all if place.visits}
        tree.close(self.for_want(tree, found), visits=visits)

    def places(self, children: Sequence[Node]) -> list[Place]:
        """The steps below a node with their priors; what cannot be rated is gone through, worth 0, only where nothing
        can be."""
        known = [child for child in children if isfinite(self.value(child))] or children
        likely = [child.answer.samples[-1].logprobs if self.policy == "puct" else None for child in known]
        weights = [exp(fmean(one)) for one in likely if one]
        if len(weights) < len(known):
            weights = [1.0] * len(known)
        return [
            Place(
                child,
                value if isfinite(value := self.value(child)) else 0.0,
                weight / sum(weights),
                closed=child.done or child.depth >= self.depth,
            )
            for child, weight in zip(known, weights, strict=True)
        ]

    def way(self, place: Place) -> Iterator[Place]:
        """What a simulation goes through below `place`."""
        while place.below:
            above = place
            yield (place := max(above.below, key=lambda one: (self.score(one, above.tried), one.value)))

    def score(self, place: Place, visits: int) -> float:
        """How much a simulation is drawn to `place`, where there were `visits` to the one above it."""
        tried = place.tried
        if self.policy == "uct":
            c = sqrt(2) if self.exploration is None else self.exploration
            return place.total / tried + c * sqrt(log(visits) / tried) if tried else inf
        c = log((visits + SLOWLY + 1) / SLOWLY) + (1.25 if self.exploration is None else self.exploration)
        return (place.total / tried if tried else place.value) + place.prior * c * sqrt(visits) / (1 + tried)


def back_up(path: Sequence[Place]) -> None:
    """Let everything on a simulation's path know of the value at its end."""
    for place in path:
        place.visits += 1
        place.total += path[-1].value
