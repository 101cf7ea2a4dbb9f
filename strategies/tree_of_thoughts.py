"""Tree of thoughts: next thoughts are sampled or proposed, weighed, and followed level by level or the best one first.

Yao et al. 2023, "Tree of Thoughts: Deliberate Problem Solving with Large Language Models" (arXiv
2305.10601), section 3.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import PositiveInt, model_validator

from tts.continuation import Continuation
from tts.prompting import ask, filled, template, without_thoughts
from tts.session import Session
from tts.strategies.stepwise import Node, StepSearch, Tree
from tts.types import Charge, Sample

PROPOSE = """\
<task>
$problem
</task>

This is how an answer begins, as far as it has got:

<beginning>
$answer
</beginning>

List up to $n different next steps, any of which could follow. Put each on a line of its own, and nothing else. A step \
that completes the answer begins with: $end"""
VOTE = """\
<task>
$problem
</task>

These are beginnings of answers:

$choices

Compare them, then say which of them most likely leads to a right answer. End with a line that says: Best: number"""

BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")
"""What may stand before a step in a list."""


class TreeOfThoughts(StepSearch):
    """Of all partial answers the best `keep` go on, level by level, or the best one goes on for as long as it can."""

    order: Literal["breadth", "depth"] = "breadth"
    """Level by level; or the best thought first, and back to the next best where nothing follows that is worth it."""
    branching: PositiveInt = 5
    """Next thoughts of each partial answer."""
    keep: PositiveInt = 5
    """Partial answers that go on to the next level (`order=breadth`). A whole one among the best takes a place of them,
    if the verifier weighs both."""
    keep_by: Literal["value", "draw"] = "value"
    """Whether those are the best, or drawn in proportion to their values."""
    prune_below: float = 0.0
    """What a thought must be worth to be followed (`order=depth`); one that cannot be rated is only where nothing else
    is left and nothing was found."""
    nodes: PositiveInt = 100
    """Partial answers that are gone on from, at most (`order=depth`)."""
    thoughts: Literal["sample", "propose"] = "sample"
    """Whether thoughts are sampled as steps of the answer, or listed by the model in one reply, which needs no server
    that can continue answers."""
    end: str = "Answer:"
    """What is in a proposed step that completes the answer."""
    weigh: Literal["verifier", "vote"] = "verifier"
    """Whether the verifier rates each thought, or the model compares those of one level and votes for the best. With
    `select_by=majority` this needs no verifier."""
    votes: PositiveInt = 3
    """Votes on each level."""
    propose_prompt: Annotated[str, template("problem", "answer", "n", "end")] = PROPOSE
    """How steps are asked for."""
    vote_prompt: Annotated[str, template("problem", "choices")] = VOTE
    """How votes are asked for; what counts is the number behind the last `Best:`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.thoughts == "propose" or self.weigh == "vote") and (self.lookahead or self.rollouts):
            raise ValueError("lookahead and rollouts are for thoughts that are sampled, and rated by the verifier")
        return self

    @property
    def needs_verifier(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.weigh == "verifier" or self.select_by != "majority"

    @property
    def rates_steps(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.weigh == "verifier" and super().rates_steps

    @property
    def by_turns(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.thoughts == "sample" and super().by_turns

    async def start(self, session: Session) -> Continuation:
        if self.thoughts == "sample":
            return await super().start(session)
        return Continuation(session=session, heads={}, ids=None)

    async def grow(self, tree: Tree) -> None:
        seen, found = set[str](), list[Node]()
        live, rng, unrated = [tree.root], tree.session.rng, list[Node]()
        for _ in range(self.depth if self.order == "breadth" else self.nodes):
            now = live if self.order == "breadth" else [live.pop()]
            children = await self._followed(tree, now, seen)
            found += children
            rivals = [child for child in children if self.weigh == "verifier" or not child.done]
            if self.order == "breadth":
                live = [child for child in self.kept(rivals, rng) if not child.done]
            else:
                open_ones = [child for child in reversed(self.best_first(children)) if self._grows(child)]
                live += [child for child in open_ones if self.value(child) >= self.prune_below]
                unrated += [child for child in open_ones if child.reward is None]
                if not live and unrated and not tree.given:
                    live = [unrated.pop()]
            if not live or tree.spent:
                break
        tree.close(self.for_want(tree, found))

    def _grows(self, node: Node) -> bool:
        return not node.done and node.depth < self.depth

    def kept(self, nodes: Sequence[Node], rng: np.random.Generator) -> list[Node]:
        """The `keep` of `nodes` that go on."""
        if self.keep_by == "value" or len(nodes) <= self.keep:
            return self.best_first(nodes)[: self.keep]
        values = [self.value(node) for node in nodes]
        weights = np.array([max(value, 0.0) if isfinite(value) else 0.0 for value in values])
        if not weights.any():
            weights = np.ones(len(nodes))
        size = min(self.keep, np.count_nonzero(weights))
        return [nodes[i] for i in sorted(rng.choice(len(nodes), size, replace=False, p=weights / weights.sum()))]

    async def _followed(self, tree: Tree, nodes: Sequence[Node], seen: set[str]) -> list[Node]:
        """What follows `nodes`, weighed and booked; what was there before is booked and dropped."""
        grown = await tree.session.together(self._thoughts(tree, node) for node in nodes)
        fresh: list[tuple[Continuation, Node]] = []
        repeated: list[Node] = []
        for node, family in zip(nodes, grown, strict=True):
            for answer in family:
                if (text := answer.text.strip()) in seen:
                    repeated.append(Node.below(node, answer))
                    continue
                seen.add(text)
                fresh.append((answer, node))
        if repeated:
            tree.take(repeated)
        children = await tree.rated_together(fresh)
        if self.weigh == "vote":
            children = await self._voted(tree, children)
        tree.harvest(children)
        return children

    async def _thoughts(self, tree: Tree, node: Node) -> list[Continuation]:
        if self.thoughts == "sample":
            return await tree.steps(node, self.branching)
        return await tree.tried(node, self._proposed(tree.session.at(tree.place), node.answer))

    async def _proposed(self, session: Session, answer: Continuation) -> list[Continuation]:
        """The next steps that the model lists, one of them on each line."""
        written = answer.text or "(nothing yet)"
        values = {"problem": session.problem, "answer": written, "n": self.branching, "end": self.end}
        asked = [{"role": "user", "content": await filled(self.propose_prompt, **values)}]
        if (listed := await session.one(asked, inner=True, **self.params)) is None:
            return []
        lines = without_thoughts(listed.text).strip().splitlines()
        if listed.finish_reason in ("length", "budget"):  # the last one is cut off
            lines.pop()
        steps = [step for line in lines if (step := BULLET.sub("", line).strip())][: self.branching]
        made = answer.charged(listed.charges)
        return [
            replace(
                await made.append(f"{step}\n"),
                session=session,
                path=(*answer.path, place),
                samples=(*answer.samples, Sample(f"{step}\n", charges=() if place else listed.charges)),
                ended="stop" if self.end in step else "",
                before=answer,
            )
            for place, step in enumerate(steps)
        ]

    async def _voted(self, tree: Tree, children: Sequence[Node]) -> list[Node]:
        """`children`, the unfinished ones worth their shares of the votes, which are theirs to pay."""
        rivals = [child for child in children if not child.done]
        if len(rivals) < 2:
            return [child if child.done else replace(child, reward=1.0) for child in children]

        def read(text: str) -> int:
            numbers = [int(number) for number in re.findall(r"Best:\D{0,9}(\d{1,4})", without_thoughts(text))]
            if not numbers or not 1 <= numbers[-1] <= len(rivals):
                raise ValueError("the vote names none of the choices behind `Best:`")
            return numbers[-1]

        session, votes, paid = tree.session.at(tree.place), Counter[int](), set[Charge]()
        choices = "\n\n".join(f"Choice {i}:\n{child.answer.text}" for i, child in enumerate(rivals, 1))
        asked = await filled(self.vote_prompt, problem=session.problem, choices=choices)

        async def count() -> list[None]:
            async for sample, number in ask(
                session, [{"role": "user", "content": asked}], read, role="policy", n=self.votes
            ):
                votes[number] += 1
                paid.update(sample.charges)
            return []

        await tree.tried(rivals[0], count())
        shares = {child: votes[i] / votes.total() if votes else None for i, child in enumerate(rivals, 1)}
        return [
            replace(child, reward=shares[child], cost=child.cost | paid) if child in shares else child
            for child in children
        ]
