"""`tts report --verifier-analysis`: whether more samples pay, with a verifier that makes mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tts.cli.common import console, say, show_json, table
from tts.cli.tables import percent

if TYPE_CHECKING:
    from tts.runs import Run
    from tts.studies.imperfect_verifier import Best
    from tts.studies.resampling import Contest, Resampling

Labelled = Sequence[tuple[str, "Resampling"]]


def show_resampling(runs: Mapping[str, Run], ratios: Sequence[float] | None, plot: Path | None, as_json: bool) -> None:
    """Print the analysis of each run, and draw its rewards where asked."""
    from tts.curves import CurveError
    from tts.studies.resampling import RATIOS, ceiling_over_models, resampling_report, rivalries

    reports = {label: resampling_report(run, sorted(ratios or RATIOS)) for label, run in runs.items()}
    contests = [contest for run in runs.values() for contest in rivalries(run)]
    try:
        line = ceiling_over_models(list(runs.values()))
    except CurveError:  # fewer than three models, or all alike
        line = None
    if as_json:
        rows = [{"run": str(runs[label].path), **one.as_dict()} for label, found in reports.items() for one in found]
        over_models = line and {**vars(line), "r_squared": line.r_squared}
        show_json({"resampling": rows, "rivalries": [_row(one) for one in contests], "ceiling_line": over_models})
    else:
        labelled = [
            (f"{label}/{one.track}" if label else one.track, one) for label, found in reports.items() for one in found
        ]
        _rates(labelled)
        _rewards(labelled)
        _attempts(labelled)
        _styles(labelled)
        for label, one in labelled:
            console().print(f"{label}:", highlight=False)
            for finding in one.findings:
                console().print(f"  {finding}", highlight=False)
        for contest in contests:
            console().print(f"{contest.weak} against {contest.strong}: {_outcome(contest)}", highlight=False)
        if line is not None:
            words = (
                f"conditional accuracy = {line.slope:.3f} x accuracy + {line.intercept:.3f}, r² {line.r_squared:.3f}"
            )
            console().print(f"over {line.points} models: {words}", highlight=False)
    if plot is not None:
        _plot([(label, one) for label, found in reports.items() for one in found], plot)


def _rates(reports: Labelled) -> None:
    columns = ("problems", "one sample", "accepted", "completeness", "soundness", "conditional", "gap")
    made = table("Verifiers and what they let through", ("strategy",), columns)
    for label, one in reports:
        counts, rates = one.counts, one.counts.decisions
        shares = (counts.accuracy, counts.apparent_accuracy, rates.completeness, rates.soundness)
        more = (counts.conditional_accuracy, counts.generalisation_gap)
        made.add_row(label, f"{len(counts):,}", *(percent(share) for share in (*shares, *more)))
    console().print(made)


def _rewards(reports: Labelled) -> None:
    columns = ("lambda", "K*", "worth", "K* of the model", "worth of all samples", "95 %")
    made = table("Resampling: the K that pays, if a wrong answer costs lambda", ("strategy",), columns)
    for label, one in reports:
        for i, reward in enumerate(one.rewards):
            end = reward.value
            made.add_row(
                label if i == 0 else "",
                f"{reward.best.ratio:g}",
                _k(reward.best),
                f"{reward.best.reward:.3f}",
                _k(reward.model),
                f"{end.mean[-1]:.3f}",
                f"{end.low[-1]:.3f} to {end.high[-1]:.3f}",
            )
    console().print(made)


def _k(best: Best) -> str:
    if best.k == float("inf"):
        return "∞"
    return f"{best.k:.0f}" + ("+" if best.at_most else "")


def _attempts(reports: Labelled) -> None:
    made = table("How late an acceptance comes, and how often it is wrong", ("strategy",), ("attempt", "ends", "wrong"))
    for label, one in reports:
        found = one.attempts
        for i, (first, last) in enumerate(zip(found.first, found.last, strict=True)):
            if found.stopped[i] > 0:
                place = str(first) if first == last else f"{first} to {last}"
                name = label if i == 0 else ""
                made.add_row(name, place, percent(found.stopped[i]), percent(found.false_discovery[i]))
    console().print(made)


def _styles(reports: Labelled) -> None:
    made = table("Conventions kept by programs that passed", ("strategy", "convention"), ("right ones", "wrong ones"))
    for label, one in reports:
        for i, name in enumerate(one.style.right if one.style else ()):
            assert one.style is not None
            shares = (percent(one.style.right[name]), percent(one.style.wrong[name]))
            made.add_row(label if i == 0 else "", name.replace("_", " "), *shares)
    if made.row_count:
        console().print(made)


def _row(contest: Contest) -> dict[str, object]:
    found, gap = contest.result, contest.result.shortfall
    return {
        "weak": contest.weak,
        "strong": contest.strong,
        "problems": contest.problems,
        "accuracy": found.weak,
        "conditional_accuracy": found.ceiling,
        "strong_accuracy": found.strong,
        "shortfall_interval": [float(gap.low[0]), float(gap.high[0])],
        "hopeless": found.hopeless,
        "k": found.k,
    }


def _outcome(contest: Contest) -> str:
    found = contest.result
    if found.hopeless:
        gap = found.shortfall
        words = f"95 % from {gap.low[0]:+.1%} to {gap.high[0]:+.1%}"
        return f"NO number of samples catches up: {found.ceiling:.1%} against {found.strong:.1%} ({words})"
    if found.k is None:
        return f"it does not catch up with the samples there are (it may reach {found.ceiling:.1%} where it answers)"
    return f"it is as often right ({found.strong:.1%}) from {found.k} attempts on"


def _plot(reports: Labelled, path: Path) -> None:
    from tts.curves import writing
    from tts.studies.reward_plot import plot_rewards

    lines = [
        (f"{f'{label}/' if label else ''}{one.track}", reward.best, reward.k, reward.value)
        for label, one in reports
        for reward in one.rewards
    ]
    with writing(path):
        plot_rewards(lines, path)
    say(f"wrote {path}")
