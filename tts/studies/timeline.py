"""When every call was made: a picture of the schedule, and where the time went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tts.curves import CurveError
from tts.curves.plot import COLOURS, STYLE, save_figure
from tts.errors import MissingExtra
from tts.types import Charge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAITING = "#d9d9d9"


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a model or a verifier, in seconds of Unix time."""

    lane: int | None
    """The sample that it was made for; None where that never became a candidate."""
    kind: str
    """Its role; `target scoring` for one that scored given text."""
    start: float
    end: float
    prompt_tokens: float = 0
    completion_tokens: float = 0


def calls_of(charges: Iterable[tuple[int | None, Charge]]) -> list[Call]:
    """The calls behind charges with their lanes, in order of time.

    A completion is charged apart from the prompt that it may share with others, a score together with its prompt.
    """
    charges = list(charges)
    prompts = {
        (charge.role, charge.started): charge.usage.prompt_tokens for _, charge in charges if not charge.usage.seconds
    }
    calls = []
    for lane, charge in charges:
        usage = charge.usage
        if not usage.seconds:
            continue
        kind = f"{charge.role} scoring" if usage.requests else charge.role
        prompt = usage.prompt_tokens or prompts.get((charge.role, charge.started), 0)
        end = charge.started + usage.seconds
        calls.append(Call(lane, kind, charge.started, end, prompt, usage.completion_tokens))
    return sorted(calls, key=lambda call: call.start)


def in_flight(calls: Sequence[Call]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Times at which the number of calls in flight changes, and the number from each of them on."""
    edges = sorted([(call.start, 1) for call in calls] + [(call.end, -1) for call in calls])
    times, steps = np.array(edges, dtype=np.float64).reshape(-1, 2).T
    return times, np.cumsum(steps).astype(np.int64)


def utilisation(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """For each kind of call: how many, their seconds, and how well the server behind them was used.

    `busy` is the share of the time between its first call and its last in which at least one was in flight,
    `mean in flight` the mean over the same time, `elapsed` that time in seconds.
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


def waiting(calls: Sequence[Call]) -> tuple[float, float]:
    """Seconds between their first call and their last in which samples had none in flight, and their share."""
    lanes = _lanes([call for call in calls if call.lane is not None]).values()
    present = sum(max(call.end for call in lane) - lane[0].start for lane in lanes)
    idle = present - sum(_covered(lane) for lane in lanes)
    return idle, idle / present if present else 0.0


def _covered(calls: Sequence[Call]) -> float:
    """Seconds in which at least one of `calls` was in flight."""
    times, counts = in_flight(calls)
    return float(np.diff(times)[counts[:-1] > 0].sum())


def plot_timeline(schedules: Mapping[str, Sequence[Call]], path: str | Path) -> None:
    """Write the schedules, one above the other on one scale of time; the suffix of `path` names the format.

    A row is a sample: coloured while it is written or scored, grey while it waits.

    Raises `CurveError` for no calls or an unknown format, `MissingExtra` without the extra `plot`.
    """
    save_figure(draw_timeline(schedules), path)


def draw_timeline(schedules: Mapping[str, Sequence[Call]]) -> Figure:
    """The figure of `plot_timeline`."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise MissingExtra("plot", "drawing timelines") from error
    schedules = {name: calls for name, calls in schedules.items() if calls}
    if not schedules:
        raise CurveError("there are no calls to draw")
    kinds = sorted({call.kind for calls in schedules.values() for call in calls})
    colours = dict(zip(kinds, COLOURS * (1 + len(kinds) // len(COLOURS)), strict=False))
    heights = [max(2, len(_lanes(calls))) for calls in schedules.values()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.9 + sum(0.5 + 0.13 * height for height in heights)), layout="constrained")
        panels = figure.subplots(len(schedules), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (name, calls) in zip(panels, schedules.items(), strict=True):
            begin = min(call.start for call in calls)
            for row, lane in enumerate(_lanes(calls).values()):
                first, last = lane[0].start, max(call.end for call in lane)
                axes.broken_barh([(first - begin, last - first)], (row - 0.1, 0.2), color=WAITING, linewidth=0)
                for call in lane:
                    span = (call.start - begin, call.end - call.start)
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


def _lanes(calls: Sequence[Call]) -> dict[int, list[Call]]:
    """Calls by sample; those of no candidate fill lanes of their own, as few as they need."""
    lanes: dict[int, list[Call]] = {}
    for call in calls:
        if call.lane is not None:
            lanes.setdefault(call.lane, []).append(call)
    lanes, free = dict(sorted(lanes.items())), max(lanes, default=-1) + 1
    loose: list[list[Call]] = []
    for call in calls:
        if call.lane is None:
            lane = next((lane for lane in loose if lane[-1].end <= call.start), None)
            if lane is None:
                loose.append(lane := [])
            lane.append(call)
    return lanes | {free + i: lane for i, lane in enumerate(loose)}
