"""From a run to its curves, its summary and its calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tts.curves import (
    Curve,
    CurveError,
    affordable,
    caps_over,
    mean_interval,
    powers_of_two,
    taken,
)
from tts.errors import ConfigError
from tts.runs.estimates import Estimate, GradedPool, by_problem, final_accuracies
from tts.runs.measures import run_currency, usual_measure
from tts.runs.run import Row, Run, Track, once
from tts.runs.worth import fall, outdone
from tts.types import Usage, sum_usage

Floats = NDArray[np.float64]

By = Literal["k", "budget"]
"""What grows along a curve: the number of candidates, or a cap on what each problem may cost."""

UNITS = {"seconds": "s", "flops": "FLOPs", "verifier_seconds": "s"}
"""Of the measures whose names do not tell them."""


# -- names ------------------------------------------------------------------------------------------------------------


def labelled(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by the labels that tell them apart: empty for one alone, else the directory's name, its path if need be."""
    if len(runs) == 1:
        return {"": runs[0]}
    names = [run.path.resolve().name for run in runs]
    unique = len(set(names)) == len(names)
    return {name if unique else str(run.path): run for name, run in zip(names, runs, strict=True)}


def prefixed(label: str, name: str) -> str:
    """The full name of something in the run called `label`."""
    return f"{label}/{name}" if label else name


# -- curves -----------------------------------------------------------------------------------------------------------


def curves(
    run: Run,
    x: str | None = None,
    ks: Sequence[int] | None = None,
    *,
    by: By | None = None,
    caps: Sequence[float] | None = None,
) -> list[Curve]:
    """Selected accuracy of every strategy and model against `x`, and coverage (pass@k) where samples are independent.

    `x` is a measure of `Track.cost`, by default the `usual_measure`. `by` says what grows along a curve: `k`, the
    number of candidates (`ks`, by default powers of two up to the most that any problem has), or `budget`, a cap on
    what each problem may cost (`caps`, in units of `x`, by default up to the most that any problem has cost). Left
    out, it is what `ks` or `caps` say, else `budget` where one has left some problems with fewer candidates than
    others, and `k` elsewhere.

    Intervals are 95 % intervals over problems; the seeds of a problem count as one. Raises `ConfigError` when there is
    nothing to draw or a model card lacks what `x` needs, `CurveError` when a k exceeds what was sampled.
    """
    measure = x or usual_measure(run.tracks)
    found = [curve for track in run.tracks for curve in track_curves(track, measure, ks, by=by, caps=caps)]
    if not found:
        raise ConfigError(f"{run.path} has no graded candidates yet")
    return found


def track_curves(
    track: Track,
    x: str = "completion_tokens",
    ks: Sequence[int] | None = None,
    *,
    by: By | None = None,
    caps: Sequence[float] | None = None,
) -> list[Curve]:
    """The curves of one strategy with one model; parameters as in `curves`.

    Closed forms average accuracy and compute (`Track.mean_cost`) over the same subsets of a problem's candidates,
    replays take both at the same prefix. By k, a problem that a budget, a failure or a lost sample left with fewer than
    k candidates stands at what it had reached, in accuracy and in compute (`Curve.short` counts such problems), and one
    without any candidate counts as unsolved at every k, at all that it cost. By budget, a problem stands at the most of
    its candidates that cost no more than the cap (in a closed form: on average), and is unsolved while that is none.
    Either way the mean is over all problems but those that could not be graded.
    """
    return curves_over(track, {x: track.cost(x)}, ks, by=by, caps=caps)[x]


