"""`tts report --repeats` and `--heterogeneity`: how reliable models are, and whether a verifier would find more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tts.cli.common import console, show_json, table
from tts.cli.tables import number, percent

if TYPE_CHECKING:
    from tts.runs import Run


def show_repeats(runs: Mapping[str, Run], as_json: bool) -> None:
    """Print the parallel protocol of each run, and the gap between their models."""
    from tts.studies.repeats import gap, parallel_report

    reports = {label: parallel_report(run) for label, run in runs.items()}
    between = gap([one for found in reports.values() for one in found])
    if as_json:
        rows = [{"run": str(runs[label].path), **one.as_dict()} for label, found in reports.items() for one in found]
        return show_json({"repeats": rows, "conventional_to_reasoning_gap": between})
    columns = ("N", "average", "± over attempts", "worst of N", "majority", "best of N (perfect verifier)")
    accuracy = table("N attempts at each problem", ("strategy",), columns)
    spent = ("tokens", "± at a problem", "all right", "mixed", "all wrong")
    cost = table("Tokens of an attempt, and how they vary at the same problem", ("strategy",), spent)
    for label, found in reports.items():
        for one in found:
            name, said, tokens = f"{label}/{one.track}" if label else one.track, one.repeats, one.tokens
            shares = (said.average, said.deviation, said.worst, said.majority, said.best)
            accuracy.add_row(name, str(said.n), *map(percent, shares))
            spread = (tokens.mean, tokens.deviation, tokens.all_right, tokens.mixed, tokens.all_wrong)
            cost.add_row(name, *("" if value is None else number(value) for value in spread))
    console().print(accuracy)
    console().print(cost)
    if between is not None:
        words = "best average less the lowest best of N, a perfect verifier's"
        console().print(f"conventional-to-reasoning gap: {between:+.1%} ({words})", highlight=False)


def show_heterogeneity(runs: Mapping[str, Run], as_json: bool) -> None:
    """Print how heterogeneous attempts are, and what that recommends."""
    from tts.studies.repeats import heterogeneity_report

    reports = {label: heterogeneity_report(run) for label, run in runs.items()}
    if as_json:
        rows = [{"run": str(runs[label].path), **one.as_dict()} for label, found in reports.items() for one in found]
        return show_json({"heterogeneity": rows})
    columns = ("problems", "mean", "spread", "stand out", "for a verifier", "for a majority", "hopeless", "in all")
    made = table("Heterogeneity of attempts", ("strategy",), columns)
    for label, found in reports.items():
        for one in found:
            all_of, shares = one.summary, one.summary.shares
            made.add_row(
                f"{label}/{one.track}" if label else one.track,
                f"{all_of.prompts:,}",
                percent(all_of.mean),
                f"{all_of.spread:.3f}",
                percent(all_of.anticoncentration),
                *(percent(shares[name]) for name in ("verifier", "majority", "neither")),
                all_of.advice,
            )
    console().print(made)
