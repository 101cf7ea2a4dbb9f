"""The strategies and models of the runs that a report compares, and the problems that they worked on."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from tts.curves import Curve, Interval, mean_interval, paired_difference
from tts.errors import TTSError
from tts.registry import parse_spec, short_names
from tts.runs import Run
from tts.runs.analysis import (
    By,
    curves_over,
    labelled,
    prefixed,
    track_curves,
)
from tts.runs.coverage import filtered_curve
from tts.runs.estimates import GradedPool, final_accuracies
from tts.runs.measures import usual_measure
from tts.runs.run import Floats, Row, Track
from tts.runs.worth import told
from tts.tables import Table, points, points_between
from tts.text import counted

MEASURES = ("samples", "completion_tokens", "prompt_tokens", "total_tokens", "seconds", "flops", "money")
"""What accuracy is drawn against, where known."""

ProblemKey = tuple[str, str | None]
"""A problem's name and the digest of its text: different tasks may use the same names."""


def task_of(run: Run) -> str:
    """The name of a run's task, without its parameters."""
    return parse_spec(run.record["config"]["task"])[0]


@dataclass(frozen=True)
class Shown:
    """A track under its name in the report."""

    run: int
    """The index of its run."""
    label: str
    track: Track

    @property
    def task(self) -> str:
        """The name of its task."""
        return task_of(self.track.run)

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


@dataclass(frozen=True)
class Contest:
    """The most accurate of some tracks against each of the others, paired over the problems that all of them have.

    It is better than all if it is better than each, so the intervals of the differences need no correction for their
    number.
    """

    best: Shown
    problems: int
    differences: list[tuple[Shown, Interval]]
    """By how much `best` is more accurate than each of the others."""
    one: Interval | None
    """The accuracy of a single sample of the same model on these problems; None where none can be told."""
    sample: Interval | None
    """By how much `best` is more accurate than that."""

    @property
    def equals(self) -> list[Shown]:
        """Those that it is not shown to be better than: the interval of the difference includes 0."""
        return [other for other, difference in self.differences if difference.low[0] <= 1e-9]

    @property
    def words(self) -> str:
        """What the contest comes to; empty for one track alone."""
        if not self.differences:
            return ""
        over = f"(differences paired over {counted(self.problems, 'problem')}, 95 %)"
        if not self.equals:
            return f"{self.best.label} is better than every other {over}"
        if len(self.equals) == len(self.differences):
            return f"no strategy is shown to be better than another {over}"
        names = ", ".join(other.label for other in self.equals)
        return f"{self.best.label} is the most accurate, but not shown to be better than {names} {over}"

    def as_dict(self) -> dict[str, Any]:
        """As plain data; tracks are told by their labels."""
        return {
            "best": self.best.label,
            "problems": self.problems,
            "words": self.words,
            "equals": [shown.label for shown in self.equals],
            "others": [{"track": shown.label, **told(found)} for shown, found in self.differences],
            "one": self.one and {name: float(getattr(self.one, name)[0]) for name in ("mean", "low", "high")},
            "sample": self.sample and told(self.sample),
        }

    def table(self) -> Table:
        """The differences, and what they come to."""
        made = Table(f"Accuracy of {self.best.label} less that of", ("strategy",), ("points", "95 %", ""))
        for other, found in self.differences:
            row = told(found)
            between = points_between(row["low"], row["high"])
            made.add_row(
                other.label, points(row["difference"]), between, "may be equal" if other in self.equals else ""
            )
        made.notes = [self.words]
        return made


@dataclass(frozen=True)
class Frontier:
    """Curves over the problems and seeds that all tracks of a task have, where some have curves over others."""

    problems: int
    curves: dict[int, dict[str, list[Curve]]]
    """For the tracks that take part, by their place in `RunComparison.tracks`: the curves for each measure."""