def curves_over(
    track: Track,
    costs: Mapping[str, list[Floats]],
    ks: Sequence[int] | None = None,
    *,
    by: By | None = None,
    caps: Sequence[float] | None = None,
    only: Callable[[Row], bool] | None = None,
) -> dict[str, list[Curve]]:
    """The same curves over several measures at once, given `Track.cost` of each; accuracies are computed once.

    Over the rows for which `only` holds, by default all.
    """
    pool = GradedPool.of(track, only)
    if not len(pool.kept) or not costs:
        return {x: [] for x in costs}
    if by is None:
        by = "k" if ks is not None else "budget" if caps is not None or pool.bound else "k"
    if (by == "k" and caps is not None) or (by == "budget" and ks is not None):
        raise CurveError("a curve is over `ks` (by='k') or over `caps` (by='budget'), not over both")
    rows = pool.rows
    kept, (_, problems) = len(pool.kept), np.unique([row.problem for row in rows], return_inverse=True)
    open_ended = np.array([track.independent or row.ended not in ("complete", "settled") for row in rows[:kept]])
    most = int(pool.sizes.max())
    grid = np.array(ks) if ks is not None else powers_of_two(most)
    if grid.max() > most and open_ended.any():
        raise CurveError(f"{track.label}: no problem has {grid.max()} candidates: ask for k <= {most}")
    most = min(most, int(grid.max()))
    short = {row.problem for row, size in zip(rows, pool.sizes * open_ended, strict=False) if 0 < size < most}
    short |= {row.problem for row in rows[kept:] if row.by_budget}
    known: dict[tuple[str, bytes], tuple[Floats, str]] = {}

    def curve(x: str, estimate: Estimate) -> Curve:
        whole = track.mean_cost(x) if estimate.closed else pool.prefixes(costs[x])
        compute = [*(whole[i] for i in pool.kept), *(costs[x][i][-1:] for i in pool.empty)]
        limits = None
        if by == "budget":
            limits = caps_over(compute) if caps is None else np.array(caps, dtype=np.float64)
            at = affordable(compute, limits)
        else:
            at = np.minimum(grid, np.array([[len(part)] for part in compute]))
        asked = estimate.label, at.tobytes()
        if asked not in known:
            known[asked] = estimate.values(at[:kept])
        values, name = known[asked]
        return Curve.from_values(
            estimate.label,
            name,
            grid if limits is None else at[:kept].max(axis=0),
            by_problem(np.concatenate([values, np.zeros((len(rows) - kept, at.shape[1]))]), problems),
            x=by_problem(taken(compute, at), problems),
            x_name=x.replace("_", " "),
            x_unit=UNITS.get(x, run_currency(track) if x == "money" else ""),
            short=len(short),
            cap=limits,
        )

    return {x: [curve(x, estimate) for estimate in pool.estimates] for x in costs}


# -- summaries --------------------------------------------------------------------------------------------------------


def summary(run: Run) -> list[dict[str, Any]]:
    """One row for each strategy and model: selected accuracy and coverage with their intervals, and what it cost.

    Problems without a usable candidate count as unsolved, and as `failed`; those that could not be graded are left out
    of the accuracy, and counted as `ungraded`. `ungraded_candidates` have no grade; `unrated_candidates` have neither
    score nor decision of the verifier that they were given to: something failed that is not theirs. Where strategies
    have finished different problems or seeds, each row has its accuracy over those that all have as `shared_accuracy`.

    What a strategy cost is what it would have cost alone (`Track.cost`); `paid_` figures are what was paid for in its
    cells, which use what an earlier strategy has paid for. Those of all strategies together are the run's.
    """
    tracks = run.tracks
    shared = shared_cells(tracks)
    rows = [{**track_summary(track, shared)} for track in tracks]
    for row, worth in zip(rows, outdone(tracks, rows), strict=True):
        row["outdone"] = worth
    return rows


def shared_cells(tracks: Sequence[Track]) -> frozenset[tuple[str, int]] | None:
    """The problems and seeds that all tracks have finished; None where none has any other."""
    cells = [frozenset((row.problem, row.seed) for row in track.rows) for track in tracks]
    return frozenset.intersection(*cells) if any(part != cells[0] for part in cells) else None


