"""`tts report`: what runs have found, as tables here and as a page to open in a browser."""

from __future__ import annotations

from enum import StrEnum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tts.cli.common import AsJson, BaseUrl, say
from tts.errors import ConfigError

if TYPE_CHECKING:
    from tts.report import Comparison

EPILOG = """\
\b
Examples:
  tts report runs/gsm8k-small
  tts report runs/a runs/b --x flops --out curves.svg
  tts report runs/a --format md --format parquet
  tts report runs/a --verifiers
  tts report runs/a --verifier-analysis --cost-ratio 2 --verifier-plot rewards.svg
  tts report runs/a --at 2000 --reach 0.8 --json
  tts report runs/a --tree HumanEval/3
  tts report runs/a --contact-sheet pictures.html
  tts report runs/a runs/b --diversity --judge gpt-4o-mini --diversity-plot gain.svg

\b
Formats: html is the whole report in one file that opens from disk; md its tables; csv and parquet the
points of the curves; png, svg and pdf their figure.
"""


class Format(StrEnum):
    """What a report can be written as; the name is the suffix of its file."""

    html = auto()
    md = auto()
    csv = auto()
    parquet = auto()
    png = auto()
    svg = auto()


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; several are compared.")],
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where to write it: .html, .md, .csv, ...; may be repeated."),
    ] = None,
    format_: Annotated[
        list[Format] | None,
        typer.Option("--format", help="Write report.FORMAT in the run's directory. Default: html; may be repeated."),
    ] = None,
    x: Annotated[
        str,
        typer.Option(
            metavar="MEASURE", help="Compute: samples, completion_tokens, requests, flops, money, seconds, ..."
        ),
    ] = "completion_tokens",
    at: Annotated[
        list[float] | None, typer.Option(metavar="COMPUTE", help="Read the accuracy at this compute; may be repeated.")
    ] = None,
    reach: Annotated[
        list[float] | None,
        typer.Option(metavar="ACCURACY", min=0, max=1, help="Read the compute to reach it; may be repeated."),
    ] = None,
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
        str | None, typer.Option(metavar="PROBLEM", help="Show instead how each candidate of a problem came about.")
    ] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write instead every picture with its verdict: .html.")
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
    """Show accuracy, cost and curves of runs, and write the whole report as a page for the browser.

    A run may still be going (see also: tts view). The page is report.html in the run's directory, beside them for
    several; --json and the options that show something else instead write it only where --out or --format says so.
    """
    from tts.cli.lineage import show_trees
    from tts.cli.overview import Wishes, show_overview
    from tts.cli.protocols import show_heterogeneity, show_repeats
    from tts.cli.resampling import show_resampling
    from tts.cli.verifiers import show_verifiers
    from tts.report import Comparison
    from tts.report.files import write_candidates
    from tts.runs import Run

    comparison = Comparison([Run(path) for path in runs])
    opened = comparison.runs
    files = [*(out or ()), *(comparison.place / f"report.{kind}" for kind in format_ or ())]
    if verifiers:
        show_verifiers(opened, as_json)
    elif verifier_analysis or cost_ratio or verifier_plot:
        show_resampling(opened, cost_ratio, verifier_plot, as_json)
    elif repeats:
        show_repeats(opened, as_json)
    elif heterogeneity:
        show_heterogeneity(opened, as_json)
    elif tree is not None:
        show_trees(opened, tree)
    elif contact_sheet is not None:
        _write_contact_sheet(comparison, contact_sheet)
    else:
        wishes = Wishes(at or (), reach or (), diversity, judge, base_url, diversity_plot, timeline, problem)
        show_overview(comparison, x, wishes, as_json)
        if not files and not as_json:
            _write_beside(comparison)
    for path in files:
        _write(comparison, path, x)
    if candidates:
        write_candidates(comparison, candidates)
        say(f"wrote {candidates}")


def _write(comparison: Comparison, path: Path, x: str) -> None:
    from tts.report.files import write_report

    write_report(comparison, path, x)
    say(f"wrote {path}")


def _write_beside(comparison: Comparison) -> None:
    """The page at its usual place; nothing is wrong where that is not ours to write."""
    try:
        _write(comparison, comparison.place / "report.html", "completion_tokens")
    except ConfigError as error:
        say(f"no page: {error} (name another place with --out)")


def _write_contact_sheet(comparison: Comparison, path: Path) -> None:
    from tts.studies.images import contact_sheet

    if len(comparison.runs) > 1:
        raise ConfigError("a contact sheet is of one run; name that one alone")
    path.write_text("".join(map(contact_sheet, comparison.runs.values())), encoding="utf-8")
    say(f"wrote {path}")
