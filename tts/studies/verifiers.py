"""How good the verifiers of stored runs are; nothing is verified again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tts.curves import Interval, best_of_k, mean_interval, paired_difference, powers_of_two
from tts.curves.estimators import Floats, Integers
from tts.errors import ConfigError
from tts.runs.columns import ranked
from tts.runs.estimates import GradedPool, by_pattern, by_problem
from tts.runs.run import Run, Track
from tts.studies import Study, StudyFindings, Table, TrackReport, reports_on
from tts.studies.judging import (
    Decisions,
    Reliability,
    auroc,
    aurocs,
    calibration,
    decisions,
    rank_correlations,
    within_problems,
)
from tts.tables import interval, number, percent
from tts.text import counted
from tts.types import USAGE_FIELDS, Usage


class Verifiers(Study):
    """How good the verifiers of a run are: their rates, their accuracy in selecting, and what verdicts cost."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        reports, rows = reports_on(runs, verifier_report)
        shown: list[Table | str] = [_rates(reports)]
        if (selecting := _selecting([report for _, report in reports])).rows:
            shown.append(selecting)
        for label, report in reports:
            shown.append(report.in_words(f"{report.verifier} ({label})"))
            if report.calibration is not None and len(report.calibration.low) > 2:
                shown.append(_reliability(report.calibration))
        return StudyFindings(rows, shown)


def _rates(reports: list[tuple[str, VerifierReport]]) -> Table:
    columns = ("rated", "right", "completeness", "soundness", "false discovery", "AUROC", "within", "rank corr.", "ECE")
    made = Table("Verifiers against the truth", ("verifier", "strategy"), (*columns, "tokens", "CPU s"))
    for label, report in reports:
        rates, error, cost = report.decisions, report.calibration and report.calibration.error, report.cost
        measures = (report.auroc, report.auroc_within, report.rank_correlation, error)
        made.add_row(
            report.verifier,
            label,
            f"{report.rated:,}",
            *(percent(rate) for rate in (report.right, rates.completeness, rates.soundness, rates.false_discovery)),
            *("?" if value is None else f"{value:.3f}" for value in measures),
            *(number(amount) for amount in ((cost.total_tokens, cost.verifier_seconds) if cost else (None, None))),
        )
    return made


def _selecting(reports: list[VerifierReport]) -> Table:
    made = Table("Accuracy of selecting 1 of N, 95 % intervals", ("verifier",), ("N", "by it", "random", "majority"))
    for report in reports:
        name = report.verifier
        for i, n in enumerate(report.selection.n if report.selection else ()):
            assert report.selection is not None
            accuracies = (report.selection.verifier, report.selection.random, report.selection.majority)
            cells = (f"{percent(of.mean[i])} ({interval(of.low[i], of.high[i])})" if of else "?" for of in accuracies)
            made.add_row(name, str(n), *cells)
            name = ""
    made.notes = ["means over all orders of the samples (ties averaged); over prefixes where ratings are of a group"]
    return made


def _reliability(found: Reliability) -> Table:
    made = Table("Reliability", ("score from",), ("candidates", "mean score", "right"))
    for low, count, score, right in zip(found.low, found.count, found.score, found.right, strict=True):
        made.add_row(f"{low:.1f}", f"{count:,}", f"{score:.3f}", percent(right))
    return made


@dataclass(frozen=True)
class Selection:
    """Accuracy of selecting one of N independent samples, for each of `n`, with 95 % intervals over problems."""

    n: Integers
    verifier: Interval
    """The best-rated sample."""
    random: Interval
    """Any sample."""
    over_random: Interval
    """The verifier's accuracy minus that of a random sample, on the same problems."""
    majority: Interval | None = None
    """The most frequent answer, where a strategy of the run has parsed the answers of the same samples."""
    over_majority: Interval | None = None
    short: int = 0
    """Problems with fewer samples than the largest N: from there on they stand at all that they have."""

    @property
    def against_random(self) -> str:
        """`better`, `worse` or `no different` at the largest N, as far as the interval can tell."""
        return _judgement(self.over_random)

    @property
    def against_majority(self) -> str | None:
        """The same against the majority."""
        return None if self.over_majority is None else _judgement(self.over_majority)


