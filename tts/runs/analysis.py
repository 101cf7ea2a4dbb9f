"""From a run to its curves, its summary and its calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tts.base import selectable
from tts.curves import (
    Curve,
    CurveError,
    best_of_k,
    filtered_pass_at_k,
    fit_coverage_law,
    majority_at_k,
    mean_interval,
    pass_at_k,
    powers_of_two,
    replay,
)
from tts.errors import ConfigError
from tts.runs.run import Row, Run, Track
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

    `x` is a measure of `Track.cost`; `ks` are the numbers of candidates, by default powers of two up to the most that
    any problem has. Intervals are 95 % intervals over problems; the seeds of a problem count as one. Raises
    `ConfigError` when there is nothing to draw or a model card lacks what `x` needs, `CurveError` when a k exceeds
    what was sampled.
    """
    found = [curve for track in run.tracks for curve in track_curves(track, x, ks)]
    if not found:
        raise ConfigError(f"{run.path} has no graded candidates yet")
    return found


def track_curves(track: Track, x: str = "completion_tokens", ks: Sequence[int] | None = None) -> list[Curve]:
    """The curves of one strategy with one model.

    Closed forms average accuracy and compute (`Track.mean_cost`) over the same subsets of a problem's candidates,
    replays take both at the same prefix. A problem that a budget, a failure or a lost sample left with fewer than k
    candidates stands at what it had reached, in accuracy and in compute (`Curve.short` counts such problems); one
    without any candidate counts as unsolved at every k, at all that it cost; one that could not be graded is left out.
    """
    return curves_over(track, {x: track.cost(x)}, ks)[x]


def curves_over(
    track: Track,
    costs: Mapping[str, list[Floats]],
    ks: Sequence[int] | None = None,
    only: Callable[[Row], bool] = lambda row: True,
) -> dict[str, list[Curve]]:
    """The same curves over several measures at once, given `Track.cost` of each; accuracies are computed once.

    Over the rows for which `only` holds.
    """
    pool = Pool.of(track, only)
    if not len(pool.kept) or not costs:
        return {x: [] for x in costs}
    independent, sizes, flags = track.independent, pool.sizes, pool.flags
    most = int(sizes.max())
    grid = np.array(ks) if ks is not None else powers_of_two(most)
    open_ended = np.array([independent or track.rows[i].ended not in ("complete", "settled") for i in pool.kept])
    if grid.max() > most and open_ended.any():
        raise CurveError(f"{track.label}: no problem has {grid.max()} candidates: ask for k <= {most}")
    problems = [track.rows[i].problem for i in [*pool.kept, *pool.empty]]
    short = len({problems[i] for i in np.flatnonzero(open_ended & (sizes < grid.max()))})
    at = np.minimum(grid, sizes[:, np.newaxis]) - 1

    def curve(estimator: str, values: Floats, label: str = track.label) -> Curve:
        rows = by_problem(np.concatenate([values, np.zeros((len(pool.empty), len(grid)))]), problems)
        return replace(Curve.from_values(label, estimator, grid, rows), short=short)

    replayed, closed = [], []
    if not independent or track.estimator == "replay":
        chosen = [selections(track, i, grid) for i in pool.kept]
        ended = np.ones(len(sizes), bool)
        drawn = [np.arange(size) for size in sizes]
        replayed = [curve("replay", replay(drawn, chosen, grid, finished=ended)[0])]
        if track.method.exhaustive:
            covered = [np.maximum.accumulate(part) for part in flags]
            values, _ = replay(drawn, covered, grid, finished=ended)
            replayed.append(curve("replay", values, f"{track.label} coverage"))
    if independent:
        if track.estimator != "replay":
            values, name = pool.selected(grid)
            closed.append(curve(name, values))
        closed.append(curve("pass@k", pool.coverage(grid), f"{track.label} coverage"))

    def axis(x: str, compute: list[Floats]) -> dict[str, Any]:
        rows = [*(compute[i][places] for i, places in zip(pool.kept, at, strict=True))]
        rows += [np.full(len(grid), costs[x][i][-1] if len(costs[x][i]) else 0.0) for i in pool.empty]
        unit = UNITS.get(x, run_currency(track) if x == "money" else "")
        return {"x": by_problem(np.array(rows), problems).mean(axis=0), "x_name": x.replace("_", " "), "x_unit": unit}

    drawn_over: dict[str, list[Curve]] = {}
    for x in costs:
        drawn_over[x] = [replace(one, **axis(x, pool.prefixes(costs[x]))) for one in replayed]
        if closed:
            means = axis(x, track.mean_cost(x))
            drawn_over[x] += [replace(one, **means) for one in closed]
    return drawn_over


