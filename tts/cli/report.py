"""`tts report` and `tts view`: what runs have found, as tables here and as pages for the browser."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator, Sequence
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tts.cli.common import AsJson, Trackers, choices, console, plugin_option, say, show_json
from tts.errors import ConfigError
from tts.text import counted, visible

if TYPE_CHECKING:
    from tts.curves import Curve
    from tts.curves.plot import Intervals, Style
    from tts.report import RunComparison
    from tts.report.exports import Export, Label
    from tts.runs.analysis import By
    from tts.studies import Study, StudyFindings
    from tts.tables import Table

EPILOG = """\
\b
Examples:
  tts report runs/gsm8k-small
  tts report runs/a runs/b --x flops --out curves.svg
  tts report runs/a --format md --format parquet
  tts report runs/a --by budget --x money
  tts report runs/a --details
  tts report runs/a --out curves.pdf --style paper --intervals bars
  tts report runs/a --at 2000 --reach 0.8 --json
  tts report runs/a --export sft --export preference
  tts report runs/a --track mlflow
  tts report runs/a --study verifiers --study repeats
  tts report runs/a --study 'imperfect_verifier:cost_ratio=[2],plot=rewards.svg'
  tts report runs/a --study tree:problem=HumanEval/3,strategy=beam_search,out=tree.svg
  tts report runs/a runs/b --study diversity:judge=gpt-4o-mini,plot=gain.svg

\b
Formats: html is the whole report in one file that opens from disk; md its tables; csv and parquet the
points of the curves; png, svg and pdf their figure.
Studies: tts list studies
"""


Format = StrEnum("Format", ["html", "md", "csv", "parquet", "png", "svg", "pdf"])
Along = StrEnum("Along", ["k", "budget"])
Looks = StrEnum("Looks", ["screen", "paper"])
Spread = StrEnum("Spread", ["bands", "bars", "none"])
Exports = StrEnum("Exports", ["sft", "preference", "samples", "lm_eval", "inspect", "batch"])
Labels = StrEnum("Labels", ["truth", "verifier"])


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; several are compared.")],
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where to write it: .html, .md, .csv, ...; may be repeated."),
    ] = None,
    format_: Annotated[
        list[Format] | None,
        typer.Option(
            "--format",
            metavar=choices(Format),
            help="Write report.FORMAT in the run's directory. Default: html; may be repeated.",
        ),
    ] = None,
    x: Annotated[
        str | None,
        typer.Option(
            metavar="MEASURE",
            help="Compute: samples, completion_tokens, requests, flops, money, seconds, ... Default: "
            "completion_tokens, but money, else flops, where the policies are different models.",
        ),
    ] = None,
    by: Annotated[
        Along | None,
        typer.Option(
            help="What grows along a curve: k candidates, or a cap on what each problem may cost. Default: budget "
            "where one left some problems with fewer candidates than others, else k."
        ),
    ] = None,
    at: Annotated[
        list[float] | None, typer.Option(metavar="COMPUTE", help="Read the accuracy at this compute; may be repeated.")
    ] = None,
    reach: Annotated[
        list[float] | None,
        typer.Option(metavar="ACCURACY", min=0, max=1, help="Read the compute to reach it; may be repeated."),
    ] = None,
    study: Annotated[
        list[str] | None,
        plugin_option("studies", "Answer this question instead (see: tts list studies); may be repeated."),
    ] = None,
    candidates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every candidate with its cost: .csv or .jsonl.")
    ] = None,
    export: Annotated[
        list[Exports] | None,
        typer.Option(
            metavar=choices(Exports),
            help="Write sft.jsonl (right answers), preference.jsonl (pairs of a right and a wrong one), or all samples "
            "in a form of others (samples for EvalPlus, lm_eval, a log of Inspect, batch) in the run's "
            "directory; may be repeated.",
        ),
    ] = None,
    label: Annotated[
        Labels, typer.Option(help="Who says which answers are right for --export: the hidden truth, or the verifier.")
    ] = Labels.truth,
    track: Annotated[
        list[Trackers] | None,
        typer.Option(
            metavar=choices(Trackers),
            help="Give the runs to a tracker, by its own settings (extra trackers); may be repeated.",
        ),
    ] = None,
    style: Annotated[
        Looks, typer.Option(help="Of figures: paper is as wide as a column, with fonts to match.")
    ] = Looks.screen,
    intervals: Annotated[
        Spread | None, typer.Option(help="In figures. Default: bands where a panel has few curves, else bars.")
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Every column, every point of the curves with its interval, fits.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what runs have found, and write it as a page.

    Accuracy, cost and curves, compared over the problems that runs have in common where there are several. Runs may
    still be going (see also: tts view). The page is report.html in the run's directory, or beside the
    directories of several runs; with --json or --study it is written only where --out or --format asks for it.
    """
    from tts import registry
    from tts.files import check_writable
    from tts.report import CANDIDATE_FORMATS, RunComparison, check_report, write_candidates, write_lines
    from tts.runs import Run

    for path in out or ():
        check_report(path)
    if candidates:
        check_writable(candidates, CANDIDATE_FORMATS)
    if track:
        from tts.report.trackers import check_tracker

        for tracker in track:
            check_tracker(tracker)
    studies: list[Study] = [registry.make("studies", spec) for spec in study or ()]
    comparison = RunComparison([Run(path) for path in runs])
    along = cast("By | None", by and str(by))
    beside = [comparison.place / f"report.{kind}" for kind in format_ or ()]
    for path in beside:
        check_report(path)
    exports = dict(_export(comparison, cast("Export", str(kind)), cast("Label", str(label))) for kind in export or ())
    files = [*(out or ()), *beside]
    if studies:
        _show_studies(studies, comparison, as_json)
    else:
        _show_overview(comparison, x, along, at or (), reach or (), details, as_json)
        if not files and not as_json:
            _write_beside(comparison)
    for path in files:
        bounds = cast("Intervals | None", intervals and str(intervals))
        _write(comparison, path, x, along, cast("Style", str(style)), bounds)
    if candidates:
        write_candidates(comparison, candidates)
        say(f"wrote {candidates}")
    for path, rows in exports.items():
        say(f"wrote {path}: {counted(write_lines(rows, path), 'line')}")
    for tracker in track or ():
        from tts.report.trackers import track as give

        for run in comparison.runs.values():
            say(f"tracked by {tracker}: {give(run, tracker)}")


