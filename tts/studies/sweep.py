"""Accuracy over one parameter of a strategy: what more of it, such as a longer prompt, costs and buys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tts.curves import Curve, mean_interval, paired_difference
from tts.curves.plot import draw_curves
from tts.errors import ConfigError
from tts.runs import Run
from tts.runs.analysis import prefixed
from tts.runs.estimates import by_problem, final_accuracies
from tts.runs.run import Floats, Track
from tts.studies import FigureFile, Study, StudyFindings, Table, write_figure
from tts.tables import interval, number, percent, plain, points, points_between
from tts.text import counted


class Sweep(Study):
    """Accuracy and compute of strategies that differ in one number alone, and what each value gains over the lowest.

    Takes a run of several values, such as --strategy=many_shot:k={0,4,16,64} in bash, or several runs.
    """

    of: str = "k"
    """The parameter."""
    x: str = "prompt_tokens"
    """What compute is counted in."""
    plot: FigureFile = None
    """Figure to write."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        found: dict[tuple[str, str], dict[float, Track]] = {}
        for label, run in runs.items():
            for track in run.tracks:
                value = getattr(track.method, self.of, None)
                if isinstance(value, int | float) and self.of in type(track.method).model_fields:
                    rest = {key: one for key, one in track.method.config().items() if key != self.of}
                    found.setdefault((prefixed(label, track.model), str(rest)), {})[value] = track
        swept = [_points(model, self.x, tracks) for (model, _), tracks in found.items() if len(tracks) > 1]
        swept = [rows for rows in swept if rows]
        if not swept:
            raise ConfigError(
                f"no two strategies of a model differ in {self.of} alone over two problems or more that both have: "
                f"--strategy=NAME:{self.of}={{1,2,4}} in bash"
            )
        x = self.x.replace("_", " ")
        columns = (self.of, x, "accuracy", "95 %", "gain", "95 %")
        table = Table(f"Accuracy over {self.of}", ("strategy", "model"), columns)
        for one in (point for rows in swept for point in rows):
            table.add_row(
                one.strategy,
                one.model,
                f"{one.value:g}",
                number(one.cost),
                percent(one.accuracy),
                interval(one.low, one.high),
                "" if one.gain is None else points(one.gain),
                "" if one.gain_low is None or one.gain_high is None else points_between(one.gain_low, one.gain_high),
            )
        table.notes.append(f"gain: over the lowest {self.of}, paired over {counted(swept[0][0].problems, 'problem')}")
        if self.plot:
            write_figure(draw_curves([_curve(rows, x) for rows in swept]), self.plot)
        data = plain([vars(one) for rows in swept for one in rows])
        return StudyFindings(data, [table], [self.plot] if self.plot else [])


@dataclass(frozen=True)
class SweptValue:
    """A strategy with one value of the parameter."""

    strategy: str
    model: str
    value: float
    problems: int
    """Those that all values have."""
    cost: float
    accuracy: float
    low: float
    high: float
    gain: float | None = None
    """Over the lowest value, which has none."""
    gain_low: float | None = None
    gain_high: float | None = None


def _points(model: str, x: str, tracks: Mapping[float, Track]) -> list[SweptValue]:
    """The values in order; none where they have fewer than two graded problems in common."""
    graded = {value: _graded(tracks[value], x) for value in sorted(tracks)}
    common = sorted(set.intersection(*(set(one) for one in graded.values())))
    if len(common) < 2:
        return []
    tables = {value: np.array([one[problem] for problem in common]) for value, one in graded.items()}
    right = np.stack([table[:, 0] for table in tables.values()], axis=1)
    over, ahead = mean_interval(right), paired_difference(right, np.repeat(right[:, :1], right.shape[1], axis=1))
    costs: list[Any] = [table[:, 1].mean() for table in tables.values()]
    return [
        SweptValue(
            tracks[value].strategy, model, value, len(common), float(costs[i]), *over.at(i), *(ahead.at(i) if i else ())
        )
        for i, value in enumerate(tables)
    ]


def _graded(track: Track, x: str) -> dict[str, Floats]:
    """Accuracy and compute of every graded problem, the mean over its seeds."""
    cells = zip(track.rows, final_accuracies(track), track.cost(x), strict=True)
    rows = [(row.problem, right, float(cost[-1])) for row, right, cost in cells if not np.isnan(right)]
    if not rows:
        return {}
    names = [name for name, *_ in rows]
    return dict(zip(sorted(set(names)), by_problem(np.array([one for _, *one in rows]), names), strict=True))


def _curve(rows: list[SweptValue], x: str) -> Curve:
    ordered = sorted(rows, key=lambda one: one.cost)
    columns = (np.array([getattr(one, name) for one in ordered]) for name in ("cost", "accuracy", "low", "high"))
    label = f"{ordered[0].strategy.partition(':')[0]} {ordered[0].model}"
    return Curve(label, "sweep", np.arange(1, len(rows) + 1), *columns, problems=rows[0].problems, x_name=x)
