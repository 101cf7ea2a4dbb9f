"""The steps and answers of a search as a tree: what a run keeps of them, and how it is shown in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tts.runs.run import Row, Track
from tts.text import counted, visible
from tts.types import Candidate

if TYPE_CHECKING:
    from rich.tree import Tree as RichTree

WIDTH = 110
"""Characters of a step that are printed."""


@dataclass(slots=True, kw_only=True)
class SearchNode:
    """A step of a search, or an answer that no step of it stands for."""

    kind: str
    """`step`; `rollout`, an answer that rates the step above it; `part`, where independent searches part; `answer`; or
    what the strategy calls it, such as a plan."""
    name: str = ""
    """Of a step: which branch of which branch it is."""
    text: str = ""
    answers: list[int] = field(default_factory=list)
    """Positions of the candidates that it is, in spawned order."""
    reward: float | None = None
    score: float | None = None
    """What the verifier said, where that is something else."""
    turn: int | None = None
    """The turn of the search in which it was taken in; independent parts count their own."""
    ended: str = ""
    """Why a whole answer is over: its finish reason."""
    stopped: str = ""
    """What kept it from growing: the budget, or a server that failed."""
    pruned: int | None = None
    """The turn in which the search went on from others of its turn and not from it. It never came back."""
    open: bool = False
    """Whether it was unfinished, and not passed over, when the search ended."""
    chosen: bool = False
    """Whether the selected answer is it, or grew from it."""
    tokens: float = 0.0
    """Completion tokens of the step, of what was looked at ahead of it, and of its verdict."""
    branch_tokens: float = 0.0
    """The same of all that is at or below it."""
    visits: int = 0
    """Turns of the search that took something in at or below it; of what has no turn, answers."""
    above: int | None = None
    """Place of the node that it grew from, which comes before it."""

    def as_dict(self) -> dict[str, Any]:
        """What is known of it."""
        known = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: value for name, value in known if not (value is None or value is False or value in ("", []))}

    @property
    def figures(self) -> Iterator[str]:
        """What it was worth, what it cost, and what became of it, in words."""
        if self.reward is not None:
            yield f"reward {self.reward:.3g}"
        if self.score is not None:
            yield f"score {self.score:.3g}"
        if self.pruned is not None:
            yield f"passed over in turn {self.pruned}"
        if self.stopped:
            yield f"stopped: {self.stopped}"
        if self.open:
            yield "left open"
        if self.visits > 1:
            yield counted(self.visits, "visit")
        if self.branch_tokens:
            yield counted(self.branch_tokens, "token")


def search_tree(
    candidates: Sequence[Candidate], selected: int | None = None, tokens: Sequence[float] = ()
) -> list[SearchNode]:
    """What `candidates`, in spawned order, tell of their search: its steps and answers, depth first.

    Steps are those in `notes["tree"]`, which searches over steps keep, or in `notes["lineage"]`; candidates are the
    steps that `notes["node"]` names, or stand below their steps or `parents`. A record in `notes["tree"]` has `node`, a
    path such as `2.0.1` below `2.0`, and what is known of `turn`, `text`, `tokens`, `aside` (tokens beside the step's
    own), `reward`, `score` and `ended`; or `node` and why it `stopped`. `tokens` are what each candidate was the first
    to need. What was taken in behind the last candidate of a search that was stopped is not known.
    """
    nodes: dict[Hashable, SearchNode] = {}
    children: dict[Hashable, list[Hashable]] = defaultdict(list)  # those at the top under None
    made: dict[int, Hashable] = {}
    stopped: dict[str, str] = {}

    def add(key: Hashable, above: Hashable, node: SearchNode) -> None:
        nodes[key] = node
        children[above].append(key)

    for position, candidate in enumerate(candidates):
        for record in _records(candidate):
            if "stopped" in record:
                stopped[record["node"]] = record["stopped"]
                continue
            above = _above(record["node"], nodes)
            if above is not None and above not in nodes:
                add(above, None, SearchNode(kind="part", name=above))
            kind = "rollout" if ".-" in record["node"] else "step"
            spent = record.get("tokens", 0) + record.get("aside", 0)
            told = {one: record[one] for one in ("text", "turn", "reward", "score", "ended") if one in record}
            add(record["node"], above, SearchNode(kind=kind, name=record["node"], tokens=spent, **told))
        found = made[candidate.id] = str(candidate.notes.get("node"))
        if found in nodes:
            nodes[found].answers.append(position)
            continue
        made[candidate.id] = ("answer", candidate.id)
        place = next((made[one] for one in candidate.parents if one in made), None)
        path: tuple[Any, ...] = ()
        for kind, text in candidate.notes.get("lineage", ()):
            path = (*path, kind, text)
            if path not in nodes:
                add(path, place, SearchNode(kind=kind, text=text))
            place = path
        score = candidate.verdict and candidate.verdict.score
        own = tokens[position] if tokens else 0.0
        add(made[candidate.id], place, SearchNode(kind="answer", answers=[position], score=score, tokens=own))
    for name in stopped.keys() & nodes.keys():
        nodes[name].stopped = stopped[name]
    return _summed([nodes[key] for key in _depth_first(nodes, children)], selected)


def _records(candidate: Candidate) -> Iterator[Mapping[str, Any]]:
    """What it tells of steps; other strategies may mean something else by the note."""
    told = candidate.notes.get("tree")
    return (one for one in (told if isinstance(told, list) else ()) if isinstance(one, dict) and "node" in one)


def _above(name: str, nodes: Mapping[Hashable, SearchNode]) -> str | None:
    """The nearest known step above the step `name`; a part of the search where there is none; None at the top."""
    ways = name.split(".")
    known = (".".join(ways[:end]) for end in range(len(ways) - 1, 0, -1))
    return next((one for one in known if one in nodes), ".".join(ways[:-1]) or None)


def _depth_first(
    nodes: Mapping[Hashable, SearchNode], children: Mapping[Hashable, Sequence[Hashable]]
) -> Iterator[Hashable]:
    """The keys of `nodes`; each is told the place of the one above it."""
    left: list[tuple[Hashable, int | None]] = [(key, None) for key in reversed(children.get(None, ()))]
    place = 0
    while left:
        key, nodes[key].above = left.pop()
        yield key
        left += [(child, place) for child in reversed(children.get(key, ()))]
        place += 1


def _summed(nodes: list[SearchNode], selected: int | None) -> list[SearchNode]:
    """`nodes` with what follows from those around them."""
    turns: list[set[Hashable]] = [set() for _ in nodes]
    grown = [False] * len(nodes)
    part: list[int | None] = []
    went_on: dict[tuple[int | None, int | None], int] = {}  # when a search first went on from nodes of a turn
    for place, node in enumerate(nodes):
        part.append(place if node.kind == "part" else None if node.above is None else part[node.above])
        if node.above is not None and node.turn is not None and node.kind == "step":
            grown[node.above] = True
            at = (part[place], nodes[node.above].turn)
            went_on[at] = min(node.turn, went_on.get(at, node.turn))
    for place in reversed(range(len(nodes))):
        node, turn = nodes[place], nodes[place].turn
        if turn is not None or node.kind == "answer":
            turns[place].add(tuple(node.answers) if turn is None else turn)
        node.visits = len(turns[place])
        node.branch_tokens += node.tokens
        node.chosen |= selected in node.answers
        if turn is not None and node.kind == "step" and not (node.ended or node.stopped or grown[place]):
            node.pruned = None if node.answers else went_on.get((part[place], turn))
            node.open = node.pruned is None
        if node.above is not None:
            above = nodes[node.above]
            above.branch_tokens += node.branch_tokens
            above.chosen |= node.chosen
            turns[node.above] |= turns[place]
    return nodes


@dataclass(frozen=True, kw_only=True)
class SearchDrawing:
    """The tree of one cell of a run, or what is shown of it."""

    title: str
    about: dict[str, Any]
    outcomes: list[str]
    """What became of each candidate, in words."""
    nodes: list[SearchNode]
    hidden: list[int]
    """How many nodes below each one are not shown."""

    @classmethod
    def of(cls, label: str, track: Track, row: Row, correct: NDArray[np.float64]) -> SearchDrawing:
        """The whole tree of `row`, whose candidates are `correct` or not."""
        candidates = track.candidates(row)
        query = "SELECT position, SUM(completion_tokens) FROM charges WHERE cell = ? GROUP BY position"
        tokens = dict(track.run.db.execute(query, (row.cell,)))
        nodes = search_tree(candidates, row.selected, [tokens.get(i, 0.0) for i in range(len(candidates))])
        outcomes = [_outcome(*one) for one in zip(candidates, correct, strict=True)]
        return cls(
            title=f"{row.problem} · {label} · seed {row.seed}",
            about={"track": label, "problem": row.problem, "seed": row.seed, "selected": row.selected},
            outcomes=[words + ", selected" * (i == row.selected) for i, words in enumerate(outcomes)],
            nodes=nodes,
            hidden=[0] * len(nodes),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.about, "nodes": [node.as_dict() for node in self.nodes]}

    def cut(self, most: int) -> SearchDrawing:
        """At most `most` of its nodes: the way to the selected answer, then the most visited."""
        order = sorted(range(len(self.nodes)), key=lambda i: (not self.nodes[i].chosen, -self.nodes[i].visits, i))
        places = {place: new for new, place in enumerate(sorted(order[:most]))}  # with each all those above it
        hidden, beside = [0] * len(places), 0
        for node in reversed([self.nodes[place] for place in sorted(order[most:])]):
            while node.above is not None and node.above not in places:
                node = self.nodes[node.above]
            if node.above is None:
                beside += 1
            else:
                hidden[places[node.above]] += 1
        nodes = [
            replace(self.nodes[place], above=None if (above := self.nodes[place].above) is None else places[above])
            for place in places
        ]
        title = self.title + f" · {beside:,} more beside these" * bool(beside)
        return replace(self, title=title, nodes=nodes, hidden=hidden)

    def heading(self, place: int) -> str:
        """Which node it is, and which answers."""
        node = self.nodes[place]
        name = {"step": node.name, "rollout": f"roll-out {node.name}", "part": f"part {node.name}", "answer": ""}
        answers = (f"answer {i}{self.outcomes[i]}" for i in node.answers)
        return " · ".join(filter(None, (name.get(node.kind, node.kind), *answers)))

    def tail(self, place: int) -> str:
        """Its figures, and how much is not shown below it."""
        hidden = self.hidden[place]
        return ", ".join([*self.nodes[place].figures, *([f"{hidden:,} more below"] if hidden else [])])

    def in_terminal(self) -> RichTree:
        """It as rich prints it."""
        from rich.text import Text
        from rich.tree import Tree as RichTree

        root, shown = RichTree(Text(visible(self.title))), []
        for place, node in enumerate(self.nodes):
            words = ": ".join(filter(None, (self.heading(place), shortened(node.text, WIDTH))))
            tail = self.tail(place)
            style = "bold" if node.chosen else "dim" if node.pruned is not None else ""
            above = root if node.above is None else shown[node.above]
            shown.append(above.add(Text(visible(words + (f" ({tail})" if tail else "")), style=style)))
        return root


def _outcome(candidate: Candidate, correct: float) -> str:
    passed = None if candidate.verdict is None else candidate.verdict.passed
    return {True: ", accepted", False: ", refused", None: ""}[passed] + (
        "" if np.isnan(correct) else ", right" if correct else ", wrong"
    )


def shortened(text: str, width: int) -> str:
    """`text` on one line of at most `width` characters."""
    text = " + ".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))
    return text if len(text) <= width else text[: width - 1] + "…"