def _export(comparison: RunComparison, kind: Export, label: Label) -> tuple[Path, Iterator[dict[str, Any]]]:
    """Where this kind goes, and what; what cannot be is refused before it is read."""
    from tts.files import check_writable
    from tts.report.exports import exported, file_name

    if kind == "inspect" and len(comparison.runs) > 1:
        raise ConfigError("a log of Inspect is of one run; export them one by one")
    runs = list(comparison.runs.values())
    path = comparison.place / file_name(runs[0], kind)
    check_writable(path)
    return path, chain.from_iterable([exported(run, kind, label) for run in runs])


def _write(
    comparison: RunComparison,
    path: Path,
    x: str | None = None,
    by: By | None = None,
    style: Style = "screen",
    intervals: Intervals | None = None,
) -> None:
    from tts.report import write_report

    write_report(comparison, path, x or comparison.measure, by, style, intervals)
    say(f"wrote {path}")


def _write_beside(comparison: RunComparison) -> None:
    """Write the page at its usual place, which may be one that we must not write to."""
    try:
        _write(comparison, comparison.place / "report.html")
    except ConfigError as error:
        say(f"no page: {error} (name another place with --out)")


def _show_studies(studies: Sequence[Study], comparison: RunComparison, as_json: bool) -> None:
    names = [study.name for study in studies]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"each study may be named once, but there are several of {', '.join(sorted(twice))}")
    found: dict[str, StudyFindings] = {}
    for study in studies:
        answer = study.findings(comparison.runs)
        found[study.name] = asyncio.run(answer) if isinstance(answer, Coroutine) else answer
    if as_json:
        show_json({name: one.data for name, one in found.items()})
    for one in found.values():
        for item in () if as_json else one.shown:
            console().print(visible(item) if isinstance(item, str) else item)
        for path in one.files:
            say(f"wrote {path}")


