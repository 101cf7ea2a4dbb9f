"""A tree of partial answers, each one step longer than the one above it, rated and paid for step by step.

What a strategy does with it is its own; the tree knows how to grow a step, what it is worth, and what an answer found
in it has cost: not its own steps alone, but every branch that was looked at until then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from statistics import fmean
from typing import Any, Protocol, TypeVar

from tts.base import Verifier
from tts.concurrency import Flow
from tts.continuation import Continuation
from tts.errors import BudgetSpent, EndpointError, EndpointRefused
from tts.session import Session
from tts.types import Candidate, Charge, Verdict

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Node:
    """A partial answer, or a whole one, and how the verifier rated it."""

    answer: Continuation
    above: Node | None = field(default=None, repr=False)
    verdict: Verdict | None = None
    """None where the budget left no room to rate it."""
    reward: float | None = None
    """What the verdict is worth (`Verdict.weight`: a probability where the verifier's scale allows it), or what the
    roll-outs from here are worth on average; None: nobody knows."""
    ends: tuple[Node, ...] = field(default=(), repr=False)
    """The roll-outs that rated it."""
    cost: frozenset[Charge] = field(default=frozenset(), repr=False)
    """What the step, its verdict and what was looked at ahead of it cost."""

    @classmethod
    def below(cls, above: Node, answer: Continuation) -> Node:
        """`answer`, which goes one step on from `above`, with nobody's verdict yet."""
        added = answer.samples[len(above.answer.samples) :]
        return cls(answer=answer, above=above, cost=answer.charges.union(*(sample.charges for sample in added)))

    @property
    def done(self) -> bool:
        """Whether it is a whole answer."""
        return bool(self.answer.ended)

    @property
    def depth(self) -> int:
        """Steps from the root."""
        return len(self.steps)

    @property
    def steps(self) -> list[Node]:
        """All nodes from the first step down to this one."""
        node, found = self, []
        while node.above is not None:
            found.append(node)
            node = node.above
        return found[::-1]

    @property
    def name(self) -> str:
        """Which branch of which branch it is: `2.0.1`."""
        return ".".join(map(str, self.answer.path))

    @property
    def text(self) -> str:
        """Its last step."""
        return self.answer.text[0 if self.above is None else len(self.above.answer.text) :]

    @property
    def tokens(self) -> int:
        """Tokens generated for its last step."""
        known = 0 if self.above is None else len(self.above.answer.samples)
        pieces = self.answer.samples[known:]
        return int(sum(charge.usage.completion_tokens for piece in pieces for charge in piece.charges))


class Stepping(Protocol):
    """How a step is made and how it is rated; `StepSearch` says what each is."""

    @property
    def step(self) -> str: ...
    @property
    def step_tokens(self) -> int | None: ...
    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def lookahead(self) -> int: ...
    @property
    def rollouts(self) -> int: ...
    @property
    def rollout_share(self) -> float: ...
    @property
    def rates_steps(self) -> bool: ...


class Tree:
    """The partial answers to one problem, or an independent part of them. Workers may grow it side by side.

    What happens in it is booked in the order of `take`, whenever the servers answered.
    """

    def __init__(self, session: Session, stepping: Stepping, root: Node, out: Flow[Candidate]) -> None:
        self.session = session
        self.root = root
        self.spent: BudgetSpent | None = None
        """Set once the budget allows no further step or verdict."""
        self.turn: int = 0
        """How often nodes were taken in: the time of the search, apart from that of any clock."""
        self._stepping = stepping
        self._out = out
        self._charges: set[Charge] = set()
        self._records: list[dict[str, Any]] = []
        self._last: Candidate | None = None
        self.given: int = 0
        """How many answers were found."""

    def part(self, number: int) -> Tree:
        """An independent tree from the same root, whose answers come after those of the parts before it."""
        root = replace(self.root, answer=replace(self.root.answer, path=(*self.root.answer.path, number)))
        return Tree(self.session, self._stepping, root, self._out)

    @property
    def place(self) -> tuple[int, ...]:
        """Where on the axis of compute its work stands now."""
        return (*self.root.answer.path, self.turn)

    async def expand(self, node: Node, n: int = 1, *, stage: int = 0, **params: Any) -> list[Node]:
        """Up to `n` next steps of `node`, each rated. A node is expanded once: later steps would repeat the first.

        The verifier is told the `stage` of the search. Fewer, or none, where the server fails, which is noted, or where
        the budget ends, which sets `spent`.
        """
        grown = await self.steps(node, n, **params)
        return await self.rated_together([(answer, node) for answer in grown], stage)

    async def level(self, shares: Iterable[tuple[Node, int]], *, stage: int = 0) -> list[Node]:
        """All that `expand` makes of several nodes side by side, each in so many ways."""
        families = await self.session.together(self.expand(node, n, stage=stage) for node, n in shares)
        return [child for family in families for child in family]

    async def steps(self, node: Node, n: int, **params: Any) -> list[Continuation]:
        """What `expand` does, with nothing rated yet. `params` override the sampling parameters of the steps."""
        answer = replace(node.answer, session=self.session.at(self.place))
        return await self.tried(node, answer.branch(n, **self._step(params)))

    def _step(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Where a step ends and how it is sampled."""
        stepping = self._stepping
        return {"tokens": stepping.step_tokens, "stop": stepping.step or (), **stepping.params, **params}

    async def tried(self, node: Node, work: Awaitable[list[T]]) -> list[T]:
        """The result of `work` on what follows `node`; empty, as `expand` says, where server or budget fail it."""
        try:
            return await work
        except BudgetSpent as error:
            self.spent = error
            self._stopped(node, "the budget")
        except EndpointError as error:
            self._note(error, f"a step after {node.name or 'the question'}")
            self._stopped(node, str(error))
        return []

    async def rated_together(self, grown: Sequence[tuple[Continuation, Node]], stage: int = 0) -> list[Node]:
        """Each of several answers that are booked together `rated` below its node; their requests are joined."""
        shown: list[Candidate | None] = [None] * len(grown)
        if self._stepping.rates_steps and not (self._stepping.lookahead or self._stepping.rollouts):
            shown = [_candidate(answer, (*self.place, *answer.path), stage=stage) for answer, _ in grown]
            await self.session.foresee([one for one in shown if one])
        pairs = zip(grown, shown, strict=True)
        return await self.session.together(self.rated(*pair, stage, candidate) for pair, candidate in pairs)

    async def rated(
        self, answer: Continuation, above: Node, stage: int = 0, candidate: Candidate | None = None
    ) -> Node:
        """`answer`, which `candidate` shows to the verifier, as a node below `above` with its verdict; without one
        where the budget has no room for it, or where the server fails to look ahead."""
        node = Node.below(above, answer)
        if self.session.verifier is None or not (self._stepping.rates_steps or self._stepping.rollouts or node.done):
            return node
        try:
            if self._stepping.rollouts and not node.done:
                return await self._by_rollouts(node)
            ahead = await self._ahead(answer)
            candidate = candidate or _candidate(ahead, (*self.place, *answer.path), stage=stage)
            verdict = await answer.session.verify(candidate)
        except BudgetSpent as error:
            self.spent = error
            return node
        except EndpointError as error:
            self._note(error, f"looking ahead from {node.name}")
            return node
        cost = node.cost.union(verdict.charges, () if ahead is answer else _cost(ahead))
        return Node(answer=answer, above=above, verdict=verdict, reward=verdict.weight, cost=cost)

    def _note(self, error: EndpointError, where: str) -> None:
        """List `error` among the failures; raise it where every request would meet it."""
        if isinstance(error, EndpointRefused):
            raise error
        self.session.ledger.failures.append(f"{where}: {error}")

    async def _ahead(self, answer: Continuation) -> Continuation:
        """What the model would most likely say in the next steps, to be rated in place of `answer`."""
        ahead = answer
        for _ in range(self._stepping.lookahead):
            if ahead.ended:
                break
            ahead = await ahead.extend(**self._step({"temperature": 0}))
        return ahead

    async def _by_rollouts(self, node: Node) -> Node:
        """`node` rated by whole answers that begin with it, which become candidates of their own.

        Where `rollout_share` is below 1, the rest of its value is the verifier's rating of it as it stands.
        """
        share, verdict = self._stepping.rollout_share, None
        if share < 1:
            verdict = await node.answer.session.verify(_candidate(node.answer, (*self.place, *node.answer.path)))
            node = replace(node, verdict=verdict, cost=node.cost | verdict.charges)
        aside = replace(node.answer, path=(*node.answer.path, -1))  # away from the steps that may follow it
        grown = await aside.branch(self._stepping.rollouts, **self._stepping.params)
        grown = [replace(end, ended=end.ended or end.samples[-1].finish_reason or "length") for end in grown]
        ends = await node.answer.session.together(self.rated(answer, node) for answer in grown)
        rewards = [end.reward for end in ends if end.reward is not None]
        reward = fmean(rewards) if rewards else None
        if reward is not None and verdict is not None:
            reward = None if verdict.weight is None else share * reward + (1 - share) * verdict.weight
        return replace(node, reward=reward, ends=tuple(ends), cost=node.cost.union(*(end.cost for end in ends)))

    def compared(self, nodes: Iterable[Node]) -> list[Node]:
        """`nodes` with their scores beside each other as rewards, where scores say only who is better."""
        nodes, verifier = list(nodes), self.session.verifier
        if verifier is None or not (verifier.relative or verifier.scale == "order"):
            return nodes
        shown = [replace(_candidate(node.answer, node.answer.path), verdict=node.verdict) for node in nodes]
        verdicts = [one.verdict for one in self.session.rated(shown)]
        return [
            replace(node, verdict=verdict, reward=verdict.score) if verdict is not None else node
            for node, verdict in zip(nodes, verdicts, strict=True)
        ]

    async def asked(self, nodes: Iterable[Node], verifier: Verifier) -> list[Verdict]:
        """What another verifier says of each of `nodes`, booked now; nothing once the budget has no room for it."""
        session = self.session.at(self.place)
        shown = [_candidate(node.answer, (*self.place, *node.answer.path)) for node in nodes]
        try:
            verdicts = await session.together(session.verify(candidate, verifier) for candidate in shown)
        except BudgetSpent as error:
            self.spent = error
            return []
        self._charges.update(*(verdict.charges for verdict in verdicts))
        return verdicts

    def take(self, nodes: Iterable[Node]) -> None:
        """Book new nodes: what they cost is charged to every answer given from now on."""
        for node in nodes:
            self._charges |= node.cost
            self._records += [_record(one, self.turn) for one in (node, *node.ends)]
        self.turn += 1

    def hold(self, nodes: Iterable[Node]) -> None:
        """Keep finished answers that may be given later, or are the candidates should a deadline come before that."""
        for node in nodes:
            if node.done:
                self.session.unverified[hash(node.answer.path)] = self._made(node)

    def _stopped(self, node: Node, why: str) -> None:
        self._records.append({"node": node.name, "stopped": why})

    def harvest(self, nodes: Sequence[Node]) -> list[Node]:
        """`take` new nodes and `give` those that are whole answers; the others, which can still grow."""
        self.take(nodes)
        for node in nodes:
            for end in (*node.ends, node):
                if end.done:
                    self.give(end)
        return [node for node in nodes if not node.done]

    def give(self, node: Node, **notes: Any) -> None:
        """Make a candidate of `node`; a partial answer counts as cut off."""
        self.session.unverified.pop(hash(node.answer.path), None)
        self._emit(self._made(node, tree=self._records, **notes))
        self._records = []
        self.given += 1

    def _made(self, node: Node, **notes: Any) -> Candidate:
        place = (*self.place, self.given)
        made = _candidate(node.answer, place, node=node.name, **notes)
        return replace(made, verdict=node.verdict, charges=frozenset(self._charges), partial=False)

    def close(self, live: Iterable[Node] = (), **notes: Any) -> None:
        """End the search: give the answers that are left, and let the last one tell of what led nowhere.

        `notes` about the whole search are the last one's too. Raises `BudgetSpent` where the budget ended it.
        """
        for node in live:
            self.give(node)
        if (self._records or notes) and self._last is not None:
            notes = {**self._last.notes, **notes, "tree": [*self._last.notes["tree"], *self._records]}
            self._records = []
            self._emit(replace(self._last, notes=notes, charges=frozenset(self._charges)))
        if self.spent is not None:
            raise self.spent

    def _emit(self, candidate: Candidate) -> None:
        self._last = candidate
        self._out.emit(candidate)


async def first(session: Session, place: tuple[int, ...], running: Mapping[str, asyncio.Task[Any]]) -> str:
    """The name of one that has ended: the first, or the one that was first of the same in the run that is resumed."""
    done, _ = await asyncio.wait(running.values(), return_when=asyncio.FIRST_COMPLETED)
    name = next(name for name, task in running.items() if task in done)
    if len(running) > 1:
        name = await session.remember(("first", *place, *sorted(running)), name)
        await asyncio.wait([running[name]])
    return name


def _cost(answer: Continuation) -> frozenset[Charge]:
    return answer.charges.union(*(sample.charges for sample in answer.samples))


def _candidate(answer: Continuation, place: tuple[int, ...], **notes: Any) -> Candidate:
    """`answer` with its pieces put together into one sample, to be rated or given."""
    settings: dict[str, Any] = {"spawned": place, "charges": answer.charges, "partial": not answer.ended}
    return answer.session.candidate(answer.sample(), **settings, **notes)


def _record(node: Node, turn: int) -> dict[str, Any]:
    """What is kept of a node for those who look at the tree."""
    score = None if node.verdict is None else node.verdict.score
    told = {"node": node.name, "turn": turn, "text": node.text, "tokens": node.tokens, "reward": node.reward}
    aside = node.cost.difference(*(end.cost for end in node.ends), *(one.charges for one in node.answer.samples))
    if written := sum(charge.usage.completion_tokens for charge in aside):
        told["aside"] = int(written)  # steps looked ahead, and what a judge wrote
    if score is not None and isfinite(score) and score != node.reward:
        told["score"] = score
    return told | ({"ended": node.answer.ended} if node.done else {})
