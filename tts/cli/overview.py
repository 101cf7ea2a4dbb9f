"""`tts report`: the summary, the curves and what is read off them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tts.cli.common import say, show_json
from tts.errors import ConfigError

if TYPE_CHECKING:
    from tts.curves import Curve
    from tts.report import Comparison
    from tts.studies.timeline import Call


@dataclass(frozen=True)
class Wishes:
    """What is shown besides the summary and the curves."""

    at: Sequence[float] = ()
    reach: Sequence[float] = ()
    diversity: bool = False
    judge: str | None = None
    base_url: str | None = None
    diversity_plot: Path | None = None
    timeline: Path | None = None
    problem: str | None = None


def show_overview(comparison: Comparison, x: str, wishes: Wishes, as_json: bool) -> None:
    """Print the report's tables, or JSON of the same, and draw the figures that are asked for."""
    from tts.cli.diversity import diversities, plot_diversities, show_diversities
    from tts.curves import curve_rows
    from tts.runs.analysis import coverage_laws, summary
    from tts.studies.timeline import utilisation

    summaries = {label: summary(run) for label, run in comparison.runs.items()}
    curves, missing = comparison.curves(x)
    asked = {"--x": x != "completion_tokens", "--at": wishes.at, "--reach": wishes.reach}
    if not curves and (named := [name for name, value in asked.items() if value]):
        raise ConfigError(f"no curve for {named[0]}: {'; '.join(missing) or 'nothing is graded yet'}")
    accuracies = [_readout(curve, c, curve.accuracy_at) for c in wishes.at for curve in curves]
    computes = [_readout(curve, a, curve.compute_to_reach) for a in wishes.reach for curve in curves]
    laws = coverage_laws(curves)
    wants_diversity = wishes.diversity or wishes.judge or wishes.diversity_plot
    different = diversities(comparison.runs, wishes.judge, wishes.base_url) if wants_diversity else []
    schedules = _schedules(comparison, wishes.problem) if wishes.timeline else {}
    if as_json:
        rows = [{"run": str(comparison.runs[label].path), **row} for label, found in summaries.items() for row in found]
        show_json(
            {
                "summary": rows,
                "curves": curve_rows(curves),
                "at": accuracies,
                "reach": computes,
                "coverage_law": laws,
                "without_curve": missing,
                **({"diversity": different} if different else {}),
                "timeline": {name: utilisation(calls) for name, (_, calls) in schedules.items()},
            }
        )
    else:
        from tts.cli import tables

        tables.summary_table(summaries)
        if curves:
            tables.curve_table(curves)
        for c in wishes.at:
            rows = [row for row in accuracies if row["asked"] == c]
            tables.readout_table(f"At {tables.number(c)} {curves[0].x_label}", rows, "accuracy", tables.percent)
        for a in wishes.reach:
            rows = [row for row in computes if row["asked"] == a]
            tables.readout_table(f"To reach {tables.percent(a)}", rows, curves[0].x_label, tables.number)
        if laws:
            tables.law_table(laws)
        if different:
            show_diversities(different)
        for name, (_, calls) in schedules.items():
            tables.timeline_table(name, calls)
        for words in missing:
            say(f"no curve of {words}")
    if wishes.diversity_plot:
        plot_diversities(different, wishes.diversity_plot)
    if wishes.timeline:
        _draw_timeline({name: calls for name, (calls, _) in schedules.items()}, wishes.timeline)


def _readout(curve: Curve, asked: float, read: Callable[[float], float | None]) -> dict[str, Any]:
    from tts.curves import CurveError

    try:
        value, why_not = read(asked), "not reached"
    except CurveError:
        value, why_not = None, f"measured from {curve.x[0]:.4g} to {curve.x[-1]:.4g} only"
    return {
        "curve": curve.label,
        "estimator": curve.estimator,
        "asked": asked,
        "value": value,
        "why_not": None if value is not None else why_not,
    }


def _schedules(comparison: Comparison, problem: str | None) -> dict[str, tuple[list[Call], list[Call]]]:
    """Of each strategy: the calls for one problem, to draw, and for all."""
    from tts.runs.analysis import calls

    found = {}
    for shown in comparison.tracks:
        one = calls(shown.track, problem or shown.track.rows[0].problem)
        if not one:
            raise ConfigError(f"{shown.track.run.path} has no calls for the problem '{problem}'")
        found[shown.label] = (one, calls(shown.track))
    return found


def _draw_timeline(schedules: dict[str, list[Call]], path: Path) -> None:
    from tts.curves import writing
    from tts.studies.timeline import plot_timeline

    with writing(path):
        plot_timeline(schedules, path)
    say(f"wrote {path}")
