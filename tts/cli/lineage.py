"""`tts report --tree`: how the candidates of a problem came about, as a tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tts.cli.common import console
from tts.errors import ConfigError
from tts.studies.lineage import Node, lineage

if TYPE_CHECKING:
    from rich.tree import Tree

    from tts.runs import Run
    from tts.types import Candidate

WIDTH = 110


def show_trees(runs: Mapping[str, Run], problem: str) -> None:
    """Print a tree for each strategy, model and seed that worked on `problem`. Raises `ConfigError` for none."""
    found = False
    for run in runs.values():
        for track in run.tracks:
            for row, correct in zip(track.rows, track.correct, strict=True):
                if row.problem == problem:
                    found = True
                    title = f"{problem} · {track.label} · seed {row.seed}"
                    console().print(lineage_tree(title, track.candidates(row), correct, row.selected))
    if not found:
        known = sorted({row.problem for run in runs.values() for track in run.tracks for row in track.rows})
        raise ConfigError(f"no results for the problem '{problem}'; there are: {', '.join(known[:20])}")


def lineage_tree(
    title: str, candidates: Sequence[Candidate], correct: NDArray[np.float64], selected: int | None = None
) -> Tree:
    """Candidates under what they were made from: the steps in `notes["lineage"]`, or the candidates in `parents`.

    Steps that candidates have in common are shown once.
    """
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(title))

    def add(above: Tree, node: Node) -> None:
        if node.position is None:
            under = above.add(Text(f"{node.kind}: {_shortened(node.text)}"))
        else:
            place = node.position
            words = f"answer {place}{_outcome(candidates[place], correct[place])}"
            words += ", selected" if place == selected else ""
            under = above.add(Text(words, style="bold" if place == selected else ""))
        for child in node.children:
            add(under, child)

    for node in lineage(candidates):
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
