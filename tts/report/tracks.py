"""The strategies and models of the runs that a report compares, and the problems that they worked on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from tts.curves import Curve
from tts.errors import TTSError
from tts.runs import Run
from tts.runs.analysis import curves_over, labelled, prefixed, track_curves
from tts.runs.run import Floats, Row, Track

MEASURES = ("samples", "completion_tokens", "total_tokens", "seconds", "flops", "money")
"""What accuracy is drawn against, where known."""

ProblemKey = tuple[str, str | None]
"""A problem's name and the digest of its text: different tasks may use the same names."""


@dataclass(frozen=True)
class Shown:
    """A track under its name in the report."""

    run: int
    """The index of its run."""
    label: str
    track: Track

    @cached_property
    def costs(self) -> dict[str, list[Floats]]:
        """`Track.cost` of all `MEASURES` that are known: without prices there is no money."""
        found = {}
        for measure in MEASURES:
            try:
                found[measure] = self.track.cost(measure)
            except TTSError:
                continue
        return found

    @property
    def curves(self) -> dict[str, list[Curve]]:
        """Its curves for each measure; none where `why_no_curves`."""
        return self._curves_or_reason[0]

    @property
    def why_no_curves(self) -> str:
        """Why it has no curves; empty where it has."""
        return self._curves_or_reason[1]

    @cached_property
    def _curves_or_reason(self) -> tuple[dict[str, list[Curve]], str]:
        try:
            found = curves_over(self.track, self.costs)
        except TTSError as error:
            return {}, str(error)
        return found, "" if any(found.values()) else "none of its candidates is graded"


class RunComparison:
    """One run or several, as a report shows them."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs: Mapping[str, Run] = labelled(runs)

    @cached_property
    def tracks(self) -> list[Shown]:
        """Every track of every run."""
        return [
            Shown(number, prefixed(label, track.label), track)
            for number, (label, run) in enumerate(self.runs.items())
            for track in run.tracks
        ]

    def key(self, shown: Shown, row: Row) -> ProblemKey:
        """The problem that a row of a track is about."""
        return row.problem, shown.track.run.record.get("problems", {}).get(row.problem)

    @cached_property
    def problems(self) -> list[ProblemKey]:
        """All problems of the runs in the order of their tasks, finished or not."""
        named = (key for run in self.runs.values() for key in run.record.get("problems", {}).items())
        finished = (self.key(shown, row) for shown in self.tracks for row in shown.track.rows)
        return list(dict.fromkeys(chain(named, finished)))

    @cached_property
    def places(self) -> dict[ProblemKey, int]:
        """The position of each of the `problems`."""
        return {key: place for place, key in enumerate(self.problems)}

    def curves(self, x: str) -> tuple[list[Curve], list[str]]:
        """The curves of every track against a measure of `Track.cost`, and the tracks without any, with the reason."""
        found, missing = [], []
        for shown in self.tracks:
            label = list(self.runs)[shown.run]
            try:
                made = track_curves(shown.track, x)
            except TTSError as error:
                missing.append(f"{shown.label}: {error}")
                continue
            found += [replace(curve, label=prefixed(label, curve.label)) for curve in made]
            if not made:
                missing.append(f"{shown.label}: none of its candidates is graded")
        return found, missing

    @property
    def place(self) -> Path:
        """Where a report is written by default: in the directory of a run alone, beside those of several."""
        paths = [run.path.resolve() for run in self.runs.values()]
        return paths[0] if len(paths) == 1 else Path(os.path.commonpath([path.parent for path in paths]))