def _show_overview(
    comparison: RunComparison,
    x: str | None,
    by: By | None,
    at: Sequence[float],
    reach: Sequence[float],
    details: bool,
    as_json: bool,
) -> None:
    """Print the summary, the curves and what is read off them."""
    from tts.curves import curve_rows
    from tts.runs.analysis import summary
    from tts.runs.coverage import coverage_laws
    from tts.tables import FILTERED, curve_table, growth_table, law_table, number, percent, readout_table, summary_table

    summaries = {label: summary(run) for label, run in comparison.runs.items()}
    curves, missing = comparison.curves(x or comparison.measure, by)
    asked = {"--x": x, "--by": by, "--at": at, "--reach": reach}
    if not curves and (named := [name for name, value in asked.items() if value]):
        raise ConfigError(f"no curve for {named[0]}: {'; '.join(missing) or 'nothing is graded yet'}")
    accuracies = {c: [_accuracy_at(curve, c) for curve in curves] for c in at}
    computes = {a: [_compute_to_reach(curve, a) for curve in curves] for a in reach}
    laws = coverage_laws({shown.label: shown.track for shown in comparison.tracks})
    if as_json:
        named = [{"run": str(comparison.runs[label].path), **row} for label, rows in summaries.items() for row in rows]
        show_json(
            {
                "summary": named,
                "curves": curve_rows(curves),
                "at": [row for rows in accuracies.values() for row in rows],
                "reach": [row for rows in computes.values() for row in rows],
                "coverage_law": laws,
                "filtered_pass_at_k": curve_rows(comparison.filtered),
                "contests": [contest.as_dict() for contest in comparison.contests],
                "without_curve": missing,
            }
        )
        return

    models = {shown.track.model for shown in comparison.tracks}

    def tables() -> Iterator[Table]:
        yield summary_table(summaries, details=details)
        yield from (contest.table() for contest in comparison.contests if contest.differences)
        drawn = curve_table if details else growth_table
        if curves:
            yield drawn(curves)
        if comparison.filtered:
            yield drawn(comparison.filtered, FILTERED)
        for c, rows in accuracies.items():
            yield readout_table(f"At {number(c)} {curves[0].x_label}", rows, "accuracy", percent)
        for a, rows in computes.items():
            yield readout_table(f"To reach {percent(a)}", rows, curves[0].x_label, number)
        if laws and details:
            yield law_table(laws)

    names = {} if details else comparison.names
    shared = {f" · {models.pop()}": ""} if len(models) == 1 and not details else {}
    for made in tables():
        console().print(made.renamed(names | shared))
    if names:
        say("names have what tells strategies apart; --details has all of each")
    for words in missing:
        say(f"no curve of {words}")


def _accuracy_at(curve: Curve, compute: float) -> dict[str, Any]:
    from tts.curves import CurveError

    try:
        value, (low, high), why_not = curve.accuracy_at(compute), curve.interval_at(compute), None
    except CurveError:
        value = low = high = None
        why_not = f"measured from {curve.x[0]:.4g} to {curve.x[-1]:.4g} only"
    return _readout(curve, compute, value, why_not) | {"low": low, "high": high}


def _compute_to_reach(curve: Curve, accuracy: float) -> dict[str, Any]:
    value = curve.compute_to_reach(accuracy)
    return _readout(curve, accuracy, value, "not reached" if value is None else None)


def _readout(curve: Curve, asked: float, value: float | None, why_not: str | None) -> dict[str, Any]:
    return {
        "curve": curve.label,
        "estimator": curve.estimator,
        "asked": asked,
        "value": value,
        "why_not": why_not,
    }


VIEW_EPILOG = """\
\b
Examples:
  tts view
  tts view runs/gsm8k-small --port 9000

To get a report as a file that you can send: tts report RUN
"""


def view(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of runs, or a run.")] = Path("runs"),
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="0 picks a free port.")] = 8090,
) -> None:
    """Show runs in the browser until Ctrl-C, also while they go on.

    On this machine only. Prints the address on stdout.
    """
    from tts.errors import MissingExtra
    from tts.serving import serve as put_on_port

    try:
        from tts.report.viewer import view_app
    except ImportError:
        raise MissingExtra("serve", "viewing runs") from None

    def announce(address: str) -> None:
        say(f"showing the runs in {folder}; stop with Ctrl-C")
        typer.echo(f"{address}/")
        sys.stdout.flush()

    put_on_port(view_app(folder), "127.0.0.1", port, announce, path="")
