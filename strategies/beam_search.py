"""Beam search over steps: of all partial answers the best are kept, and each is continued in several ways.

Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally" (arXiv 2408.03314), section 5.2; `dvts` is its diverse form
(Beeching et al. 2024, "Scaling test-time compute with open models").
"""

from __future__ import annotations

from pydantic import PositiveInt

from tts.strategies.stepwise import StepSearch, Tree, shared_out


class BeamSearch(StepSearch):
    """N partial answers at once; after each step the best N / width go on, each in `width` ways.

    A finished answer takes its place with it: N answers come of it in all.
    """

    n: PositiveInt = 16
    """Partial answers at once, and answers in all."""
    width: PositiveInt = 4
    """Ways in which each that is kept is continued."""

    async def grow(self, tree: Tree) -> None:
        live, room = [tree.root], self.n
        for _ in range(self.depth):
            live = live[: -(-room // self.width)]
            children = await tree.level(zip(live, shared_out(room, len(live)), strict=True))
            if not children:
                break
            live = self.best_first(tree.harvest(children))
            room -= sum(child.done for child in children)
            if not live or room <= 0 or tree.spent:
                break
        tree.close(live[:room] if tree.turn else ())


class DVTS(StepSearch):
    """N / width searches that know nothing of each other: each samples `width` next steps and goes on with the best.

    Where `width` does not divide N, some sample fewer.
    """

    n: PositiveInt = 16
    """Partial answers at once."""
    width: PositiveInt = 4
    """Next steps to choose from, at most."""

    async def grow(self, tree: Tree) -> None:
        widths = shared_out(self.n, -(-self.n // self.width))
        await tree.session.together(self._climb(tree.part(number), width) for number, width in enumerate(widths))

    async def _climb(self, tree: Tree, width: int) -> None:
        node = tree.root
        for _ in range(self.depth):
            children = await tree.expand(node, width)
            tree.harvest(children)
            if not children or tree.spent:
                break
            node = self.best_first(children)[0]
            if node.done:
                break
        tree.close([node] if node is not tree.root and not node.done else ())
