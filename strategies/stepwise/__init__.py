"""What searches over steps share: how a step is made and rated, and how the answer is chosen in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from math import prod
from statistics import fmean
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from tts.base import AnswerField, Strategy, answer_reader, best, by_verdict, each_alike, majority
from tts.concurrency import Flow, flow
from tts.continuation import Continuation
from tts.prompting import problem_text, template
from tts.session import Session
from tts.strategies.stepwise.film import Film
from tts.strategies.stepwise.tree import Node, Tree
from tts.strategies.stepwise.turn_by_turn import TurnByTurn
from tts.types import Candidate, Problem

Aggregate = Literal["last", "min", "max", "prod", "mean", "sum", "diff"]
AGGREGATES: dict[Aggregate, Callable[[Sequence[float]], float]] = {
    "last": lambda rewards: rewards[-1],
    "min": min,
    "max": max,
    "prod": prod,
    "mean": fmean,
    "sum": sum,
    "diff": lambda rewards: rewards[-1] - (rewards[-2] if len(rewards) > 1 else 0),
}

__all__ = ["Node", "StepSearch", "Tree", "shared_out"]


class StepSearch(Strategy):
    """A search that grows answers step by step, guided by a verifier that rates unfinished ones.

    Needs a server that can continue a partial answer (see `tts.continuation`), and a verifier that rates partial
    answers: `process_reward`, `judge`, `mean_logprob`, `unit_tests`, ...; with `rollouts` any verifier will do.
    With `images` an answer is a film instead, each step a picture that the role `image` draws from the one before.
    In an environment it is a trajectory, and a step is a turn, whatever `step` and `step_tokens` say.
    """

    needs_verifier = True
    in_pieces = True

    step: str = "\n\n"
    """The text that ends a step; empty: `step_tokens` alone do."""
    step_tokens: PositiveInt | None = 512
    """Tokens of a step, at most."""
    depth: PositiveInt = 40
    """Steps of an answer, at most; what is not finished by then is given as it is, and chosen only for want of a
    finished one."""
    aggregate: Aggregate = "last"
    """How the rewards of an answer's steps make its value: Snell et al. 2024 (arXiv 2408.03314) take the last."""
    lookahead: NonNegativeInt = 0
    """Steps that are written ahead greedily before a step is rated by where they lead, and then thrown away."""
    rollouts: NonNegativeInt = 0
    """Whole answers that are sampled from a step, which is rated by their mean reward and not as it stands."""
    rollout_share: float = Field(default=1.0, gt=0, le=1)
    """How much of a step's value is that mean, where there are roll-outs; the rest is the verifier's rating of the step
    as it stands."""
    select_by: Literal["best", "weighted", "majority"] = "best"
    """How the answer is chosen among the finished ones: the best verdict, or a vote of equal answers, weighted by what
    their verdicts are worth or not."""
    answer: AnswerField | None = None
    """How answers are parsed and compared for a vote; by default the problem's own way."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Sampling parameters of the steps, such as `{"temperature": 0.8}`."""
    images: bool = False
    """Whether a step is a picture, and an answer `depth` of them, instead of text."""
    frame: Annotated[str, template("problem", "number", "count")] = "$problem\nThis is picture $number of $count."
    """What is asked of the server of pictures, which gets the picture before with it as `image`, a data URI."""

    @model_validator(mode="after")
    def _steps_end(self) -> Self:
        if not self.step and self.step_tokens is None:
            raise ValueError("a step never ends: give it a `step` text or a number of `step_tokens`")
        if self.lookahead and self.rollouts:
            raise ValueError("a step is rated by `lookahead` or by `rollouts`, not by both")
        if self.images and (self.lookahead or self.select_by != "best"):
            raise ValueError("pictures have no most likely next ones to look ahead to, and no answers that could vote")
        return self

    @property
    def roles(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return frozenset({"image" if self.images else "policy"})

    @property
    def by_turns(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.images

    @property
    def rates_steps(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.rollouts or self.rollout_share < 1

    @property
    def weighs_votes(self) -> bool:
        return True  # or steps

    def ready(self, problem: Problem) -> None:
        if self.select_by != "best":
            answer_reader(problem, self.answer)
        if self.images:
            problem_text(problem)

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        async def grow(out: Flow[Candidate]) -> None:
            async with AsyncExitStack() as copies:
                answer = await (TurnByTurn.begin(session, copies) if session.plays else self.start(session))
                await self.grow(Tree(answer.session, self, Node(answer=answer), out))

        found = flow(grow)
        return found if self.select_by == "best" else session.classified(found, answer_reader(problem, self.answer))

    async def start(self, session: Session) -> Continuation:
        """The empty answer."""
        if self.images:
            return Film(session=session, asked=self.frame, frames=self.depth)
        return await Continuation.start(session)

    async def grow(self, tree: Tree) -> None:
        """The search itself: expand nodes, `take` or `harvest` them, and `close` the tree in the end."""
        raise NotImplementedError

    def value(self, node: Node) -> float:
        """What the rewards on the way to `node` make it worth; below everything where one of them is unknown."""
        rewards = [step.reward for step in node.steps[-1 if self.aggregate == "last" else None :]]
        known = [reward for reward in rewards if reward is not None]
        return AGGREGATES[self.aggregate](known) if known and len(known) == len(rewards) else float("-inf")

    def best_first(self, nodes: Sequence[Node]) -> list[Node]:
        """`nodes` by value, the earlier among equals first."""
        return sorted(nodes, key=self.value, reverse=True)

    def for_want(self, tree: Tree, found: Sequence[Node]) -> list[Node]:
        """The best unfinished answer of all that were `found`, where `tree` has given no answer."""
        grown = {node.above for node in found}
        return [] if tree.given else self.best_first([node for node in found if node not in grown])[:1]

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        if self.select_by == "best":
            return best(candidates)
        return majority(candidates, by_verdict if self.select_by == "weighted" else each_alike)

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        return self.select_by == "best" and super().settled(candidates)


def shared_out(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers as equal as can be, the larger ones first."""
    return [total // parts + (place < total % parts) for place in range(parts)]
