"""What N independent attempts at each problem say of a model: reliability, evenness of cost, room for a verifier.

- The parallel protocol of Balachandran et al. 2025, "Inference-Time Scaling for Complex Tasks" (arXiv 2504.00294).
- Heterogeneity after Setlur et al. 2025, "Scaling Test-Time Compute Without Verification or RL is Suboptimal" (arXiv
  2502.12118): where a model's attempts at a prompt are heterogeneous and a fair share of them is far better than the
  mean (anti-concentration), search with a verifier outgrows learning or voting without one, and the more so the larger
  the budget.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from tts.curves import CurveError, Interval, majority_at_k, mean_interval, paired_difference
from tts.errors import ConfigError
from tts.runs import Run
from tts.runs.run import Floats, Track
from tts.studies import Study, StudyFindings, Table, TrackReport, reports_on
from tts.tables import interval, number, percent, points_between
from tts.text import counted

Advice = Literal["verifier", "majority", "neither"]


class Repeats(Study):
    """How reliable independent attempts at each problem are, and how even in cost."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        reports, rows = reports_on(runs, parallel_report)
        between, over = gap([one for _, one in reports]) or (None, None)
        columns = ("N", "average", "± over attempts", "worst of N", "majority", "best of N (perfect verifier)")
        accuracy = Table("N attempts at each problem, 95 % intervals over problems", ("strategy",), columns)
        spent = ("tokens", "± at a problem", "all right", "mixed", "all wrong")
        cost = Table("Tokens of an attempt, and how they vary at the same problem", ("strategy",), spent)
        for label, one in reports:
            said, tokens = one.repeats, one.tokens
            average, worst, majority, best = (said.in_words(name) for name in ("average", "worst", "majority", "best"))
            accuracy.add_row(label, str(said.n), average, percent(said.deviation), worst, majority, best)
            accuracy.notes += [f"{label}: {words}" for words in one.sentences()]
            spread = (tokens.mean, tokens.deviation, tokens.all_right, tokens.mixed, tokens.all_wrong)
            cost.add_row(label, *map(number, spread))
        if between is not None:
            words = "best average minus the lowest best of N, a perfect verifier's"
            cost.notes.append(f"conventional-to-reasoning gap: {between:+.1%} ({words})")
        bounds = None
        if over is not None:
            bounds = [float(over.low[0]), float(over.high[0])]
            told = "" if bounds[0] > 0 or bounds[1] < 0 else ": it may be none"
            cost.notes.append(f"95 % {points_between(*bounds)} points, paired over problems{told}")
        found = {"conventional_to_reasoning_gap": between, "conventional_to_reasoning_interval": bounds}
        return StudyFindings({"attempts": rows, **found}, [accuracy, cost])


