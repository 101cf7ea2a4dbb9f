"""From a run to its curves, its summary and its calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tts.curves import (
    Curve,
    CurveError,
    best_of_k,
    bootstrap,
    fit_coverage_law,
    majority_at_k,
    pass_at_k,
    powers_of_two,
    replay,
)
from tts.errors import ConfigError
from tts.runs.run import Run, Track
from tts.types import USAGE_FIELDS, Charge, Usage, sum_usage

Floats = NDArray[np.float64]

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


def curves(run: Run, x: str = "completion_tokens", ks: Sequence[int] | None = None) -> list[Curve]:
    """Selected accuracy of every strategy and model against `x`, and coverage (pass@k) where samples are independent.

    `x` is a measure of `Track.cost`; `ks` are the numbers of candidates, by default powers of two up to what every
    problem has. Intervals are 95 % bootstrap intervals over problems; the seeds of a problem count as one. Raises
    `ConfigError` when there is nothing to draw or a model card lacks what `x` needs, `CurveError` when a k exceeds
    what was sampled.
    """
    found = [curve for track in run.tracks for curve in track_curves(track, x, ks)]
    if not found:
        raise ConfigError(f"{run.path} has no graded candidates yet")
    return found


def track_curves(track: Track, x: str = "completion_tokens", ks: Sequence[int] | None = None) -> list[Curve]:
    """The curves of one strategy with one model.

    A problem without any candidate counts as unsolved at every k, at all that it cost; one that could not be graded is
    left out.
    """
    return curves_over(track, {x: track.cost(x)}, ks)[x]


def curves_over(
    track: Track, costs: Mapping[str, list[Floats]], ks: Sequence[int] | None = None
) -> dict[str, list[Curve]]:
    """The same curves over several measures at once, given `Track.cost` of each; accuracies are computed once."""
    correct = track.correct
    kept = [i for i, flags in enumerate(correct) if len(flags) and not np.isnan(flags).any()]
    if not kept or not costs:
        return {x: [] for x in costs}
    sizes = np.array([len(correct[i]) for i in kept])
    independent = track.independent
    limit = int(sizes.min() if independent else sizes.max())
    grid = np.array(ks) if ks is not None else powers_of_two(limit)
    problems = [track.rows[i].problem for i in kept]
    flags = [correct[i] for i in kept]
    empty = [i for i, part in enumerate(correct) if not len(part)]

    def over_problems(values: Floats, of_empty: Sequence[float]) -> Floats:
        rest = np.repeat(np.array(of_empty, dtype=np.float64)[:, np.newaxis], len(grid), axis=1)
        return by_problem(np.concatenate([values, rest]), problems + [track.rows[i].problem for i in empty])

    def curve(estimator: str, values: Floats, label: str = track.label) -> Curve:
        return Curve.from_values(label, estimator, grid, over_problems(values, [0.0] * len(empty)))

    found = []
    if not independent or track.estimator == "replay":
        chosen = [selections(track, i, grid) for i in kept]
        ended = np.array([track.rows[i].ended in ("complete", "settled") for i in kept])
        drawn, finished = [np.arange(size) for size in sizes], ended | (sizes >= grid.max())
        found = [curve("replay", replay(drawn, chosen, grid, finished=finished)[0])]
        if track.method.exhaustive:
            covered = [np.maximum.accumulate(part) for part in flags]
            values, _ = replay(drawn, covered, grid, finished=finished)
            found.append(curve("replay", values, f"{track.label} coverage"))
    if independent:
        if track.estimator == "best_of_k":
            ranks = track.ranks
            found.append(curve("best-of-k", best_of_k([ranks[i] for i in kept], flags, grid)))
        elif track.estimator == "majority":
            answers = track.answers
            vote = majority_at_k([answers[i] for i in kept], flags, grid)
            found.append(curve(vote.method, vote.values))
        coverage = pass_at_k(sizes, np.array([part.sum() for part in flags]), grid)
        found.append(curve("pass@k", coverage, f"{track.label} coverage"))

    def axis(x: str) -> dict[str, Any]:
        at = np.minimum(grid, sizes[:, np.newaxis]) - 1
        spent = np.array([costs[x][i][places] for i, places in zip(kept, at, strict=True)])
        compute = over_problems(spent, [costs[x][i][-1] for i in empty])
        unit = UNITS.get(x, run_currency(track) if x == "money" else "")
        return {"x": compute.mean(axis=0), "x_name": x.replace("_", " "), "x_unit": unit}

    return {x: [replace(curve, **axis(x)) for curve in found] for x in costs}


def selections(track: Track, index: int, grid: NDArray[Any]) -> Floats:
    """Whether the selection among a cell's candidates is correct at every prefix that `grid` asks for (0 elsewhere)."""
    candidates, correct = track.candidates(track.rows[index]), track.correct[index]
    right = np.zeros(len(candidates))
    for k in {min(int(k), len(candidates)) for k in grid}:
        prefix = candidates[:k]
        chosen = track.method.select(track.verifier.among(prefix) if track.verifier else prefix)
        right[k - 1] = correct[chosen.spawned[0]] if chosen is not None else 0.0
    return right