class RunComparison:
    """One run or several, as a report shows them."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs: Mapping[str, Run] = labelled(runs)

    def __repr__(self) -> str:
        return f"RunComparison({list(self.runs.values())})"

    @cached_property
    def tracks(self) -> list[Shown]:
        """Every track of every run."""
        return [
            Shown(number, prefixed(label, track.label), track)
            for number, (label, run) in enumerate(self.runs.items())
            for track in run.tracks
        ]

    @cached_property
    def names(self) -> dict[str, str]:
        """Short names for long specs, by which the strategies of each run are told apart."""
        found: dict[str, str] = {}
        for run in self.runs.values():
            specs = [track.strategy for track in run.tracks]
            short = {spec: spec for spec in specs} | short_names(specs)
            found |= {spec: max(name, found.get(spec, ""), key=len) for spec, name in short.items()}
        return {spec: name for spec, name in found.items() if name != spec}

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

    @cached_property
    def measure(self) -> str:
        """What accuracy is drawn against unless another measure is asked for."""
        return usual_measure([shown.track for shown in self.tracks])

    def curves(self, x: str, by: By | None = None) -> tuple[list[Curve], list[str]]:
        """The curves of every track against a measure of `Track.cost`, and the tracks without any, with the reason.

        `by` is as in `tts.runs.analysis.curves`.
        """
        found, missing = [], []
        for shown in self.tracks:
            label = list(self.runs)[shown.run]
            try:
                made = track_curves(shown.track, x, by=by)
            except TTSError as error:
                missing.append(f"{shown.label}: {error}")
                continue
            found += [replace(curve, label=prefixed(label, curve.label)) for curve in made]
            if not made:
                missing.append(f"{shown.label}: none of its candidates is graded")
        return found, missing

    def panels(self, x: str, by: By | None = None) -> tuple[dict[str, list[Curve]], list[str]]:
        """`curves` by the name of their task, called no more than what tells those of a task apart."""
        curves, missing = self.curves(x, by)
        tasks = {label: task_of(run) for label, run in self.runs.items()}
        models = {f" · {shown.track.model}" for shown in self.tracks}
        found: defaultdict[str, list[Curve]] = defaultdict(list)
        for curve in curves:
            run = next(label for label in tasks if curve.label.startswith(prefixed(label, "")))
            alone = list(tasks.values()).count(tasks[run]) == 1
            label = curve.label.removeprefix(prefixed(run, "")) if alone else curve.label
            for name in sorted(self.names, key=len, reverse=True):
                label = label.replace(name, self.names[name])
            found[tasks[run]].append(
                replace(curve, label=label.replace(next(iter(models)), "") if len(models) == 1 else label)
            )
        return dict(found), missing

    def solved(self, shown: Shown) -> dict[ProblemKey, float]:
        """For each problem of a track that could be graded, its accuracy (`final_accuracies`), the mean over seeds."""
        found: defaultdict[ProblemKey, list[float]] = defaultdict(list)
        for row, right in zip(shown.track.rows, final_accuracies(shown.track), strict=True):
            if not np.isnan(right):
                found[self.key(shown, row)].append(right)
        return {key: float(np.mean(seeds)) for key, seeds in found.items()}

    @cached_property
    def contests(self) -> list[Contest]:
        """One among all tracks where they have two problems in common, else one in each task where its tracks have,
        else one in each run.

        Tracks that used the hidden truth take part only where there are no others.
        """
        graded = [(shown, solved) for shown in self.tracks if (solved := self.solved(shown))]
        entered = [(shown, solved) for shown, solved in graded if not shown.track.oracle] or graded
        return self._contests(entered, lambda shown: shown.task, lambda shown: shown.run)

    def _contests(
        self, entered: list[tuple[Shown, dict[ProblemKey, float]]], *finer: Callable[[Shown], Any]
    ) -> list[Contest]:
        """One among all that have `entered`, else those within each group that the first of `finer` tells apart."""
        if contest := self._contest(entered):
            return [contest]
        if not finer:
            return []
        groups: defaultdict[Any, list[tuple[Shown, dict[ProblemKey, float]]]] = defaultdict(list)
        for one in entered:
            groups[finer[0](one[0])].append(one)
        return [contest for group in groups.values() for contest in self._contests(group, *finer[1:])]

    def _contest(self, entered: list[tuple[Shown, dict[ProblemKey, float]]]) -> Contest | None:
        common = set.intersection(*(set(solved) for _, solved in entered)) if entered else set()
        if len(common) < 2:
            return None
        keys = sorted(common, key=self.places.__getitem__)
        values = [np.array([[solved[key]] for key in keys]) for _, solved in entered]
        first = int(np.argmax([column.mean() for column in values]))
        best = entered[first][0]
        others = [
            (shown, paired_difference(values[first], column))
            for i, ((shown, _), column) in enumerate(zip(entered, values, strict=True))
            if i != first
        ]
        drawn = self._one_sample(best)
        one = [[drawn[key]] for key in keys] if common <= drawn.keys() else None
        return Contest(
            best,
            len(keys),
            others,
            mean_interval(one) if one else None,
            paired_difference(values[first], one) if one else None,
        )

    def _one_sample(self, shown: Shown) -> dict[ProblemKey, float]:
        """The share of right samples of each problem, from the first track of the same model that has them."""
        for other in self.tracks:
            if (other.run, other.track.model) == (shown.run, shown.track.model) and other.track.independent:
                found: defaultdict[ProblemKey, list[float]] = defaultdict(list)
                pool = GradedPool.of(other.track)
                for i, right in zip(pool.kept, pool.flags, strict=True):
                    found[self.key(other, other.track.rows[i])].append(float(right.mean()))
                return {key: float(np.mean(seeds)) for key, seeds in found.items()}
        return {}

    @cached_property
    def frontiers(self) -> dict[str, Frontier | None]:
        """What tells who is ahead at which compute, for each task; None where its curves tell it as they are.

        Tracks that used the hidden truth take no part.
        """
        return {task: self._frontier(task) for task in dict.fromkeys(shown.task for shown in self.tracks)}

    def _frontier(self, task: str) -> Frontier | None:
        entered = {
            place: shown
            for place, shown in enumerate(self.tracks)
            if shown.task == task and not shown.track.oracle and not shown.why_no_curves
        }
        cells = [{(self.key(one, row), row.seed) for row in GradedPool.of(one.track).rows} for one in entered.values()]
        if all(part == cells[0] for part in cells):
            return None
        common = set.intersection(*cells)

        def paired(shown: Shown) -> dict[str, list[Curve]]:
            return curves_over(shown.track, shown.costs, only=lambda row: (self.key(shown, row), row.seed) in common)

        problems = len({problem for problem, _ in common})
        return Frontier(problems, {place: paired(shown) for place, shown in entered.items()})

    @cached_property
    def filtered(self) -> list[Curve]:
        """Filtered pass@k of every track whose verifier accepts and refuses."""
        found = ((shown, filtered_curve(shown.track)) for shown in self.tracks)
        return [replace(curve, label=shown.label) for shown, curve in found if curve is not None]

    @property
    def place(self) -> Path:
        """Where a report is written by default: in the directory of a run alone, beside those of several."""
        paths = [run.path.resolve() for run in self.runs.values()]
        return paths[0] if len(paths) == 1 else Path(os.path.commonpath([path.parent for path in paths]))