class Heterogeneity(Study):
    """Whether a verifier would find better attempts than most."""

    epsilon: float = Field(1.0, ge=0)
    """An attempt stands out where its reward exceeds the mean by sqrt(epsilon) standard deviations."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        reports, rows = reports_on(runs, lambda run: heterogeneity_report(run, epsilon=self.epsilon))
        columns = ("problems", "mean", "spread", "stand out", "for a verifier", "for a majority", "hopeless", "in all")
        made = Table("Heterogeneity of attempts", ("strategy",), columns)
        for label, one in reports:
            found, shares = one.summary, one.summary.shares
            made.add_row(
                label,
                f"{found.prompts:,}",
                percent(found.mean),
                f"{found.spread:.3f}",
                percent(found.anticoncentration),
                *(percent(shares[name]) for name in ("verifier", "majority", "neither")),
                found.advice,
            )
        return StudyFindings(rows, [made])


# -- from a run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParallelReport(TrackReport):
    """The parallel protocol of one strategy and model."""

    model: str
    problems: int
    repeats: RepeatAccuracy
    tokens: CostSpread
    """Of the generated tokens of an attempt."""
    problem_shares: dict[str, tuple[float, float]]
    """For each problem, the share of its attempts that solve it, and 1 if any does."""
    cut: int = 0
    """Problems with more attempts than the N that all have, which are all that count here."""
    without: int = 0
    """Problems without an attempt that could be graded: they are left out."""

    def sentences(self) -> Iterator[str]:
        if self.cut:
            n = self.repeats.n
            count = counted(self.cut, "problem has", "problems have")
            yield f"{count} more than {counted(n, 'attempt')}, and only as many as all have count"
        if self.without:
            yield f"left out: {counted(self.without, 'problem')} without a graded attempt"


@dataclass(frozen=True)
class HeterogeneityReport(TrackReport):
    """How heterogeneous the attempts of one strategy and model are."""

    summary: HeterogeneitySummary
    problems: dict[str, PromptHeterogeneity]


def parallel_report(run: Run) -> list[ParallelReport]:
    """Average, best, worst and majority over the independent attempts of each strategy and model, and their cost.

    Seeds are further attempts; where problems have unequal numbers, all are cut to the fewest. Raises `ConfigError`
    when no strategy has independent, graded attempts.
    """
    found = []
    for track, flags in _graded(run):
        tokens, said = defaultdict(list), defaultdict(list)
        cells = zip(track.rows, track.cost("completion_tokens"), track.answers, track.whole, strict=True)
        for row, cost, answers, whole in cells:
            tokens[row.problem] += np.diff(cost, prepend=0.0)[: len(answers)][whole].tolist()
            said[row.problem] += [answer for answer, kept in zip(answers, whole, strict=True) if kept]
        n = min(map(len, flags.values()))
        matrix = [part[:n] for part in flags.values()]
        known = any(answer is not None for part in track.answers for answer in part)
        accuracy = repeats(matrix, [said[problem][:n] for problem in flags] if known else None)
        spread = cost_spread([tokens[problem][:n] for problem in flags], matrix)
        shares = {name: (float(np.mean(part[:n])), float(max(part[:n]))) for name, part in flags.items()}
        cut = sum(len(part) > n for part in flags.values())
        without = len({row.problem for row in track.rows}) - len(flags)
        found.append(ParallelReport(track.label, track.model, len(flags), accuracy, spread, shares, cut, without))
    return found


def heterogeneity_report(run: Run, *, epsilon: float = 1.0) -> list[HeterogeneityReport]:
    """Mean, spread and anti-concentration of each problem's attempts by their truth, and what they recommend.

    Raises `ConfigError` when no strategy has independent, graded attempts.
    """
    found = []
    for track, flags in _graded(run):
        problems = {problem: heterogeneity(part, epsilon=epsilon) for problem, part in flags.items()}
        found.append(HeterogeneityReport(track.label, summarise(list(problems.values())), problems))
    return found


def _graded(run: Run) -> Iterator[tuple[Track, dict[str, Floats]]]:
    """The tracks of independent attempts, each with the truth of all attempts at each problem that is graded."""
    none = True
    for track in run.tracks:
        flags: dict[str, list[Floats]] = defaultdict(list)
        for row, correct, whole in zip(track.rows, track.correct, track.whole, strict=True):
            flags[row.problem].append(correct[whole])
        joined = ((problem, np.concatenate(parts)) for problem, parts in flags.items())
        kept = {problem: part for problem, part in joined if len(part) and not np.isnan(part).any()}
        if track.independent and kept:
            none = False
            yield track, kept
    if none:
        raise ConfigError(f"{run.path} has no independent, graded attempts: run best_of_n or self_consistency")


def gap(reports: Sequence[ParallelReport]) -> tuple[float, Interval | None] | None:
    """The conventional-to-reasoning gap between the models of some runs, None for a single model; and its interval,
    paired over the problems that both models have, None where these are fewer than two."""
    if len({one.model for one in reports}) < 2:
        return None
    between = conventional_to_reasoning_gap([one.repeats for one in reports])
    most = max(reports, key=lambda one: one.repeats.average).problem_shares
    least = min(reports, key=lambda one: one.repeats.best).problem_shares
    common = most.keys() & least.keys()
    if len(common) < 2:
        return between, None
    average, covered = zip(*((most[name][0], least[name][1]) for name in sorted(common)), strict=True)
    return between, paired_difference(np.array(average)[:, None], np.array(covered)[:, None])


# -- the parallel protocol --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RepeatAccuracy:
    """Accuracy over N attempts at each problem."""

    n: int
    average: float
    """The mean over attempts of the share of problems solved: an estimate of pass@1."""
    deviation: float | None
    """Standard deviation (N - 1) of that share over attempts; None for one attempt."""
    best: float
    """The share of problems that any attempt solves: an upper bound, reached by a perfect verifier alone."""
    worst: float
    """The share that all attempts solve: how reliable one attempt is."""
    majority: float | None = None
    """The share whose most frequent answer is right; of several most frequent ones, each counts in part."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """95 % intervals over problems of `average`, `best`, `worst` and `majority`; empty for a single problem."""

    def in_words(self, name: str) -> str:
        """One of these shares with its interval."""
        value, bounds = getattr(self, name), self.intervals.get(name)
        return percent(value) + (f" ({interval(*bounds)})" if bounds else "")


def repeats(correct: ArrayLike, answers: Sequence[Sequence[Hashable | None]] | None = None) -> RepeatAccuracy:
    """The statistics of a problems x attempts matrix of 1 (right), 0 (wrong) and NaN (no answer).

    An attempt without an answer solves nothing, but does not count against `worst` unless there is no other. `answers`
    are the answers, or None, for the majority. Raises `CurveError` for an empty matrix.
    """
    matrix = np.asarray(correct, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise CurveError(f"repeats are a matrix of problems x attempts, not of shape {matrix.shape}")
    solved, silent = np.nan_to_num(matrix), np.isnan(matrix)
    n = matrix.shape[1]
    shares = {
        "average": solved.mean(axis=1),
        "best": solved.max(axis=1),
        "worst": np.where(silent.all(axis=1), 0.0, np.where(silent, 1.0, matrix).min(axis=1)),
    }
    if answers is not None:
        shares["majority"] = majority_at_k(answers, solved, [n]).values[:, 0]
    means = {name: float(values.mean()) for name, values in shares.items()}
    found = mean_interval(np.column_stack(list(shares.values()))) if len(matrix) > 1 else None
    bounds = zip(found.low.tolist(), found.high.tolist(), strict=True) if found else ()
    deviation = float(solved.mean(axis=0).std(ddof=1)) if n > 1 else None
    return RepeatAccuracy(n=n, deviation=deviation, **means, intervals=dict(zip(shares, bounds, strict=False)))


@dataclass(frozen=True)
class CostSpread:
    """How unevenly attempts at the same problem cost."""

    mean: float
    """Tokens of an attempt."""
    deviation: float | None
    """Standard deviation over the attempts at a problem, averaged over problems; None for one attempt."""
    all_right: float | None
    """The same over problems that all attempts solve; None where there are none."""
    mixed: float | None
    """Over those that some solve."""
    all_wrong: float | None
    """Over those that none solves."""


def cost_spread(tokens: ArrayLike, correct: ArrayLike) -> CostSpread:
    """Cost nondeterminism of a problems x attempts matrix of tokens (arXiv 2504.00294, section 4).

    Raises `CurveError` where its shape is not that of `correct`.
    """
    costs, solved = np.asarray(tokens, dtype=np.float64), np.nan_to_num(np.asarray(correct, dtype=np.float64))
    if costs.shape != solved.shape or costs.ndim != 2 or not costs.size:
        raise CurveError(f"tokens and correct are matrices of the same shape, not {costs.shape} and {solved.shape}")
    if costs.shape[1] < 2:
        return CostSpread(float(costs.mean()), None, None, None, None)
    deviation, share = costs.std(axis=1, ddof=1), solved.mean(axis=1)

    def over(problems: np.ndarray) -> float | None:
        return float(deviation[problems].mean()) if problems.any() else None

    some = (share > 0) & (share < 1)
    return CostSpread(float(costs.mean()), float(deviation.mean()), over(share == 1), over(some), over(share == 0))


def conventional_to_reasoning_gap(models: Sequence[RepeatAccuracy]) -> float:
    """By how much the best model's average exceeds what the weakest would reach with a perfect verifier.

    Where it is small or negative, scaling a conventional model could replace a reasoning one. Raises `CurveError`
    without a model.
    """
    if not models:
        raise CurveError("the gap is between models, and there is none")
    return max(one.average for one in models) - min(one.best for one in models)


# -- heterogeneity ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptHeterogeneity:
    """The rewards of the attempts at one prompt."""

    attempts: int
    mean: float
    """mu."""
    spread: float
    """sigma, the standard deviation over the attempts (of this very sample, not of those that might have been)."""
    anticoncentration: float
    """The share of attempts with a reward above mu + sigma sqrt(epsilon)."""
    advice: Advice
    """`neither` where nothing succeeds, `verifier` where enough attempts stand out to be found, else `majority` (or
    learning from the attempts): there is nothing to find that most do not have."""


def heterogeneity(rewards: ArrayLike, *, epsilon: float = 1.0, enough: float = 0.01) -> PromptHeterogeneity:
    """The heterogeneity of attempts with `rewards` of 0 or more, such as 1 for a right and 0 for a wrong one.

    For rewards of 0 and 1 an attempt stands out iff it is right and mu < 1 / (1 + epsilon): with an `epsilon` of 1,
    iff less than half are right. `enough` is the share of attempts that must stand out for a verifier to be worth it.
    Raises `CurveError` for no rewards, or rewards that are negative or not finite.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or values.min() < 0:
        raise CurveError("heterogeneity needs at least one reward, each finite and 0 or more")
    if epsilon < 0:
        raise CurveError(f"epsilon is 0 or more, not {epsilon}")
    mean, spread = float(values.mean()), float(values.std())
    # Rounding must not let a reward stand out that is just at the edge.
    share = float((values > mean + spread * np.sqrt(epsilon) + 1e-9 * max(1.0, values.max())).mean())
    advice: Advice = "neither" if values.max() == 0 else "verifier" if share >= max(enough, 1e-12) else "majority"
    return PromptHeterogeneity(len(values), mean, spread, share, advice)


@dataclass(frozen=True)
class HeterogeneitySummary:
    """Heterogeneity over prompts: means over all of them."""

    prompts: int
    mean: float
    spread: float
    anticoncentration: float
    shares: dict[str, float]
    """The share of prompts for each advice."""
    advice: Advice
    """Of `verifier` and `majority`, the one for more prompts; `neither` where nothing succeeds anywhere."""


def summarise(found: Sequence[PromptHeterogeneity]) -> HeterogeneitySummary:
    """The summary of prompts. Raises `CurveError` without any."""
    if not found:
        raise CurveError("there is no prompt to summarise")
    votes = Counter(one.advice for one in found)
    advice: Advice = "neither"
    if votes["verifier"] or votes["majority"]:
        advice = "verifier" if votes["verifier"] >= votes["majority"] else "majority"
    return HeterogeneitySummary(
        prompts=len(found),
        mean=float(np.mean([one.mean for one in found])),
        spread=float(np.mean([one.spread for one in found])),
        anticoncentration=float(np.mean([one.anticoncentration for one in found])),
        shares={name: votes[name] / len(found) for name in ("verifier", "majority", "neither")},
        advice=advice,
    )
