"""When every call was made: the schedule as a figure, how busy servers were, how long samples waited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tts.curves import CurveError
from tts.curves.plot import COLOURS, drawing
from tts.errors import ConfigError
from tts.runs import Run
from tts.runs.timed_calls import TimedCall, calls
from tts.studies import FigureFile, Study, StudyFindings, Table, labelled_tracks, write_figure
from tts.tables import number, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAITING = "#d9d9d9"


class Timeline(Study):
    """When calls were made: how busy they kept the servers, and how long samples waited."""

    plot: FigureFile = None
    """Draw every call for one problem into this file (.svg, .png, .pdf)."""
    problem: str | None = None
    """The problem to draw. Default: the first of each run."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        drawn, tables, data = {}, [], {}
        for label, track in labelled_tracks(runs):
            problem = self.problem or track.rows[0].problem
            drawn[label] = calls(track, problem)
            if not drawn[label]:
                raise ConfigError(f"{track.run.path} has no calls for the problem '{problem}'")
            every = calls(track)
            data[label] = utilisation(every)
            tables.append(_table(label, data[label], *waiting(every)))
        if self.plot is not None:
            write_figure(draw_timeline(drawn), self.plot)
        return StudyFindings(data, tables, [self.plot] if self.plot else [])


def _table(label: str, rows: Sequence[Mapping[str, Any]], waited: float, share: float) -> Table:
    columns = ("calls", "seconds", "busy", "in flight", "peak", "prompt tokens", "generated")
    made = Table(f"Calls of {label}", ("kind",), columns)
    for row in rows:
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
    made.notes.append(f"samples waited {percent(share)} of their time, {number(waited)} s in all")
    return made


def in_flight(calls: Sequence[TimedCall]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The times at which the number of calls in flight changes, and the number from each of them on."""
    edges = sorted([(call.start, 1) for call in calls] + [(call.end, -1) for call in calls])
    times, steps = np.array(edges, dtype=np.float64).reshape(-1, 2).T
    return times, np.cumsum(steps).astype(np.int64)


def utilisation(calls: Sequence[TimedCall]) -> list[dict[str, Any]]:
    """For each kind of call: how many, their seconds, and how well they used the server behind them.

    `elapsed` is the time in seconds from the first call to the end of the last, `busy` the share of it with at least
    one in flight, `mean in flight` the mean over it.
    """
    rows = []
    for kind in dict.fromkeys(call.kind for call in calls):
        mine = [call for call in calls if call.kind == kind]
        times, counts = in_flight(mine)
        elapsed = float(times[-1] - times[0])
        spans = np.diff(times)
        rows.append(
            {
                "kind": kind,
                "calls": len(mine),
                "seconds": sum(call.end - call.start for call in mine),
                "elapsed": elapsed,
                "busy": float(spans[counts[:-1] > 0].sum() / elapsed) if elapsed else 1.0,
                "mean in flight": float((spans * counts[:-1]).sum() / elapsed) if elapsed else 1.0,
                "peak in flight": int(counts.max()),
                "prompt_tokens": sum(call.prompt_tokens for call in mine),
                "completion_tokens": sum(call.completion_tokens for call in mine),
            }
        )
    return rows


def waiting(calls: Sequence[TimedCall]) -> tuple[float, float]:
    """Seconds in which samples had no call in flight between their first and their last, and the share of that time."""
    lanes = _lanes([call for call in calls if call.lane is not None]).values()
    present = sum(max(call.end for call in lane) - lane[0].start for lane in lanes)
    idle = present - sum(_covered(lane) for lane in lanes)
    return idle, idle / present if present else 0.0


def _covered(calls: Sequence[TimedCall]) -> float:
    """Seconds with at least one of `calls` in flight."""
    times, counts = in_flight(calls)
    return float(np.diff(times)[counts[:-1] > 0].sum())


def draw_timeline(schedules: Mapping[str, Sequence[TimedCall]]) -> Figure:
    """The schedules, one above the other on one scale of time.

    A row is a sample: coloured while it is being written or scored, grey while it waits. Raises `CurveError` without
    any call, `MissingExtra` without the extra `plot`.
    """
    schedules = {name: calls for name, calls in schedules.items() if calls}
    if not schedules:
        raise CurveError("there are no calls to draw")
    kinds = sorted({call.kind for calls in schedules.values() for call in calls})
    colours = dict(zip(kinds, COLOURS * (1 + len(kinds) // len(COLOURS)), strict=False))
    heights = [max(2, len(_lanes(calls))) for calls in schedules.values()]
    with drawing("timelines") as figures:
        from matplotlib.patches import Patch

        figure = figures(figsize=(7.2, 0.9 + sum(0.5 + 0.13 * height for height in heights)), layout="constrained")
        panels = figure.subplots(len(schedules), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (name, calls) in zip(panels, schedules.items(), strict=True):
            start = min(call.start for call in calls)
            for row, lane in enumerate(_lanes(calls).values()):
                first, last = lane[0].start, max(call.end for call in lane)
                axes.broken_barh([(first - start, last - first)], (row - 0.1, 0.2), color=WAITING, linewidth=0)
                for call in lane:
                    span = (call.start - start, call.end - call.start)
                    axes.broken_barh([span], (row - 0.4, 0.8), color=colours[call.kind], linewidth=0)
            axes.set_title(name, loc="left", fontsize=9)
            axes.set_ylabel("sample")
            axes.set_yticks([])
            axes.invert_yaxis()
        panels[-1].set_xlabel("seconds")
        marks = [Patch(color=colours[kind], label=kind) for kind in kinds]
        marks.append(Patch(color=WAITING, label="waiting"))
        figure.legend(handles=marks, frameon=False, fontsize=8, ncols=len(marks), loc="outside upper right")
    return figure


def _lanes(calls: Sequence[TimedCall]) -> dict[int, list[TimedCall]]:
    """Calls by sample; those that led to no candidate share as few further lanes as they fit into."""
    lanes: dict[int, list[TimedCall]] = {}
    for call in calls:
        if call.lane is not None:
            lanes.setdefault(call.lane, []).append(call)
    lanes, free = dict(sorted(lanes.items())), max(lanes, default=-1) + 1
    loose: list[list[TimedCall]] = []
    for call in calls:
        if call.lane is None:
            lane = next((lane for lane in loose if lane[-1].end <= call.start), None)
            if lane is None:
                loose.append(lane := [])
            lane.append(call)
    return lanes | {free + i: lane for i, lane in enumerate(loose)}