@dataclass(frozen=True)
class Pool:
    """The candidates that a track's curves are over: of independent ones, those that the budget did not cut off."""

    track: Track
    kept: list[int]
    """The rows that have such candidates, all of them graded."""
    empty: list[int]
    """The rows without any."""
    flags: list[Floats]
    """Truth of the candidates, for each of `kept`."""

    @classmethod
    def of(cls, track: Track, only: Callable[[Row], bool] = lambda row: True) -> Pool:
        parts = [flags[whole] for flags, whole in zip(track.correct, track.whole, strict=True)]
        wanted = [i for i, row in enumerate(track.rows) if only(row)]
        kept = [i for i in wanted if len(parts[i]) and not np.isnan(parts[i]).any()]
        return cls(track, kept, [i for i in wanted if not len(parts[i])], [parts[i] for i in kept])

    @property
    def rows(self) -> list[Row]:
        """What its curves are over."""
        return [self.track.rows[i] for i in (*self.kept, *self.empty)]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Candidates of each of `kept`."""
        return np.array([len(part) for part in self.flags], dtype=np.int64)

    def coverage(self, grid: NDArray[Any]) -> Floats:
        """pass@k of each of `kept`."""
        right = np.array([part.sum() for part in self.flags])
        return self._reached(grid, lambda rows, ks: pass_at_k(self.sizes[rows], right[rows], ks))

    def selected(self, grid: NDArray[Any]) -> tuple[Floats, str]:
        """best-of-k or majority@k of each of `kept`, all subsets and ties averaged, and the estimator's name."""
        track = self.track
        if track.estimator == "best_of_k":
            ranks = [track.ranks[i][track.whole[i]] for i in self.kept]

            def best(rows: NDArray[np.int64], ks: NDArray[np.int64]) -> Floats:
                return best_of_k([ranks[row] for row in rows], [self.flags[row] for row in rows], ks)

            return self._reached(grid, best), "best-of-k"
        answers = [[a for a, whole in zip(track.answers[i], track.whole[i], strict=True) if whole] for i in self.kept]
        names: set[str] = set()

        def vote(rows: NDArray[np.int64], ks: NDArray[np.int64]) -> Floats:
            found = majority_at_k([answers[row] for row in rows], [self.flags[row] for row in rows], ks)
            names.add(found.method)
            return found.values

        return self._reached(grid, vote), "; ".join(sorted(names))

    def prefixes(self, costs: list[Floats]) -> list[Floats]:
        """Of cumulative costs, those up to each candidate of the pool; all there is up to the last one."""
        found = []
        for cost, whole in zip(costs, self.track.whole, strict=True):
            own = cost[: len(whole)][whole]
            own[-1:] = cost[-1:]
            found.append(own)
        return found

    def _reached(
        self, grid: NDArray[Any], estimate: Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]
    ) -> Floats:
        """`estimate` at each k of `grid`, or for a problem with fewer candidates at all of them."""
        values = np.zeros((len(self.kept), len(grid)))
        reached = np.minimum(self.sizes, grid.max())
        for size in np.unique(reached):
            rows = np.flatnonzero(reached == size)
            ks, places = np.unique(np.minimum(grid, size), return_inverse=True)
            values[rows] = estimate(rows, ks)[:, places]
        return values


def filtered_curve(track: Track) -> Curve | None:
    """Filtered pass@k, or None where the verifier decided on no candidate: k of the accepted candidates are submitted.

    Over all subsets of the accepted (`filtered_pass_at_k`). `x` is how many are submitted, which is fewer than k where
    fewer were accepted; every candidate is paid for at each k, so it is no curve of compute.
    """
    graded = [
        (row.problem, flags, said == 1)
        for row, flags, said in zip(track.rows, track.correct, track.passed, strict=True)
        if not np.isnan(flags).any()
    ]
    if not graded or all(np.isnan(said).all() for said in track.passed):
        return None
    accepted = np.array([said.sum() for _, _, said in graded])
    right = np.array([flags[said].sum() for _, flags, said in graded])
    grid = powers_of_two(max(1, int(accepted.max())))
    problems = [problem for problem, _, _ in graded]
    values, submitted = filtered_pass_at_k(accepted, right, grid), np.minimum(accepted[:, np.newaxis], grid)
    return Curve.from_values(
        track.label,
        "filtered pass@k",
        grid,
        by_problem(values, problems),
        x=by_problem(submitted, problems),
        x_name="submitted",
    )


