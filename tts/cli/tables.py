"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tts.cli.common import console, table
from tts.curves import Curve

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


def percent(value: float | None) -> str:
    """A share as text."""
    return "?" if value is None else f"{value:.1%}"


def number(value: float) -> str:
    """A compute figure as text: whole where it is large, else four digits."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
