"""How the answers to a problem were searched for: as a tree of steps and answers, in the terminal or as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import PositiveInt

from tts.curves import writing
from tts.errors import ConfigError
from tts.runs import Run
from tts.studies import Study, StudyFindings, labelled_tracks, written_as
from tts.studies.search_trees import SearchDrawing
from tts.studies.tree_files import mermaid, svg


class SearchTree(Study):
    """How one problem's answers came about, as a tree for each strategy, model and seed.

    Steps with their rewards, visits and tokens, when each was passed over, and the way to the selected answer.
    """

    name: ClassVar[str] = "tree"

    problem: str | None = None
    """The problem's id. Default: the first."""
    strategy: str = ""
    """Only strategies and models whose label has this in it."""
    out: Annotated[Path | None, written_as("svg", "mmd")] = None
    """Draw it into this file (.svg, or .mmd for Mermaid)."""
    most: PositiveInt = 300
    """Nodes of a tree that are drawn, the most visited first; `--json` has all. Mermaid draws 500 at most."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        every = list(labelled_tracks(runs))
        tracks = [(label, track) for label, track in every if self.strategy in label]
        if not tracks:
            raise ConfigError(f"no strategy has '{self.strategy}' in it; there are: {', '.join(dict(every))}")
        problem = tracks[0][1].rows[0].problem if self.problem is None else self.problem
        drawn = [
            SearchDrawing.of(label, track, row, correct)
            for label, track in tracks
            for row, correct in zip(track.rows, track.correct, strict=True)
            if row.problem == problem
        ]
        if not drawn:
            known = sorted({row.problem for _, track in tracks for row in track.rows})
            raise ConfigError(f"no results for the problem '{problem}'; there are: {', '.join(known[:20])}")
        if self.out is not None:
            with writing(self.out):
                draw = svg if self.out.suffix == ".svg" else mermaid
                self.out.write_text(draw([one.cut(self.most) for one in drawn]), encoding="utf-8")
        shown = [one.cut(self.most).in_terminal() for one in drawn]
        return StudyFindings([one.as_dict() for one in drawn], shown, [self.out] if self.out else [])
