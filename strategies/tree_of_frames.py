"""Tree of frames: many beginnings, few survivors, and new branches only where another stage of the work begins.

"Video-T1" (arXiv 2503.18942), section 3.3: frames of a film there, and steps of any kind here.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from pydantic import Field, PositiveInt

from tts.base import rank
from tts.strategies.stepwise import Aggregate, StepSearch, Tree
from tts.types import Candidate


class TreeOfFrames(StepSearch):
    """N first steps, of which the best survive; they branch when a stage begins, and else go on one way each.

    What counts, for survival and in the end, is the mean of all ratings on the way. Each stage has its own verifier
    with `staged`, and several verifiers rate together with `rank_fusion`. With `branches=1` and as many to `keep` as
    there are first steps it is linear search: N answers side by side.
    """

    n: PositiveInt = 7
    """First steps."""
    keep: tuple[PositiveInt, ...] = Field(default=(2,), min_length=1)
    """How many survive a step of each stage; the last number holds for the stages after it too."""
    branches: PositiveInt = 2
    """Ways in which each survivor goes on when a stage begins."""
    stages: tuple[PositiveInt, ...] = (2,)
    """The steps with which the second, the third, ... stage begin."""
    aggregate: Aggregate = "mean"
    """How the rewards of an answer's steps make its value; the paper's sum favours long answers."""

    @property
    def weighs_votes(self) -> bool:
        return self.select_by == "weighted"

    async def grow(self, tree: Tree) -> None:
        live = [tree.root]
        for step in range(1, self.depth + 1):
            ways = self.ways(step)
            children = tree.compared(await tree.level(((node, ways) for node in live), stage=self.stage(step)))
            if not children:
                break
            tree.take(children)
            for end in (end for child in children for end in (*child.ends, child) if end.done):
                tree.give(end, value=self.value(end) if self.value(end) > -inf else None)
            live = [node for node in self.best_first(children)[: self.survivors(step)] if not node.done]
            if not live or tree.spent:
                break
        tree.close(live if tree.turn else ())

    def stage(self, step: int) -> int:
        """The stage, from 0, of a step, from 1."""
        return sum(step >= begin for begin in self.stages)

    def ways(self, step: int) -> int:
        """In how many ways each survivor makes this step."""
        return self.n if step == 1 else self.branches if self.stage(step) > self.stage(step - 1) else 1

    def survivors(self, step: int) -> int:
        """How many survive this step."""
        return self.keep[min(self.stage(step), len(self.keep) - 1)]

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        if self.select_by != "best":
            return super().select(candidates)
        return max(candidates, key=_standing, default=None)


def _standing(candidate: Candidate) -> tuple[int, float]:
    """Accepted before unknown before refused; then by value."""
    value = candidate.notes.get("value")
    return (rank(candidate)[0], -inf if value is None else value)
