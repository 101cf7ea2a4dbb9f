"""What probing for difficulty gains over the same policy for every problem, at equal compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tts.curves import mean_interval, paired_difference
from tts.errors import ConfigError
from tts.runs import Run
from tts.runs.estimates import GradedPool, by_problem, final_accuracies
from tts.runs.run import Track
from tts.strategies.probe import Probe
from tts.studies import Study, StudyFindings, Table, TrackReport, reports_on
from tts.studies.stopping import at_cost
from tts.tables import interval, number, percent, points, points_between


class ProbeGain(Study):
    """Whether `probe` beats drawing equally many samples of every problem at the same mean compute.

    Takes a run of `probe` together with the constant policy: `self_consistency` or `best_of_n` with enough samples.
    """

    name = "probe"

    x: str = "completion_tokens"
    """What compute is counted in."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        reports, rows = reports_on(runs, lambda run: probe_report(run, self.x))
        columns = ("easy", "right where easy", self.x.replace("_", " "), "accuracy", "constant", "difference", "95 %")
        made = Table("Probing against the same policy for all", ("strategy", "constant policy"), columns)
        for label, one in reports:
            made.add_row(
                label,
                one.constant,
                percent(one.easy),
                percent(one.right_where_easy),
                number(one.cost),
                percent(one.accuracy),
                percent(one.constant_accuracy),
                points(one.difference),
                points_between(one.low, one.high),
            )
            made.notes += [f"{label}: {words}" for words in one.sentences()]
        return StudyFindings(rows, [made])


@dataclass(frozen=True)
class ProbeReport(TrackReport):
    """A probe against a constant policy of the same model, over the problems that both have."""

    constant: str
    """The constant policy."""
    problems: int
    easy: float
    """Share of the problems that the probe settled."""
    right_where_easy: float | None
    """Accuracy among those."""
    cost: float
    """Mean compute of a problem, the probe included."""
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    constant_accuracy: float
    """With as many samples, between two whole numbers, as cost the same on average."""
    difference: float
    low: float
    high: float
    within: bool
    """Whether the constant policy was drawn far enough to cost as much; else it stands at its end."""

    def sentences(self) -> Iterator[str]:
        yield f"accuracy {percent(self.accuracy)}, 95 % {interval(self.accuracy_low, self.accuracy_high)}"
        if not self.within:
            yield f"{self.constant} does not cover this compute and stands at the nearest: run it with another n"


def probe_report(run: Run, x: str = "completion_tokens") -> list[ProbeReport]:
    """Every probe against every constant policy of the same model.

    Raises `ConfigError` where a probe or a constant policy is missing.
    """
    found = []
    for track in run.tracks:
        for other in run.tracks:
            fits = other.model == track.model and other.independent and other.estimator != "replay"
            if isinstance(track.method, Probe) and fits and (one := _against(track, other, x)) is not None:
                found.append(one)
    if not found:
        raise ConfigError(
            f"{run.path} needs a probe and the same policy for all: --strategy probe:then=... with --strategy "
            "self_consistency:n=... or best_of_n:n=..., two problems or more"
        )
    return found


def _against(track: Track, constant: Track, x: str) -> ProbeReport | None:
    pool = GradedPool.of(constant)
    theirs = [constant.rows[i].problem for i in pool.kept]
    rights, costs = final_accuracies(track), track.cost(x)
    mine = [
        (row.problem, right, float(cost[-1]), all(one.notes.get("probe") for one in track.candidates(row)))
        for row, right, cost in zip(track.rows, rights, costs, strict=True)
        if not np.isnan(right) and row.problem in theirs
    ]
    names = sorted({problem for problem, *_ in mine})
    if len(names) < 2:
        return None
    figures = by_problem(np.array([numbers for _, *numbers in mine], dtype=np.float64), [name for name, *_ in mine])
    means = constant.mean_cost(x)
    spent = [means[i] for i in pool.kept]
    mean = float(figures[:, 1].mean())
    fixed = by_problem(at_cost(pool, spent, mean), theirs)
    fixed = fixed[[sorted(set(theirs)).index(name) for name in names]]
    accuracy, accuracy_low, accuracy_high = mean_interval(figures[:, :1]).at()
    difference, low, high = paired_difference(figures[:, :1], fixed).at()
    settled = figures[:, 2] == 1
    ends = float(np.mean([one[0] for one in spent])), float(np.mean([one[-1] for one in spent]))
    return ProbeReport(
        track=track.label,
        constant=constant.strategy,
        problems=len(names),
        easy=float(settled.mean()),
        right_where_easy=float(figures[settled, 0].mean()) if settled.any() else None,
        cost=mean,
        accuracy=accuracy,
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
        constant_accuracy=float(fixed.mean()),
        difference=difference,
        low=low,
        high=high,
        within=ends[0] <= mean <= ends[1],
    )
