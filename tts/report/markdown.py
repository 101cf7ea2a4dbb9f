"""The report's tables as Markdown, to be read in an editor, a commit or an issue."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

from tts.errors import ConfigError
from tts.report.labels import prefixed
from tts.report.tracks import Comparison
from tts.runs.analysis import summary
from tts.studies.resampling import Resampling, resampling_report
from tts.studies.verifiers import VerifierReport, verifier_report


def markdown(comparison: Comparison, x: str) -> str:
    """Summary, curves over the measure `x`, what verifiers are worth, and how the runs were made."""
    return "\n".join(_lines(comparison, x)) + "\n"


def _lines(comparison: Comparison, x: str) -> Iterator[str]:
    yield f"# {' and '.join(run.path.resolve().name for run in comparison.runs.values())}"
    yield "\n## Summary\n"
    columns = ("strategy", "model", "problems", "accuracy", "95 %", "coverage", "candidates", "generated tokens")
    yield from _table(
        columns,
        [
            (
                f"`{prefixed(label, row['strategy'])}`{' (oracle)' if row['oracle'] else ''}",
                row["model"],
                f"{row['problems']:,}",
                _percent(row["accuracy"]),
                _interval(row["low"], row["high"]),
                _percent(row["coverage"]),
                f"{row['candidates']:,}",
                f"{row['completion_tokens']:,.0f}",
            )
            for label, run in comparison.runs.items()
            for row in summary(run)
        ],
    )
    curves, missing = comparison.curves(x)
    if curves:
        yield f"\n## Accuracy against {curves[0].x_label}\n"
        yield from _table(
            ("curve", "estimator", "k", curves[0].x_label, "accuracy", "95 %"),
            [
                (curve.label, curve.estimator, str(k), f"{at:,.4g}", _percent(y), _interval(low, high))
                for curve in curves
                for k, at, y, low, high in zip(curve.k, curve.x, curve.y, curve.low, curve.high, strict=True)
            ],
        )
    yield from (f"\nNo curve of {words}" for words in missing)
    yield from _verifiers(comparison)
    yield "\n## How it was made\n"
    for run in comparison.runs.values():
        record = run.record
        versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
        yield f"- {run.path}: `{shlex.join(record.get('command', ()))}`"
        yield f"  ({versions}; seeds {', '.join(map(str, record['config'].get('seeds', ())))})"


def _verifiers(comparison: Comparison) -> Iterator[str]:
    for title, analyse in (("Verifiers", verifier_report), ("Whether more samples pay", resampling_report)):
        found = []
        for label, run in comparison.runs.items():
            try:
                found += [(_named(one, prefixed(label, one.track)), one) for one in analyse(run)]
            except ConfigError:  # no verifier, or none of the kind
                continue
        if found:
            yield f"\n## {title}\n"
        for name, one in found:
            yield f"- {name}"
            yield from (f"  - {finding}" for finding in one.findings)


def _named(report: VerifierReport | Resampling, track: str) -> str:
    return f"`{report.verifier}`, {track}" if isinstance(report, VerifierReport) else track


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        cells = (cell.replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(cells)} |"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None else f"{_percent(low)} to {_percent(high)}"
