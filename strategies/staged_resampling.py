"""Staged resampling: many beginnings become fewer by likeness while little can be told of them, by merit later.

"TTS-VAR" (arXiv 2507.18537), section 3: scales of a picture there, and steps of any kind here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from tts.strategies.stepwise import Node, StepSearch, Tree
from tts.strategies.stepwise.clusters import medoids, word_vectors
from tts.verifiers.embedding_similarity import EmbeddingSimilarity


class StagedResampling(StepSearch):
    """Partial answers become fewer from stage to stage.

    At first one of each cluster of like ones is kept. Later they are drawn anew, with replacement, in proportion to
    e^(z / T), z being the standard score of an answer's value among the others (`aggregate`: the paper's potentials
    VALUE, DIFF, MAX and SUM are `last`, `diff`, `max` and `sum`).
    """

    n: PositiveInt = 4
    """Answers in the end."""
    widths: tuple[PositiveInt, ...] = Field(default=(8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1, 1), min_length=1)
    """How many times N partial answers there are, from the first of the `depth` steps to the last."""
    resample_from: float = Field(default=0.5, ge=0, le=1)
    """From where on, between the first step (0) and the last (1), ratings say more than likeness. 0: they always do."""
    temperature: PositiveFloat = 0.1
    """T, how evenly chances are shared: high for evenly. The paper's lambda is 1 / T."""
    embed: bool = False
    """Whether a model for the role `embed` says how alike they are, which pictures need, and not their words."""

    @property
    def roles(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return super().roles | ({"embed"} if self.embed else set())

    @model_validator(mode="after")
    def _can_narrow(self) -> Self:
        if any(after > before for before, after in pairwise(self.widths)):
            raise ValueError("partial answers become fewer from step to step: `widths` must not rise")
        if self.images and not self.embed and self.resample_from > 0:
            raise ValueError("pictures have no words to be alike in: set embed=true, or resample_from=0")
        return self

    @property
    def weighs_votes(self) -> bool:
        return self.select_by == "weighted"

    async def grow(self, tree: Tree) -> None:
        live = [tree.root] * self.width(0)
        for step in range(self.depth):
            growing = Counter(node for node in live if not node.done)
            children = tree.compared(await tree.level(growing.items()))
            if not children:
                break
            tree.harvest(children)
            live = [*(node for node in live if node.done), *children]
            if tree.spent or step + 1 == self.depth or all(node.done for node in live):
                break
            if (width := self.width(step + 1)) < len(live):
                live = await self._fewer(live, width, (step + 1) / (self.depth - 1), tree)
        tree.close([node for node in dict.fromkeys(live) if not node.done and node is not tree.root])

    def width(self, step: int) -> int:
        """How many partial answers there are at a step, from 0."""
        return self.n * self.widths[step * (len(self.widths) - 1) // max(1, self.depth - 1)]

    async def _fewer(self, live: Sequence[Node], width: int, place: float, tree: Tree) -> list[Node]:
        """`width` of the nodes, at a `place` between the first step (0) and the last (1)."""
        rng, vectors = tree.session.at(tree.place).rng, np.empty(0)
        if place < self.resample_from and self.embed:
            told = [verdict.details.get("embedding", ()) for verdict in await tree.asked(live, EmbeddingSimilarity())]
            vectors = np.array([*zip_longest(*told, fillvalue=0.0)]).T
        elif place < self.resample_from:
            vectors = word_vectors([node.answer.text for node in live])
        if vectors.size:
            picks = medoids(vectors, width, rng)
        else:  # merit says more, or nobody knows how alike they are
            picks = np.sort(rng.choice(len(live), width, p=self.chances(live)))
        return [live[pick] for pick in picks]

    def chances(self, live: Sequence[Node]) -> NDArray[np.float64]:
        """Of each node to be drawn; what cannot be rated has none, unless nothing can be rated."""
        values = np.array([self.value(node) for node in live])
        known = np.isfinite(values)
        if not known.any():
            return np.full(len(live), 1 / len(live))
        spread = values[known].std() or 1.0
        weights = np.exp((values - values[known].max()) / spread / self.temperature)
        return weights / weights.sum()