def by_problem(values: Floats, problems: Sequence[str]) -> Floats:
    """The mean of the rows (seeds) of each problem."""
    names, index = np.unique(np.array(problems), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, index, values)
    return sums / np.bincount(index)[:, np.newaxis]


def run_currency(track: Track) -> str:
    """The currency of the policy's prices."""
    return track.run.card(track.model, "policy").currency


# -- summaries --------------------------------------------------------------------------------------------------------


def summary(run: Run) -> list[dict[str, Any]]:
    """One row for each strategy and model: selected accuracy with its interval, coverage, and what it cost.

    Problems without a usable candidate count as unsolved, and as `failed`; those that could not be graded are left out
    of the accuracy, and counted as `ungraded`. Where strategies have finished different problems or seeds, each row has
    its accuracy over those that all have as `shared_accuracy`.

    What a strategy cost is what it would have cost alone (`Track.cost`); `paid_` figures are what was paid for in its
    cells, which use what an earlier strategy has paid for. Those of all strategies together are the run's.
    """
    shared = shared_cells(run.tracks)
    return [track_summary(track, shared) for track in run.tracks]


def shared_cells(tracks: Sequence[Track]) -> set[tuple[str, int]] | None:
    """The problems and seeds that all tracks have finished; None where none has any other."""
    cells = [{(row.problem, row.seed) for row in track.rows} for track in tracks]
    return set.intersection(*cells) if any(part != cells[0] for part in cells) else None


def track_summary(track: Track, shared: set[tuple[str, int]] | None = None) -> dict[str, Any]:
    """The row of `summary` for one strategy and model; `shared` as `shared_cells` gives it."""
    solved, covered, problems, common, ungraded = [], [], [], [], 0
    for row, flags in zip(track.rows, track.correct, strict=True):
        chosen = flags[row.selected] if row.selected is not None else 0.0
        if np.isnan(chosen):
            ungraded += 1
            continue
        solved.append([chosen])
        covered.append([float(np.nansum(flags) > 0)])
        problems.append(row.problem)
        common.append(shared is None or (row.problem, row.seed) in shared)
    usage, wasted = track.usage(), track.wasted()
    paid = track.paid()
    means = by_problem(np.array(solved), problems) if solved else np.empty((0, 1))
    interval = bootstrap(means, proportions=True) if len(means) > 1 else None
    return {
        "strategy": track.strategy,
        "model": track.model,
        "problems": len({row.problem for row in track.rows}),
        "accuracy": float(means.mean()) if len(means) else None,
        "low": float(interval.low[0]) if interval else None,
        "high": float(interval.high[0]) if interval else None,
        "coverage": float(by_problem(np.array(covered), problems).mean()) if covered else None,
        **_over_shared(np.array(solved), problems, np.array(common), shared),
        "abstained": sum(
            row.selected is None and len(flags) > 0 for row, flags in zip(track.rows, track.correct, strict=True)
        ),
        "failed": sum(not len(flags) for flags in track.correct),
        "ungraded": ungraded,
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
        "paid_completion_tokens": sum_usage(paid.values()).completion_tokens,
        "paid_requests": sum_usage(paid.values()).requests,
        "paid_money": _money(track, paid),
        "oracle": track.oracle,
        "settled_early": sum(row.ended == "settled" for row in track.rows),
    }


