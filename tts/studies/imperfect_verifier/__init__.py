"""Whether more samples pay with a verifier that errs: what resampling against it comes to, from a stored run.

The analysis of Stroebl et al. 2024 (arXiv 2411.17501): `counts` has the exact economics, `two_types` the paper's model
in closed form, `style` its measures of accepted programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from tts.curves import CurveError, Interval, mean_interval, powers_of_two
from tts.curves.estimators import Integers
from tts.curves.fits import LinearFit
from tts.curves.plot import COLOURS, GREY, drawing
from tts.errors import ConfigError
from tts.runs.run import Run, Track
from tts.studies import FigureFile, Study, StudyFindings, Table, TrackReport, reports_on, write_figure
from tts.studies.imperfect_verifier.counts import (
    Attempts,
    Best,
    Counts,
    Rivalry,
    abstention_ratio,
    best_k,
    ceiling_line,
    critical_ratio,
    false_discovery_by_attempt,
    reward_interval,
    weak_against_strong,
)
from tts.studies.imperfect_verifier.style import StyleReport, style_report
from tts.studies.imperfect_verifier.two_types import TwoTypes
from tts.tables import interval, percent, plain
from tts.text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATIOS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""The default costs of a false positive, in units of the benefit of a true one."""


class ImperfectVerifier(Study):
    """Whether more samples pay with verifiers as they are, where to stop, and when to abstain."""

    cost_ratio: tuple[Annotated[float, Field(ge=0)], ...] = RATIOS
    """Costs (lambda) of a wrong answer, where a right one gains 1."""
    plot: FigureFile = None
    """Draw what K samples are worth into this file (.svg, .png, .pdf)."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        reports, rows = reports_on(runs, lambda run: resampling_report(run, sorted(self.cost_ratio)))
        contests = [contest for run in runs.values() for contest in rivalries(run)]
        try:
            line = ceiling_over_models(list(runs.values()))
        except CurveError:  # fewer than three models, or all alike
            line = None
        data = {
            "resampling": rows,
            "rivalries": [contest.as_dict() for contest in contests],
            "ceiling_line": line and {**vars(line), "r_squared": line.r_squared},
        }
        if self.plot is not None:
            write_figure(draw_rewards(reports), self.plot)
        shown: list[Table | str] = [_rates(reports), _rewards(reports), _attempts(reports)]
        if (styles := _styles(reports)).rows:
            shown.append(styles)
        shown += [one.in_words(label) for label, one in reports]
        shown += [f"{contest.weak} against {contest.strong}: {_outcome(contest)}" for contest in contests]
        if line is not None:
            law = f"conditional accuracy = {line.slope:.3f} x accuracy + {line.intercept:.3f}"
            shown.append(f"over {line.points} models: {law}, r² {line.r_squared:.3f}")
        return StudyFindings(data, shown, [self.plot] if self.plot else [])


# -- from a run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reward:
    """R(K, lambda) under one cost of false positives."""

    best: Best
    """From the counts."""
    model: Best
    """From the model of two types, which knows no largest K."""
    k: Integers
    value: Interval
    """At each k, with 95 % intervals over problems."""


@dataclass(frozen=True)
class ResamplingReport(TrackReport):
    """Resampling against one verifier, with one model."""

    oracle: bool
    """Whether the verifier used the hidden truth."""
    counts: Counts
    critical: float
    """The cost of a false positive beyond which more samples make the result worse."""
    abstention: float
    """The cost from which it is best to give no answer at all."""
    attempts: Attempts
    model: TwoTypes
    rewards: list[Reward]
    style: StyleReport | None
    """Of programs that passed tests."""

    def sentences(self) -> Iterator[str]:
        counts, most, accepted = self.counts, self.counts.most, self.counts.conditional_accuracy
        yield f"one sample is right {counts.accuracy:.1%} of the time; what is accepted, {accepted:.1%}"
        low, high = counts.conditional_accuracy_range
        if silent := len(counts) - len(counts.answered):
            bounds = f"from {low:.1%} to {high:.1%} with them"
            yield f"{silent:,} of {counted(len(counts), 'problem')} without an accepted sample ({bounds})"
        if self.critical == np.inf:
            yield f"no cost of a false positive makes more samples harmful, up to {most}"
        else:
            limit = f"{self.critical:.3g} times what a right one gains"
            yield f"more samples HARM where a false positive costs over {limit}"
        if self.abstention < np.inf:
            yield f"from {self.abstention:.3g} times on it is best to give no answer"
        for reward in self.rewards:
            ratio, best = reward.best.ratio, reward.best
            lost = best.reward - reward.value.mean[-1]
            if 0 < best.k < most and lost >= 0.0005:
                yield f"at {ratio:g} times, stop after {best.k:.0f}: {most} samples are worth {lost:.3f} less"

    def as_dict(self) -> dict[str, Any]:
        counts = self.counts
        measures = ("accuracy", "apparent_accuracy", "conditional_accuracy", "generalisation_gap", "unconditional_gap")
        rates = {"decisions": asdict(counts.decisions), "conditional_accuracy_range": counts.conditional_accuracy_range}
        return {**super().as_dict(), **plain({**{name: getattr(counts, name) for name in measures}, **rates})}


def resampling_report(run: Run, ratios: Sequence[float] = RATIOS) -> list[ResamplingReport]:
    """The analysis of each strategy and model of a run whose verifier accepts and refuses independent samples.

    Raises `ConfigError` when there is none.
    """
    tracks, why_not = [], []
    for track in run.tracks:
        try:
            counts = counts_of(track)
            if len(counts) < 2:
                raise ConfigError(f"{track.label}: intervals over problems need two graded problems or more")
            tracks.append((track, counts))
        except ConfigError as error:
            why_not.append(str(error))
    if not tracks:
        raise ConfigError(f"{run.path}: {'; '.join(why_not) or 'there are no results yet'}")
    return [_report(track, counts, ratios) for track, counts in tracks]


def counts_of(track: Track) -> Counts:
    """The counts of each problem, samples of all seeds together; problems that could not be graded are left out.

    Raises `ConfigError` where samples were not drawn independently, or the verifier accepts none.
    """
    return _by_problem(track)[0]


def _by_problem(track: Track) -> tuple[Counts, list[str]]:
    if not track.independent:
        raise ConfigError(f"{track.label}: resampling needs independent samples; run best_of_n without an early stop")
    names, problem = np.unique([row.problem for row in track.rows], return_inverse=True)
    whole = np.concatenate(track.whole)
    at, said, right = (flat[whole] for flat in (problem[track.cells], track.verdicts[1], np.concatenate(track.correct)))
    accepted, truth = said == 1, right == 1
    n, ungraded, *sums = (
        np.bincount(at, flags, len(names))
        for flags in (np.ones(len(at)), np.isnan(right), accepted, accepted & truth, truth)
    )
    kept = (n > 0) & (ungraded == 0)
    if not sums[0][kept].any():
        raise ConfigError(f"{track.label}: its verifier accepts no graded sample (one that only ranks needs accept=)")
    return Counts.of(*(part[kept] for part in (n, *sums))), names[kept].tolist()


def _report(track: Track, counts: Counts, ratios: Sequence[float]) -> ResamplingReport:
    model, ks = _fitted(counts), powers_of_two(counts.most)
    return ResamplingReport(
        track=track.label,
        oracle=track.oracle,
        counts=counts,
        critical=critical_ratio(counts),
        abstention=abstention_ratio(counts),
        attempts=false_discovery_by_attempt(counts),
        model=model,
        rewards=[
            Reward(best_k(counts, ratio), model.best(ratio), ks, reward_interval(counts, ks, ratio)) for ratio in ratios
        ],
        style=style_report(track),
    )


def _fitted(counts: Counts) -> TwoTypes:
    try:
        return TwoTypes.fit(counts)
    except CurveError:  # all samples are right: there is nothing to be sound about
        return TwoTypes(1.0, 1.0, 0.0, 1.0, counts.decisions.completeness or 0.0)


@dataclass(frozen=True)
class WeakAgainstStrong:
    """A weak model that resamples against one sample of a strong one, on the problems of both."""

    weak: str
    strong: str
    problems: int
    result: Rivalry

    def as_dict(self) -> dict[str, Any]:
        """The contest as plain data."""
        found, gap = self.result, self.result.shortfall
        return {
            "weak": self.weak,
            "strong": self.strong,
            "problems": self.problems,
            "accuracy": found.weak,
            "conditional_accuracy": found.ceiling,
            "strong_accuracy": found.strong,
            "shortfall_interval": [float(gap.low[0]), float(gap.high[0])],
            "hopeless": found.hopeless,
            "k": found.k,
        }


def rivalries(run: Run) -> list[WeakAgainstStrong]:
    """Every pair of models under the same strategy, the weaker one resampling."""
    found = []
    for (weak, few, first), (strong, many, second) in permutations(_usable(run), 2):
        both = sorted(set(first) & set(second))
        if weak.strategy != strong.strategy or not both:
            continue
        weaker = few[np.array([first.index(problem) for problem in both])]
        stronger = many[np.array([second.index(problem) for problem in both])]
        if weaker.accuracy < stronger.accuracy and weaker.accepted.any():
            found.append(WeakAgainstStrong(weak.label, strong.label, len(both), weak_against_strong(weaker, stronger)))
    return found


def ceiling_over_models(runs: Sequence[Run]) -> LinearFit:
    """The regression of conditional accuracy on single-sample accuracy over the models of several runs.

    Raises `CurveError` for fewer than three.
    """
    return ceiling_line({f"{run.path}/{track.label}": counts for run in runs for track, counts, _ in _usable(run)})


def _usable(run: Run) -> list[tuple[Track, Counts, list[str]]]:
    """The tracks that `counts_of` can count, with their counts and problems."""
    found = []
    for track in run.tracks:
        with suppress(ConfigError):
            found.append((track, *_by_problem(track)))
    return found


# -- tables -----------------------------------------------------------------------------------------------------------

Reports = Sequence[tuple[str, ResamplingReport]]


def _rates(reports: Reports) -> Table:
    columns = ("problems", "one sample", "accepted", "completeness", "soundness", "conditional", "gap")
    made = Table("Verifiers and what they let through", ("strategy",), columns)
    for label, one in reports:
        counts, rates = one.counts, one.counts.decisions
        shares = (counts.apparent_accuracy, rates.completeness, rates.soundness)
        conditional = _with_bounds(counts.conditional_accuracy, counts.precision)
        one_sample = _with_bounds(counts.accuracy, counts.correct / counts.n)
        gap = percent(counts.generalisation_gap)
        made.add_row(label, f"{len(counts):,}", one_sample, *map(percent, shares), conditional, gap)
    made.notes = ["95 % intervals over problems, for the conditional accuracy over those with an accepted sample"]
    return made


def _with_bounds(mean: float, values: np.ndarray) -> str:
    """A mean over problems as text, with its interval where there is one."""
    if len(values) < 2:
        return percent(mean)
    found = mean_interval(values[:, np.newaxis])
    return f"{percent(mean)} ({interval(float(found.low[0]), float(found.high[0]))})"


def _rewards(reports: Reports) -> Table:
    columns = ("lambda", "K*", "worth", "K* of the model", "worth of all samples", "95 %")
    made = Table("Resampling: the K that pays, if a wrong answer costs lambda", ("strategy",), columns)
    for label, one in reports:
        name = label
        for reward in one.rewards:
            best, end = reward.best, reward.value
            bounds = f"{end.low[-1]:.3f} to {end.high[-1]:.3f}"
            worth = (f"{best.reward:.3f}", _k(reward.model), f"{end.mean[-1]:.3f}", bounds)
            made.add_row(name, f"{best.ratio:g}", _k(best), *worth)
            name = ""
    return made


def _k(best: Best) -> str:
    if best.k == float("inf"):
        return "∞"
    return f"{best.k:.0f}" + ("+" if best.at_most else "")


def _attempts(reports: Reports) -> Table:
    made = Table("How late an acceptance comes, and how often it is wrong", ("strategy",), ("attempt", "ends", "wrong"))
    for label, one in reports:
        name, found = label, one.attempts
        for first, last, ends, wrong in zip(found.first, found.last, found.stopped, found.false_discovery, strict=True):
            if ends > 0:
                made.add_row(name, str(first) if first == last else f"{first} to {last}", percent(ends), percent(wrong))
                name = ""
    return made


def _styles(reports: Reports) -> Table:
    made = Table("Conventions kept by programs that passed", ("strategy", "convention"), ("right ones", "wrong ones"))
    for label, one in reports:
        name = label
        for convention, right in one.style.right.items() if one.style else ():
            wrong = one.style.wrong[convention] if one.style else None
            made.add_row(name, convention.replace("_", " "), percent(right), percent(wrong))
            name = ""
    return made


def _outcome(contest: WeakAgainstStrong) -> str:
    found, gap = contest.result, contest.result.shortfall
    if found.hopeless:
        words = f"95 % from {gap.low[0]:+.1%} to {gap.high[0]:+.1%}"
        return f"NO number of samples catches up: {found.ceiling:.1%} against {found.strong:.1%} ({words})"
    if found.k is None:
        return f"it does not catch up with these samples (it may reach {found.ceiling:.1%} where it answers)"
    return f"it is right as often ({found.strong:.1%}) from {found.k} attempts on"


# -- the figure -------------------------------------------------------------------------------------------------------


def draw_rewards(reports: Reports) -> Figure:
    """R(K, lambda) against K, a panel for each report, with the K to stop at.

    Raises `CurveError` without reports, `MissingExtra` without the extra `plot`.
    """
    if not reports:
        raise CurveError("there is no verifier whose rewards could be drawn")
    with drawing("rewards") as figures:
        figure = figures(figsize=(5.6, 3.2 * len(reports)), layout="constrained")
        panels = figure.subplots(len(reports), 1, squeeze=False, sharex=True)[:, 0]
        for (label, one), axes in zip(reports, panels, strict=True):
            _draw_panel(axes, one.rewards)
            axes.set_title(label, loc="left", fontsize=9)
        panels[-1].set_xlabel("K, samples at most")
    return figure


def _draw_panel(axes: Axes, rewards: Sequence[Reward]) -> None:
    from matplotlib.ticker import NullLocator, StrMethodFormatter

    axes.axhline(0, color=GREY, linewidth=0.8)
    for i, reward in enumerate(rewards):
        best, k, value = reward.best, reward.k, reward.value
        colour = COLOURS[i % len(COLOURS)]
        axes.fill_between(k, value.low, value.high, color=colour, alpha=0.12, linewidth=0)
        axes.plot(k, value.mean, color=colour, linewidth=1.5, label=f"λ = {best.ratio:g}")
        if best.k >= 1:
            axes.plot(best.k, best.reward, "o", color=colour, markersize=6, markeredgecolor="white")
    axes.plot([], [], "o", color=GREY, markeredgecolor="white", label="K* (none: abstain)")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("worth of resampling, R(K, λ)")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
