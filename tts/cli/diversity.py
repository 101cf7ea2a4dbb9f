"""`tts report --diversity`: how different the candidates of each strategy are, and what that has to do with gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tts.cli.common import checked, console, finish, place, say, table
from tts.cli.tables import number, percent

if TYPE_CHECKING:
    from tts.runs import Run
    from tts.runs.run import Track

COLUMNS = ("programs", "behaviours", "structure", "ideas")


def diversities(runs: Mapping[str, Run], judge: str | None, base_url: str | None) -> list[dict[str, Any]]:
    """A row for each strategy and model of the runs, gains at one k; with the name of a judge, ideas are judged."""
    from tts.studies.diversity import diversity, largest_k

    tracks = [(label, run, track) for label, run in runs.items() for track in run.tracks]
    k = min((most for _, _, track in tracks if (most := largest_k(track)) > 1), default=None)
    return [
        {"run": str(run.path), "label": f"{label}/{track.label}" if label else track.label}
        | diversity(track, _ideas(track, judge, base_url) if judge else None, k)
        for label, run, track in tracks
    ]


def _ideas(track: Track, judge: str, base_url: str | None) -> Mapping[int, float]:
    from tts.sampler import Endpoint
    from tts.studies.ideas import judged_ideas

    judged = finish(judged_ideas(track, checked(Endpoint, model=judge, **place(base_url))))
    say(
        f"{judge} judged {track.label}: {judged.usage.requests:,.0f} requests, {judged.usage.total_tokens:,.0f} tokens"
        + (f", {judged.unanswered:,} without a usable answer (their pairs are left out)" if judged.unanswered else "")
    )
    return judged.diversity


def show_diversities(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print them."""
    shown = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    made = table("Diversity of candidates", ("strategy",), ("problems", *shown, "gain", "k"))
    for row in rows:
        values = (_with_interval(row, name) for name in shown)
        gain = "" if row["gain"] is None else percent(row["gain"])
        made.add_row(row["label"], f"{row['problems']:,}", *values, gain, "" if row["k"] is None else str(row["k"]))
    console().print(made)
    console().print(
        "  programs, behaviours, ideas: the probability that two candidates differ; structure: their mean distance;\n"
        "  gain: of pass@k over pass@1, at the largest k that all have",
        highlight=False,
    )


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    if row.get(name) is None:
        return ""
    interval = row.get(f"{name}_interval")
    return number(row[name]) + (f" ({number(interval[0])} to {number(interval[1])})" if interval else "")


def plot_diversities(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the figure of gain against diversity: of ideas where all are judged, else of programs."""
    from tts.curves import writing
    from tts.studies.diversity_plot import GainPoint, plot_gain

    drawn = [row for row in rows if row["gain"] is not None]
    measure = "ideas" if drawn and all(row.get("ideas") is not None for row in drawn) else "programs"
    points = [GainPoint(row["label"], row[measure], row["gain"]) for row in drawn if row[measure] is not None]
    with writing(path):
        plot_gain(points, path, x_label=f"diversity of {measure}", k=drawn[0]["k"] if drawn else 1)
    say(f"wrote {path}")
