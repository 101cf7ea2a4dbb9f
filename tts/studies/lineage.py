"""How the candidates of a problem came about, as trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tts.errors import ConfigError
from tts.runs import Run
from tts.studies import Study, StudyFindings, labelled_tracks
from tts.types import Candidate

if TYPE_CHECKING:
    from rich.tree import Tree

WIDTH = 110
"""Characters of a step that are shown."""


class Lineage(Study):
    """How each candidate of a problem came about, as a tree for each strategy, model and seed."""

    problem: str
    """The problem's id."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        data: list[dict[str, Any]] = []
        trees = []
        for label, track in labelled_tracks(runs):
            for row, correct in zip(track.rows, track.correct, strict=True):
                if row.problem == self.problem:
                    candidates = track.candidates(row)
                    nodes = lineage(candidates)
                    tree = [asdict(node) for node in nodes]
                    data.append({"track": label, "seed": row.seed, "selected": row.selected, "tree": tree})
                    title = f"{self.problem} · {label} · seed {row.seed}"
                    trees.append(_drawn(title, nodes, candidates, correct, row.selected))
        if not data:
            known = sorted({row.problem for _, track in labelled_tracks(runs) for row in track.rows})
            raise ConfigError(f"no results for the problem '{self.problem}'; there are: {', '.join(known[:20])}")
        return StudyFindings(data, trees)


@dataclass(slots=True)
class LineageNode:
    """A candidate, or a step that led to candidates: a plan, an observation, a prompt."""

    kind: str
    """What the step is; `answer` for a candidate."""
    text: str = ""
    position: int | None = None
    """Of the candidate, in spawned order."""
    children: list[LineageNode] = field(default_factory=list)


def lineage(candidates: Sequence[Candidate]) -> list[LineageNode]:
    """Candidates under what they were made from: the steps in `notes["lineage"]`, or the candidates in `parents`.

    Steps that candidates share occur once.
    """
    root = LineageNode("problem")
    nodes: dict[object, LineageNode] = {(): root}
    for position, candidate in enumerate(candidates):
        path: tuple[object, ...] = ()
        above = next((nodes[parent] for parent in candidate.parents if parent in nodes), root)
        for kind, text in candidate.notes.get("lineage", ()):
            path = (*path, kind, text)
            if path not in nodes:
                above.children.append(step := LineageNode(kind, text))
                nodes[path] = step
            above = nodes[path]
        nodes[candidate.id] = LineageNode("answer", position=position)
        above.children.append(nodes[candidate.id])
    return root.children


def _drawn(
    title: str,
    nodes: Sequence[LineageNode],
    candidates: Sequence[Candidate],
    correct: NDArray[np.float64],
    selected: int | None,
) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    def add(above: Tree, node: LineageNode) -> None:
        place = node.position
        if place is None:
            under = above.add(Text(f"{node.kind}: {_shortened(node.text)}"))
        else:
            words = f"answer {place}{_outcome(candidates[place], correct[place])}"
            words += ", selected" if place == selected else ""
            under = above.add(Text(words, style="bold" if place == selected else ""))
        for child in node.children:
            add(under, child)

    root = Tree(Text(title))
    for node in nodes:
        add(root, node)
    return root


def _outcome(candidate: Candidate, correct: float) -> str:
    verdict = candidate.verdict
    passed = None if verdict is None else verdict.passed
    words = {True: ", accepted", False: ", refused", None: ""}[passed]
    if verdict is not None and passed is None and verdict.score is not None:
        words = f", score {verdict.score:.3g}"
    return words + ("" if np.isnan(correct) else ", right" if correct else ", wrong")


def _shortened(text: str) -> str:
    text = " + ".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
