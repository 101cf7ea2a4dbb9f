"""`tts report`: what runs have found, as tables, files and a figure."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tts.cli.common import AsJson, BaseUrl, say, show_json
from tts.errors import ConfigError, TTSError

if TYPE_CHECKING:
    from tts.curves import Call, Curve
    from tts.experiment import Run

EPILOG = """\
\b
Examples:
  tts report runs/gsm8k-small
  tts report runs/a runs/b --x flops --plot curves.svg
  tts report runs/a --verifiers
  tts report runs/a --verifier-analysis --cost-ratio 2 --verifier-plot rewards.svg
  tts report runs/a --at 2000 --reach 0.8 --json
  tts report runs/a --tree HumanEval/3
  tts report runs/a --contact-sheet pictures.html
  tts report runs/a runs/b --diversity --judge gpt-4o-mini --diversity-plot gain.svg
"""


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; several are compared.")],
    x: Annotated[
        str,
        typer.Option(
            metavar="MEASURE",
            help="Compute: samples, completion_tokens, requests, flops, money, seconds, ...",
        ),
    ] = "completion_tokens",
    at: Annotated[
        list[float] | None, typer.Option(metavar="COMPUTE", help="Read the accuracy at this compute; may be repeated.")
    ] = None,
    reach: Annotated[
        list[float] | None,
        typer.Option(metavar="ACCURACY", min=0, max=1, help="Read the compute to reach it; may be repeated."),
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the curves' points.")] = None,
    parquet: Annotated[Path | None, typer.Option(metavar="FILE", help="The same as Parquet.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the curves: .png, .svg or .pdf.")] = None,
    timeline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw when every call was made, and show how busy servers were.")
    ] = None,
    problem: Annotated[
        str | None, typer.Option(metavar="ID", help="Of the timeline. Default: the first one of each run.")
    ] = None,
    candidates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every candidate with its cost: .csv or .jsonl.")
    ] = None,
    verifiers: Annotated[
        bool, typer.Option("--verifiers", help="Show how good the verifiers are, instead of the curves.")
    ] = False,
    verifier_analysis: Annotated[
        bool,
        typer.Option("--verifier-analysis", help="Show instead whether more samples pay with verifiers as they are."),
    ] = False,
    cost_ratio: Annotated[
        list[float] | None,
        typer.Option(
            metavar="LAMBDA",
            min=0,
            help="With --verifier-analysis: what a wrong answer costs, a right one gaining 1; may be repeated.",
        ),
    ] = None,
    verifier_plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --verifier-analysis: draw what K samples are worth.")
    ] = None,
    repeats: Annotated[
        bool, typer.Option("--repeats", help="Show instead how reliable attempts are, and how even in cost.")
    ] = False,
    heterogeneity: Annotated[
        bool, typer.Option("--heterogeneity", help="Show instead whether a verifier would have something to find.")
    ] = False,
    tree: Annotated[
        str | None,
        typer.Option(metavar="PROBLEM", help="Show instead how each candidate of a problem came about."),
    ] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every picture with its verdict: .html.")
    ] = None,
    diversity: Annotated[
        bool, typer.Option("--diversity", help="Show how different the candidates of each strategy are.")
    ] = False,
    judge: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="With --diversity: let a model judge whether ideas are the same."),
    ] = None,
    base_url: BaseUrl = None,
    diversity_plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the gain of pass@k against diversity.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show accuracy, cost and curves of runs.

    A run may still be going. Files are written only where asked for.
    """
    from tts.cli import tables
    from tts.cli.diversity import diversities, plot_diversities, show_diversities
    from tts.cli.lineage import show_trees
    from tts.cli.protocols import show_heterogeneity, show_repeats
    from tts.cli.resampling import show_resampling
    from tts.experiment import Run
    from tts.experiment.analysis import coverage_laws, summary

    opened = _labelled([Run(path) for path in runs])
    if verifiers:
        return _show_verifiers(opened, as_json)
    if verifier_analysis or cost_ratio or verifier_plot:
        return show_resampling(opened, cost_ratio, verifier_plot, as_json)
    if repeats:
        return show_repeats(opened, as_json)
    if heterogeneity:
        return show_heterogeneity(opened, as_json)
    if tree is not None:
        return show_trees(opened, tree)
    if contact_sheet is not None:
        return _write_contact_sheet(opened, contact_sheet)
    summaries = {label: summary(run) for label, run in opened.items()}
    curves, missing = _curves(opened, x)
    other_x = x if x != "completion_tokens" else None
    wanted = {"--x": other_x, "--at": at, "--reach": reach, "--csv": csv_file, "--parquet": parquet, "--plot": plot}
    if not curves and (asked := [name for name, value in wanted.items() if value]):
        raise ConfigError(f"no curve for {asked[0]}: {'; '.join(missing) or 'nothing is graded yet'}")
    accuracies = [_readout(curve, c, curve.accuracy_at) for c in at or () for curve in curves]
    computes = [_readout(curve, a, curve.compute_to_reach) for a in reach or () for curve in curves]
    laws = coverage_laws(curves)
    different = diversities(opened, judge, base_url) if diversity or judge or diversity_plot else []
    schedules = _schedules(opened, problem) if timeline else {}
    if as_json:
        from tts.curves import curve_rows, utilisation

        show_json(
            {
                "summary": [
                    {"run": str(opened[label].path), **row} for label, rows in summaries.items() for row in rows
                ],
                "curves": curve_rows(curves),
                "at": accuracies,
                "reach": computes,
                "coverage_law": laws,
                "without_curve": missing,
                **({"diversity": different} if different else {}),
                "timeline": {name: utilisation(all_) for name, (_, all_) in schedules.items()},
            }
        )
    else:
        tables.summary_table(summaries)
        if curves:
            tables.curve_table(curves)
        for c in at or ():
            rows = [row for row in accuracies if row["asked"] == c]
            tables.readout_table(f"At {tables.number(c)} {curves[0].x_label}", rows, "accuracy", tables.percent)
        for a in reach or ():
            rows = [row for row in computes if row["asked"] == a]
            tables.readout_table(f"To reach {tables.percent(a)}", rows, curves[0].x_label, tables.number)
        if laws:
            tables.law_table(laws)
        if different:
            show_diversities(different)
        for name, (_, all_) in schedules.items():
            tables.timeline_table(name, all_)
        for words in missing:
            say(f"no curve of {words}")
    drawn = {name: one for name, (one, _) in schedules.items()}
    _write(curves, csv_file, parquet, plot)
    if diversity_plot:
        plot_diversities(different, diversity_plot)
    if timeline:
        from tts.curves import plot_timeline

        _write_file(timeline, lambda path: plot_timeline(drawn, path))
    if candidates:
        _write_candidates(opened, candidates)


