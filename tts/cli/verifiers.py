"""`tts report --verifiers`: how good the verifiers of runs are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tts.cli.common import show_json

if TYPE_CHECKING:
    from tts.runs import Run


def show_verifiers(runs: Mapping[str, Run], as_json: bool) -> None:
    """Print the report on each run's verifiers."""
    from tts.cli import tables
    from tts.report.labels import prefixed
    from tts.studies.verifiers import verifier_report

    reports = {label: verifier_report(run) for label, run in runs.items()}
    if as_json:
        rows = [{"run": str(runs[label].path), **one.as_dict()} for label, found in reports.items() for one in found]
        return show_json({"verifiers": rows})
    tables.verifier_tables([(prefixed(label, one.track), one) for label, found in reports.items() for one in found])