def _over_shared(
    solved: Floats, problems: Sequence[str], common: NDArray[np.bool_], shared: set[tuple[str, int]] | None
) -> dict[str, Any]:
    if shared is None:
        return {"shared_problems": None, "shared_accuracy": None}
    names = [name for name, kept in zip(problems, common, strict=True) if kept]
    accuracy = float(by_problem(solved[common], names).mean()) if names else None
    return {"shared_problems": len({problem for problem, _ in shared}), "shared_accuracy": accuracy}


def _money(track: Track, roles: Mapping[str, Usage]) -> float | None:
    """What work costs; None where a model has no prices."""
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


def coverage_laws(drawn: Sequence[Curve]) -> list[dict[str, Any]]:
    """For each coverage curve, the fit c = exp(a k^b) and how well it holds (Brown et al. 2024, 3.2).

    Curves that do not determine the fit, such as one that is 0 throughout, are left out.
    """
    laws = []
    for curve in drawn:
        if curve.estimator == "pass@k" and len(curve.k) >= 3:
            try:
                law = fit_coverage_law(curve.k, curve.y)
            except CurveError:
                continue
            laws.append({"curve": curve.label, "a": law.a, "b": law.b, "r_squared": law.r_squared})
    return laws


# -- calls ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TimedCall:
    """One call to a model or a verifier, in seconds of Unix time."""

    lane: int | None
    """The sample that it was made for; None where that never became a candidate."""
    kind: str
    """Its role; `target scoring` for one that scored given text."""
    start: float
    end: float
    prompt_tokens: float = 0
    completion_tokens: float = 0


def calls_of(charges: Iterable[tuple[int | None, Charge]]) -> list[TimedCall]:
    """The calls behind charges, each with its lane, in order of time.

    A completion is charged apart from the prompt that it may share with others, a score together with its prompt.
    """
    charges = list(charges)
    prompts = {
        (charge.role, charge.started): charge.usage.prompt_tokens for _, charge in charges if not charge.usage.seconds
    }
    found = []
    for lane, charge in charges:
        usage = charge.usage
        if usage.seconds:
            kind = f"{charge.role} scoring" if usage.requests else charge.role
            prompt = usage.prompt_tokens or prompts.get((charge.role, charge.started), 0)
            end = charge.started + usage.seconds
            found.append(TimedCall(lane, kind, charge.started, end, prompt, usage.completion_tokens))
    return sorted(found, key=lambda call: call.start)


def calls(track: Track, problem: str | None = None) -> list[TimedCall]:
    """Every call that was answered, for one `problem` or all, in order of time; its lane is its sample.

    Answers that another strategy of the run paid for stand where they were made.
    """
    query = f"""SELECT cell, charges.position, role, started, {", ".join(f"charges.{name}" for name in USAGE_FIELDS)}
                FROM charges JOIN cells ON cells.id = cell
                WHERE strategy = ? AND model = ? AND (? IS NULL OR problem = ?) ORDER BY cell, charges.position"""
    rows = track.run.db.execute(query, (track.strategy, track.model, problem, problem)).fetchall()
    places = dict.fromkeys(row[:2] for row in rows if row[1] is not None and row[1] >= 0)
    lanes = {place: lane for lane, place in enumerate(places)}
    return calls_of(
        (lanes.get((cell, position)), Charge("", role, Usage(*usage), started))
        for cell, position, role, started, *usage in rows
    )