def _show_verifiers(runs: dict[str, Run], as_json: bool) -> None:
    """Print the report on each run's verifiers."""
    from tts.cli import tables
    from tts.experiment.verifier_report import verifier_report

    reports = {label: verifier_report(run) for label, run in runs.items()}
    if as_json:
        rows = [{"run": str(runs[label].path), **one.as_dict()} for label, found in reports.items() for one in found]
        show_json({"verifiers": rows})
    else:
        tables.verifier_tables(
            [(_prefixed(label, one.track), one) for label, found in reports.items() for one in found]
        )


def _write_contact_sheet(runs: dict[str, Run], path: Path) -> None:
    from tts.experiment.contact_sheet import contact_sheet

    if len(runs) > 1:
        raise ConfigError("a contact sheet is of one run; name that one alone")
    path.write_text("".join(map(contact_sheet, runs.values())), encoding="utf-8")
    say(f"wrote {path}")


def _labelled(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by what precedes their curves' names: nothing for one, else the directory's name, its path if need be."""
    if len(runs) == 1:
        return {"": runs[0]}
    names = [run.path.resolve().name for run in runs]
    unique = len(set(names)) == len(names)
    return {name if unique else str(run.path): run for name, run in zip(names, runs, strict=True)}


def _prefixed(label: str, name: str) -> str:
    return f"{label}/{name}" if label else name


def _curves(runs: dict[str, Run], x: str) -> tuple[list[Curve], list[str]]:
    """The curves of every strategy and model, and why some have none."""
    from tts.experiment.analysis import track_curves

    found, missing = [], []
    for label, run in runs.items():
        for track in run.tracks:
            name = _prefixed(label, track.label)
            try:
                made = track_curves(track, x)
            except TTSError as error:
                missing.append(f"{name}: {error}")
                continue
            found += [replace(curve, label=_prefixed(label, curve.label)) for curve in made]
            if not made:
                missing.append(f"{name}: none of its candidates is graded")
    return found, missing


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


def _schedules(runs: dict[str, Run], problem: str | None) -> dict[str, tuple[list[Call], list[Call]]]:
    """Of each strategy: the calls for one problem, to draw, and for all."""
    from tts.experiment.analysis import calls

    found = {}
    for label, run in runs.items():
        for track in run.tracks:
            one = calls(track, problem or track.rows[0].problem)
            if not one:
                raise ConfigError(f"{run.path} has no calls for the problem '{problem}'")
            found[_prefixed(label, track.label)] = (one, calls(track))
    return found


def _write(curves: Sequence[Curve], csv_file: Path | None, parquet: Path | None, plot: Path | None) -> None:
    from tts.curves import plot_curves, write_csv, write_parquet

    for path, write in ((csv_file, write_csv), (parquet, write_parquet), (plot, plot_curves)):
        if path is not None:
            _write_file(path, partial(write, curves))


def _write_file(path: Path, write: Callable[[Path], None]) -> None:
    from tts.curves import CurveError

    try:
        write(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    except CurveError as error:
        raise ConfigError(str(error)) from None
    say(f"wrote {path}")


def _write_candidates(runs: dict[str, Run], path: Path) -> None:
    """Every candidate of the runs, one row each, as they are read."""
    rows = ({**({"run": label} if label else {}), **row} for label, run in runs.items() for row in run.export())
    if path.suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"cannot tell the format of {path}: end the name in .csv or .jsonl")
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".jsonl":
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            else:
                first = next(rows, None)
                if first is not None:
                    writer = csv.DictWriter(file, list(first))
                    writer.writeheader()
                    writer.writerow(first)
                    writer.writerows(rows)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    say(f"wrote {path}")