@once
def track_summary(track: Track, shared: frozenset[tuple[str, int]] | None = None) -> Mapping[str, Any]:
    """The row of `summary` for one strategy and model; `shared` as `shared_cells` gives it."""
    solved, covered, problems, common, ungraded = [], [], [], [], 0
    cells = zip(track.rows, track.correct, track.whole, final_accuracies(track), strict=True)
    for row, flags, whole, right in cells:
        if np.isnan(right):
            ungraded += 1
            continue
        solved.append([right])
        covered.append([float(np.nansum(flags[whole]) > 0)])
        problems.append(row.problem)
        common.append(shared is None or (row.problem, row.seed) in shared)
    usage, wasted = track.usage(), track.wasted()
    paid = track.paid()
    means = by_problem(np.hstack([solved, covered]), problems) if solved else np.empty((0, 2))
    interval = mean_interval(means) if len(means) > 1 else None
    unknown = (None, None)
    accuracy, coverage = means.mean(axis=0).tolist() if len(means) else unknown
    low, high = (interval.low.tolist(), interval.high.tolist()) if interval else (unknown, unknown)
    return {
        "strategy": track.strategy,
        "model": track.model,
        "problems": len({row.problem for row in track.rows}),
        "accuracy": accuracy,
        "low": low[0],
        "high": high[0],
        "estimator": track.estimator if track.independent else "replay",
        "coverage": coverage,
        "coverage_low": low[1],
        "coverage_high": high[1],
        **_over_shared(np.array(solved), problems, np.array(common), shared),
        "abstained": sum(
            row.selected is None and len(flags) > 0 for row, flags in zip(track.rows, track.correct, strict=True)
        ),
        "failed": sum(not len(flags) for flags in track.correct),
        "ungraded": ungraded,
        "ungraded_candidates": int(sum(np.isnan(flags).sum() for flags in track.correct)),
        "unrated_candidates": track.unrated,
        "lost_samples": sum(len(row.failures) for row in track.rows),
        "candidates": sum(map(len, track.correct)),
        **{
            name: getattr(usage, name)
            for name in ("requests", "prompt_tokens", "completion_tokens", "verifier_seconds")
        },
        "estimated_tokens": usage.estimated_tokens,
        "wasted_requests": wasted.requests,
        "wasted_tokens": wasted.total_tokens,
        "money": _money(track, track.by_role()),
        "currency": run_currency(track),
        "paid_completion_tokens": sum_usage(paid.values()).completion_tokens,
        "paid_requests": sum_usage(paid.values()).requests,
        "paid_money": _money(track, paid),
        "oracle": track.oracle,
        "falls": fall(track),
        "settled_early": sum(row.ended == "settled" for row in track.rows),
        "budget_ended": sum(row.by_budget for row in track.rows),
        **track.lacks,
        "cut_off": int(sum(cut.sum() for cut in track.cut_off)),
        "warning": track.warning,
    }


def _over_shared(
    solved: Floats, problems: Sequence[str], common: NDArray[np.bool_], shared: frozenset[tuple[str, int]] | None
) -> dict[str, Any]:
    if shared is None:
        return {"shared_problems": None, "shared_accuracy": None, "shared_low": None, "shared_high": None}
    names = [name for name, kept in zip(problems, common, strict=True) if kept]
    means = by_problem(solved[common], names) if names else np.empty((0, 1))
    found = mean_interval(means) if len(means) > 1 else None
    return {
        "shared_problems": len({problem for problem, _ in shared}),
        "shared_accuracy": float(means.mean()) if len(means) else None,
        "shared_low": float(found.low[0]) if found else None,
        "shared_high": float(found.high[0]) if found else None,
    }


def _money(track: Track, roles: Mapping[str, Usage]) -> float | None:
    """What work costs; None where a model has no prices, or none did anything."""
    if not any(used.total_tokens for used in roles.values()):
        return None
    try:
        return sum(
            float(
                track.run.card(track.model, role).price(used.prompt_tokens, used.completion_tokens, used.cached_tokens)
            )
            for role, used in roles.items()
            if used.total_tokens
        )
    except ConfigError:
        return None
