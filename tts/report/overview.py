"""All that a report shows but the problems' details, as plain data."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tts import registry
from tts.curves import Curve, CurveError
from tts.errors import ConfigError, TTSError
from tts.lacks import lacking
from tts.report.tracks import MEASURES, RunComparison, Shown
from tts.runs import Run
from tts.runs.analysis import UNITS, prefixed, shared_cells, track_summary
from tts.runs.coverage import coverage_laws
from tts.runs.measures import run_currency
from tts.runs.run import Track
from tts.studies import TrackReport
from tts.studies.imperfect_verifier import resampling_report, rivalries
from tts.studies.repeats import heterogeneity_report
from tts.studies.verifiers import verifier_report
from tts.tables import plain, uneven


def overview(comparison: RunComparison) -> dict[str, Any]:
    """Everything about the runs except their candidates."""
    tracks, runs = comparison.tracks, comparison.runs
    measures = [name for name in MEASURES if any(shown.curves.get(name) for shown in tracks)]
    drawn = {x: [_curve(i, one, c) for i, one in enumerate(tracks) for c in one.curves.get(x, ())] for x in measures}
    shared = shared_cells([shown.track for shown in tracks])
    return {
        "title": " and ".join(run.path.resolve().name for run in runs.values()),
        "made": {"by": f"ttscale {version('ttscale')}", "at": datetime.now(UTC).isoformat(timespec="seconds")},
        "runs": [_run(label, run) for label, run in runs.items()],
        "tracks": [_track(shown, shared) for shown in tracks],
        "contests": [contest.as_dict() for contest in comparison.contests],
        "measures": [_measure(name, tracks) for name in measures],
        "measure": comparison.measure,
        "curves": drawn,
        "panels": [
            {
                "task": task,
                "tracks": [i for i, shown in enumerate(tracks) if shown.task == task],
                "frontier": frontier
                and {
                    "problems": frontier.problems,
                    "curves": {
                        x: [_curve(i, tracks[i], c) for i, one in frontier.curves.items() for c in one.get(x, ())]
                        for x in measures
                    },
                },
            }
            for task, frontier in comparison.frontiers.items()
        ],
        "filtered": [
            {"track": curve.label, **{name: getattr(curve, name).tolist() for name in ("k", "x", "y", "low", "high")}}
            for curve in comparison.filtered
        ],
        "without_curves": [f"{shown.label}: {shown.why_no_curves}" for shown in tracks if shown.why_no_curves],
        "uneven": [
            f"{shown.label}: {words}"
            for shown in tracks
            for words in dict.fromkeys(filter(None, map(uneven, shown.curves.get("completion_tokens", ()))))
        ],
        "lacks": [f"{shown.label}: of its answers {words}" for shown in tracks for words in lacking(shown.track.lacks)],
        "laws": coverage_laws({shown.label: shown.track for shown in tracks}),
        "problems": [name for name, _ in comparison.problems],
        "grid": [_grid(comparison, shown) for shown in tracks],
        "verifiers": _reports(comparison, verifier_report),
        "resampling": _reports(comparison, resampling_report),
        "rivalries": [
            {**one.as_dict(), "weak": prefixed(label, one.weak), "strong": prefixed(label, one.strong)}
            for label, run in runs.items()
            for one in rivalries(run)
        ],
        "heterogeneity": [{"track": one["track"], **one["summary"]} for one in _reports(comparison, _heterogeneity)],
        "studies": list(_studies(shlex.join(str(run.path) for run in runs.values()))),
    }


def _heterogeneity(run: Run) -> list[TrackReport]:
    return [replace(one, problems={}) for one in heterogeneity_report(run)]


def _studies(paths: str) -> Iterator[dict[str, str]]:
    """What else can be asked of the runs: the name and the first line of each study, and the command that answers."""
    for name in registry.names("studies"):
        with suppress(TTSError):  # a package that is not installed
            question = inspect.cleandoc(registry.load("studies", name).__doc__ or "").partition("\n")[0]
            yield {"name": name, "question": question.replace("`", ""), "command": f"tts report {paths} --study {name}"}


def progress(run: Run) -> dict[str, int]:
    """How many cells of the grid are finished, and how many are expected: all finished ones, where the grid was cut."""
    config = run.record["config"]
    parts = ("strategies", "models", "seeds")
    expected = len(run.record.get("problems", ())) * int(np.prod([len(config.get(part) or [0]) for part in parts]))
    (done,) = run.db.execute("SELECT COUNT(*) FROM cells").fetchone()
    return {"done": done, "expected": max(done, expected)}


def _run(label: str, run: Run) -> dict[str, Any]:
    record = run.record
    shown = {name: record.get(name) for name in ("config", "command", "versions", "started")}
    return {"label": label, "path": str(run.path), **shown, "progress": progress(run)}


def _track(shown: Shown, shared: frozenset[tuple[str, int]] | None) -> dict[str, Any]:
    track = shown.track
    return plain(
        {
            "label": shown.label,
            "run": shown.run,
            **track_summary(track, shared),
            "roles": {role: usage.as_dict() for role, usage in track.by_role().items()},
            "wasted": track.wasted().as_dict(),
            "seconds": sum(row.seconds for row in track.rows),
        }
    )


def _measure(name: str, tracks: list[Shown]) -> dict[str, str]:
    unit = UNITS.get(name, run_currency(tracks[0].track) if name == "money" else "")
    return {"name": name, "label": name.replace("_", " "), "unit": unit}


def _curve(place: int, shown: Shown, curve: Curve) -> dict[str, Any]:
    track = shown.track
    return {
        "track": place,
        "kind": "coverage" if curve.label == f"{track.label} coverage" else "selected",
        "estimator": curve.estimator,
        "problems": curve.problems,
        "k": curve.k.tolist(),
        "cap": None if curve.cap is None else curve.cap.tolist(),
        **{name: [float(f"{value:.6g}") for value in getattr(curve, name)] for name in ("x", "y", "low", "high")},
    }


def _grid(comparison: RunComparison, shown: Shown) -> dict[str, list[Any]]:
    """A track's results on each problem, all seeds together; None where there are none yet."""
    track, places = shown.track, comparison.places
    tokens = shown.costs.get("completion_tokens", ())
    found: dict[str, list[Any]] = {
        name: [None] * len(places) for name in ("outcomes", "solved", "tokens", "seconds", "failures")
    }

    def add(name: str, place: int, value: Any) -> None:
        before = found[name][place]
        found[name][place] = value if before is None else before + value

    letters = track.split(_letters(track))
    for row, right, outcomes, cost in zip(track.rows, track.correct, letters, tokens, strict=True):
        place = places[comparison.key(shown, row)]
        add("outcomes", place, "".join(outcomes.tolist()))
        if row.selected is None or not np.isnan(right[row.selected]):
            add("solved", place, [0 if row.selected is None else int(right[row.selected])])
        add("tokens", place, round(float(cost[-1])) if len(cost) else 0)
        add("seconds", place, round(row.seconds, 2))
        add("failures", place, len(row.failures))
    return found


_LETTERS = np.array([["f", "t"], ["w", "r"], ["W", "R"]])


def _letters(track: Track) -> NDArray[np.str_]:
    """One letter for each candidate: R or W (right or wrong) where the verifier accepted it, r or w where it refused
    it, t or f (true or false) where it did not decide, u where the truth is unknown."""
    right, (_, said) = np.concatenate(track.correct), track.verdicts
    known = ~np.isnan(right)
    decision = np.where(np.isnan(said), 0, 1 + (said > 0))
    return np.where(known, _LETTERS[decision, (known & (right > 0)).astype(int)], "u")


def _reports(comparison: RunComparison, analyse: Callable[[Run], Sequence[TrackReport]]) -> list[dict[str, Any]]:
    """An analysis of each run under the report's labels, without the runs that it does not apply to."""
    found = []
    for label, run in comparison.runs.items():
        try:
            found += [{**one.as_dict(), "track": prefixed(label, one.track)} for one in analyse(run)]
        except (ConfigError, CurveError):
            continue
    return found