def selections(track: Track, index: int, grid: NDArray[Any]) -> Floats:
    """Whether the selection among a cell's candidates is correct at every prefix that `grid` asks for (0 elsewhere)."""
    kept = np.flatnonzero(track.whole[index])
    every, correct = track.candidates(track.rows[index]), track.correct[index]
    candidates = [every[i] for i in kept]
    right = np.zeros(len(candidates))
    for k in {min(int(k), len(candidates)) for k in grid}:
        prefix = selectable(candidates[:k])
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
    for row, flags, right in zip(track.rows, track.correct, final_accuracies(track), strict=True):
        if np.isnan(right):
            ungraded += 1
            continue
        solved.append([right])
        covered.append([float(np.nansum(flags) > 0)])
        problems.append(row.problem)
        common.append(shared is None or (row.problem, row.seed) in shared)
    usage, wasted = track.usage(), track.wasted()
    paid = track.paid()
    means = by_problem(np.array(solved), problems) if solved else np.empty((0, 1))
    interval = mean_interval(means) if len(means) > 1 else None
    return {
        "strategy": track.strategy,
        "model": track.model,
        "problems": len({row.problem for row in track.rows}),
        "accuracy": float(means.mean()) if len(means) else None,
        "low": float(interval.low[0]) if interval else None,
        "high": float(interval.high[0]) if interval else None,
        "estimator": track.estimator if track.independent else "replay",
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
        "currency": run_currency(track),
        "paid_completion_tokens": sum_usage(paid.values()).completion_tokens,
        "paid_requests": sum_usage(paid.values()).requests,
        "paid_money": _money(track, paid),
        "oracle": track.oracle,
        "settled_early": sum(row.ended == "settled" for row in track.rows),
        "budget_ended": sum(row.ended == "budget" for row in track.rows),
        **track.lacks,
        "cut_off": int(sum(cut.sum() for cut in track.cut_off)),
        "warning": track.warning,
    }


def final_accuracies(track: Track) -> list[float]:
    """The accuracy of each of `Track.rows` with all its candidates, as its curve ends; NaN where it is not graded.

    Where the curve has a closed form it is the mean over all orders of the candidates, so that ties are averaged;
    elsewhere whether the selected candidate is correct.
    """
    if not track.independent or track.estimator == "replay":
        pairs = zip(track.rows, track.correct, strict=True)
        return [float(flags[row.selected]) if row.selected is not None else 0.0 for row, flags in pairs]
    pool = Pool.of(track)
    found = np.full(len(track.rows), np.nan)
    found[pool.empty] = 0.0
    if pool.kept:
        found[pool.kept] = pool.selected(pool.sizes.max(keepdims=True))[0][:, 0]
    return found.tolist()


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


def coverage_laws(tracks: Mapping[str, Track]) -> list[dict[str, Any]]:
    """For each track with independent candidates, the fit c = exp(a k^b) of its coverage (Brown et al. 2024, 3.2).

    Fitted to every k up to what all problems have. Tracks that do not determine it, such as one whose coverage is 0
    throughout, are left out. `tracks` are named as in the report.
    """
    laws = []
    for label, track in tracks.items():
        pool = Pool.of(track)
        if not track.independent or not pool.kept or pool.sizes.min() < 3:
            continue
        ks = np.arange(1, int(pool.sizes.min()) + 1)
        rows = [*pool.coverage(ks), *np.zeros((len(pool.empty), len(ks)))]
        problems = [track.rows[i].problem for i in [*pool.kept, *pool.empty]]
        try:
            law = fit_coverage_law(ks, by_problem(np.array(rows), problems).mean(axis=0))
        except CurveError:
            continue
        laws.append({"curve": f"{label} coverage", "a": law.a, "b": law.b, "r_squared": law.r_squared, "k": len(ks)})
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
