"""How the candidates of a problem came about, as trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tts.types import Candidate


@dataclass(slots=True)
class Node:
    """A candidate, or a step that led to candidates: a plan, an observation, a prompt."""

    kind: str
    """What the step is; `answer` for a candidate."""
    text: str = ""
    position: int | None = None
    """Of the candidate, in spawned order."""
    children: list[Node] = field(default_factory=list)


def lineage(candidates: Sequence[Candidate]) -> list[Node]:
    """Candidates under what they were made from: the steps in `notes["lineage"]`, or the candidates in `parents`.

    Steps that candidates have in common occur once.
    """
    root = Node("problem")
    nodes: dict[object, Node] = {(): root}
    for position, candidate in enumerate(candidates):
        path: tuple[object, ...] = ()
        above = next((nodes[parent] for parent in candidate.parents if parent in nodes), root)
        for kind, text in candidate.notes.get("lineage", ()):
            path = (*path, kind, text)
            if path not in nodes:
                above.children.append(step := Node(kind, text))
                nodes[path] = step
            above = nodes[path]
        nodes[candidate.id] = Node("answer", position=position)
        above.children.append(nodes[candidate.id])
    return root.children
