"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tts.cli.common import console, table
from tts.curves import Curve
from tts.studies.timeline import Call, utilisation, waiting

if TYPE_CHECKING:
    from tts.studies.verifiers import VerifierReport

Rows = Sequence[Mapping[str, Any]]


def summary_table(runs: Mapping[str, Rows]) -> None:
    """Print the summary of each run; the label of a run, if any, stands before its strategies."""
    columns = ("problems", "accuracy", "95 %", "coverage", "candidates", "generated", "requests", "money", "lost")
    made = table("", ("strategy", "model"), columns)
    notes = set()
    for label, rows in runs.items():
        for row in rows:
            mark = " (oracle)" if row["oracle"] else ""
            made.add_row(
                (f"{label}/" if label else "") + row["strategy"] + mark,
                row["model"],
                f"{row['problems']:,}",
                percent(row["accuracy"]),
                f"{percent(row['low'])} to {percent(row['high'])}" if row["low"] is not None else "",
                percent(row["coverage"]),
                f"{row['candidates']:,}",
                f"{row['completion_tokens']:,.0f}",
                f"{row['requests']:,.0f}",
                "" if row["money"] is None else f"{row['money']:.4g}",
                f"{row['lost_samples']:,}" if row["lost_samples"] else "",
            )
            notes |= {words for key, words in NOTES.items() if row[key]}
            notes |= {f"{row[key]:,} {words}" for key, words in COUNTED.items() if row[key]}
    console().print(made)
    for note in sorted(notes):
        console().print(f"  {note}", highlight=False)


NOTES = {"oracle": "(oracle): the hidden truth was used to find or select the answer"}
COUNTED = {
    "failed": "problems without a usable candidate count as not solved",
    "abstained": "problems without a selected answer count as not solved",
    "ungraded": "problems could not be graded and are left out of the accuracy",
    "settled_early": "searches ended early, when their selection was settled",
    "estimated_tokens": "tokens are estimates: the server did not count them",
}


def timeline_table(name: str, calls: Sequence[Call]) -> None:
    """Print how busy each kind of call kept its server, and how long samples waited."""
    columns = ("calls", "seconds", "busy", "in flight", "peak", "prompt tokens", "generated")
    made = table(f"Calls of {name}", ("kind",), columns)
    for row in utilisation(calls):
        made.add_row(
            row["kind"],
            f"{row['calls']:,}",
            number(row["seconds"]),
            percent(row["busy"]),
            f"{row['mean in flight']:.1f}",
            f"{row['peak in flight']:,}",
            f"{row['prompt_tokens']:,.0f}",
            f"{row['completion_tokens']:,.0f}",
        )
    console().print(made)
    seconds, share = waiting(calls)
    console().print(f"  samples waited {percent(share)} of their time, {number(seconds)} s in all", highlight=False)


def curve_table(curves: Sequence[Curve]) -> None:
    """Print the points of curves over the same x axis."""
    made = table("Accuracy against compute", ("curve", "estimator"), ("k", curves[0].x_label, "accuracy", "95 %"))
    for curve in curves:
        points = zip(curve.k, curve.x, curve.y, curve.low, curve.high, strict=True)
        for i, (k, x, y, low, high) in enumerate(points):
            names = (curve.label, curve.estimator) if i == 0 else ("", "")
            made.add_row(*names, str(k), number(x), percent(y), f"{percent(low)} to {percent(high)}")
    console().print(made)


def readout_table(title: str, rows: Rows, column: str, show: Any) -> None:
    """Print read-outs: the value of each curve, or why there is none."""
    made = table(title, ("curve", "estimator"), (column,))
    for row in rows:
        made.add_row(row["curve"], row["estimator"], row["why_not"] if row["value"] is None else show(row["value"]))
    console().print(made)


def law_table(laws: Rows) -> None:
    """Print the fits of the coverage law."""
    made = table("Coverage law c = exp(a k^b)", ("curve",), ("a", "b", "r²"))
    for law in laws:
        made.add_row(law["curve"], f"{law['a']:.4g}", f"{law['b']:.4g}", f"{law['r_squared']:.3f}")
    console().print(made)


def verifier_tables(reports: Sequence[tuple[str, VerifierReport]]) -> None:
    """Print how good verifiers are: their rates, their accuracy in selecting, and what that comes to in words."""
    columns = ("rated", "right", "completeness", "soundness", "false discovery", "AUROC", "within", "rank corr.", "ECE")
    columns += ("tokens", "CPU s")
    rates = table("Verifiers against the truth", ("verifier", "strategy"), columns)
    choice = table("Accuracy of selecting 1 of N, 95 % intervals", ("verifier",), ("N", "by it", "random", "majority"))
    for label, report in reports:
        made, error = report.decisions, report.calibration.error if report.calibration else None
        rates.add_row(
            report.verifier,
            label,
            f"{report.rated:,}",
            percent(report.right),
            *(percent(rate) for rate in (made.completeness, made.soundness, made.false_discovery)),
            *(_decimal(value) for value in (report.auroc, report.auroc_within, report.rank_correlation, error)),
            *((number(report.cost.total_tokens), number(report.cost.verifier_seconds)) if report.cost else ("", "")),
        )
        selection = report.selection
        for i, n in enumerate(selection.n if selection else ()):
            assert selection is not None
            by_it, random, majority = (
                f"{percent(of.mean[i])} ({percent(of.low[i])} to {percent(of.high[i])})" if of else "?"
                for of in (selection.verifier, selection.random, selection.majority)
            )
            choice.add_row(report.verifier if i == 0 else "", str(n), by_it, random, majority)
    console().print(rates)
    if choice.row_count:
        console().print(choice)
    for label, report in reports:
        console().print(f"{report.verifier} ({label}):", highlight=False)
        for finding in report.findings:
            console().print(f"  {finding}", highlight=False)
        _reliability_table(report)


def _reliability_table(report: VerifierReport) -> None:
    found = report.calibration
    if found is None or len(found.low) <= 2:
        return
    made = table("Reliability", ("score from",), ("candidates", "mean score", "right"))
    for low, count, score, right in zip(found.low, found.count, found.score, found.right, strict=True):
        made.add_row(f"{low:.1f}", f"{count:,}", f"{score:.3f}", percent(right))
    console().print(made)


def _decimal(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share as text."""
    return "?" if value is None else f"{value:.1%}"


def number(value: float) -> str:
    """A compute figure as text: whole where it is large, else four digits."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