@dataclass(frozen=True)
class VerifierReport(TrackReport):
    """One verifier, as one strategy used it with one model."""

    verifier: str
    """Its spec; that of a part, for a verifier made of others."""
    oracle: bool
    """Whether the hidden truth was used."""
    candidates: int
    """Those whose truth is known."""
    rated: int
    """Of these, those with a decision or a score; the figures below are over them."""
    right: float
    """Share of right candidates."""
    decisions: Decisions
    auroc: float | None
    """Over all candidates together: it also rewards telling easy problems from hard ones."""
    auroc_within: float | None
    """Mean over problems that have right and wrong candidates: what selection depends on."""
    rank_correlation: float | None
    """Spearman's, of verdicts and truth; mean over the same problems."""
    contested: int
    """How many such problems there are."""
    calibration: Reliability | None
    """Of scores between 0 and 1."""
    selection: Selection | None
    """None where candidates were not drawn independently, or for a single problem."""
    cost: Usage | None
    """Of one verdict on average, shared costs counted once; None for a part, whose cost is not recorded by itself."""
    saved: Usage
    """The cost of the verdicts that were reused or skipped, as `cached` and `cascade` report it."""

    def sentences(self) -> Iterator[str]:
        selection = self.selection
        if self.rated < self.candidates:
            yield f"without a verdict: {self.candidates - self.rated:,} of {counted(self.candidates, 'candidate')}"
        if self.auroc_within is None:
            yield "no problem has both right and wrong candidates: there is nothing to tell apart"
        if self.cost is not None and (told := _in_words(self.cost)):
            yield f"a verdict costs {told}"
        if told := _in_words(self.saved):
            yield f"it did without verdicts worth {told}"
        if selection is None:
            yield "selection is not measured: it needs independent samples of at least two problems"
            return
        if selection.short:
            yield f"at all of their samples, fewer than {selection.n[-1]}, stand {counted(selection.short, 'problem')}"
        n, accuracy = selection.n[-1], selection.verifier.mean[-1]
        yield f"selecting 1 of {n} by it is right {accuracy:.1%} of the time"
        rivals = [("a random sample", selection.random, selection.over_random, selection.against_random)]
        if selection.majority and selection.over_majority and selection.against_majority:
            rivals.append(("the majority", selection.majority, selection.over_majority, selection.against_majority))
        for name, rival, difference, judgement in rivals:
            words = {
                "better": f"it beats {name}",
                "worse": f"it is WORSE than {name}",
                "no different": f"it does NOT beat {name}",
            }[judgement]
            low, mean, high = (100 * bound[-1] for bound in (difference.low, difference.mean, difference.high))
            points = f"{mean:+.1f} points, 95 % from {low:+.1f} to {high:+.1f}"
            yield f"{words}, which is right {rival.mean[-1]:.1%}: {points}"
        if selection.majority is None:
            yield "there is no majority to compare with: run self_consistency beside it, on the same samples"


def verifier_report(run: Run) -> list[VerifierReport]:
    """The verifiers of a run: each strategy's own, and its parts where it is made of several.

    Completeness, soundness and false-discovery rate of decisions, AUROC, rank correlation and calibration of scores,
    and the accuracy of selecting by them at N = 1, 2, 4, ... against a random sample and the majority. Raises
    `ConfigError` when no candidate has both a verdict and a known truth.
    """
    reports = []
    for track in run.tracks:
        verdicts = {"": track.verdicts, **track.part_verdicts}
        rated = {name: found for name, found in verdicts.items() if not np.isnan(found).all()}
        if rated and not np.isnan(np.concatenate(track.correct)).all():
            answers = _answers(track)
            reports += [_report(track, name, score, passed, answers) for name, (score, passed) in rated.items()]
    if not reports:
        raise ConfigError(f"{run.path} has no graded candidates with a verdict: run a strategy with a verifier")
    return reports


def _report(track: Track, name: str, score: Floats, passed: Floats, answers: Integers | None) -> VerifierReport:
    correct, order = np.concatenate(track.correct), ranked(score, passed)
    graded = ~np.isnan(correct)
    rated = graded & ~(np.isnan(score) & np.isnan(passed))
    pools = order[rated], correct[rated], track.cells[rated]
    within, contested = within_problems(aurocs, *pools)
    scored = rated & ~np.isnan(score)
    return VerifierReport(
        track=track.label,
        verifier=name or (track.verifier.spec if track.verifier else "the problems' own"),
        oracle=track.oracle,
        candidates=int(graded.sum()),
        rated=int(rated.sum()),
        right=float(correct[rated].mean()),
        decisions=decisions(passed[rated], correct[rated]),
        auroc=auroc(order[rated], correct[rated]),
        auroc_within=within,
        rank_correlation=within_problems(rank_correlations, *pools)[0],
        contested=contested,
        calibration=calibration(score[scored], correct[scored]),
        selection=_selection(track, order if name or track.estimator == "majority" else None, answers),
        cost=None if name else _per_candidate(track.verification, len(order)),
        saved=Usage() if name else track.saved,
    )


def _per_candidate(usage: Usage, candidates: int) -> Usage:
    return Usage(*(getattr(usage, name) / candidates for name in USAGE_FIELDS))


def _selection(track: Track, order: Floats | None, answers: Integers | None) -> Selection | None:
    """Of selecting by `order`, the ranks of all candidates; None: as the track does, which is by the same."""
    pool = GradedPool.of(track)
    problems = [track.rows[i].problem for i in pool.kept]
    if not track.independent or len(set(problems)) < 2:
        return None
    n = powers_of_two(int(pool.sizes.max()))
    at = np.minimum(n, pool.sizes[:, np.newaxis])
    if order is None:
        right = pool.estimates[0].values(at)[0]
    else:
        orders = track.split(order)
        ranks = [orders[i][track.whole[i]] for i in pool.kept]
        right = by_pattern(at, lambda rows, ks: best_of_k([ranks[i] for i in rows], [pool.flags[i] for i in rows], ks))
    chosen = by_problem(right, problems)
    chance = by_problem(np.repeat([[part.mean()] for part in pool.flags], len(n), axis=1), problems)
    short = len({problem for problem, size in zip(problems, pool.sizes, strict=True) if size < n[-1]})
    selection = Selection(
        n, mean_interval(chosen), mean_interval(chance), paired_difference(chosen, chance), short=short
    )
    if answers is None:
        return selection
    vote = by_problem(pool.votes(answers, at)[0], problems)
    return replace(selection, majority=mean_interval(vote), over_majority=paired_difference(chosen, vote))


def _answers(track: Track) -> Integers | None:
    """The parsed answer of each candidate, as any strategy of the run noted it for the same text (see `Track.classes`);
    None if none did."""
    for other in track.run.tracks:
        if other.model == track.model and (found := _noted(track, other)) is not None:
            return found
    return None


def _noted(track: Track, other: Track) -> Integers | None:
    cells = {(row.problem, row.seed): place for place, row in enumerate(other.rows)}
    places = [cells.get((row.problem, row.seed), -1) for row in track.rows]
    texts, number = np.unique(np.append(other.digests, track.digests), return_inverse=True)
    keys = np.append(other.cells, np.array(places)[track.cells]) * len(texts) + number
    theirs, mine = keys[: len(other.digests)], keys[len(other.digests) :]
    theirs, classes = theirs[other.answered], other.classes[other.answered]
    order = np.argsort(theirs, kind="stable")
    at = np.searchsorted(theirs, mine, side="right", sorter=order) - 1
    if -1 in places or (at < 0).any() or (theirs[order[at]] != mine).any():
        return None
    return classes[order[at]]


def _judgement(difference: Interval) -> str:
    if difference.low[-1] > 0:
        return "better"
    return "worse" if difference.high[-1] < 0 else "no different"


def _in_words(usage: Usage) -> str:
    parts = ((usage.total_tokens, "tokens"), (usage.verifier_seconds, "s of CPU time"))
    return " and ".join(f"{amount:,.3g} {unit}" for amount, unit in parts if amount)
