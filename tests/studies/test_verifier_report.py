"""The report on a run's verifiers, against the run's own candidates and against what is known of the verifiers."""

from __future__ import annotations

import hashlib
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tts import Candidate, Endpoint, Experiment, Problem, Run, Usage, Verdict, Verifier, registry
from tts.errors import ConfigError
from tts.runs.analysis import track_curves
from tts.studies.repeats import parallel_report
from tts.studies.verifiers import VerifierReport, verifier_report
from tts.text import counted

FPR, FNR = 0.2, 0.1
NOISY = f"noisy(fpr={FPR},fnr={FNR})"


class Blind(Verifier):
    """Scores by a hash of the text: knows nothing."""

    def check(self, problem: Problem, candidate: Candidate) -> float:
        return hashlib.blake2b(candidate.content.encode(), digest_size=1).digest()[0] / 255


class Alike(Verifier):
    """Gives every text the same score."""

    def check(self, problem: Problem, candidate: Candidate) -> float:
        return 0.5


registry.register("verifiers", Blind)
registry.register("verifiers", Alike)


async def made(task: str, endpoint: Endpoint, out: Path, *strategies: str, **more: Any) -> Run:
    table = {"task": task, "models": endpoint, "strategies": list(strategies), **more}
    return await Experiment.parse(table).run(out / "run")


async def test_every_figure_is_that_of_the_stored_candidates(task: str, endpoint: Endpoint, tmp_path: Path):
    strategies = ("self_consistency:n=8,answer=exact_answer", f"best_of_n:n=8,verifier={NOISY}")
    run = await made(task, endpoint, tmp_path, *strategies, seeds=[0, 1])
    (report,) = verifier_report(run)
    rows = [row for row in run.export() if row["strategy"].startswith("best_of_n")]
    right = [row for row in rows if row["correct"]]
    wrong = [row for row in rows if not row["correct"]]
    accepted = [row for row in rows if row["passed"]]
    assert (report.candidates, report.rated) == (len(rows), len(rows)) == (320, 320)
    assert report.decisions.completeness == np.mean([row["passed"] for row in right])
    assert report.decisions.soundness == np.mean([not row["passed"] for row in wrong])
    assert report.decisions.false_discovery == np.mean([not row["correct"] for row in accepted])
    pairs = [(one["score"] > other["score"]) + (one["score"] == other["score"]) / 2 for one in right for other in wrong]
    assert report.auroc == pytest.approx(np.mean(pairs))
    assert report.right == len(right) / len(rows)
    assert report.oracle


async def test_the_rates_are_those_that_the_noise_was_given(task: str, endpoint: Endpoint, tmp_path: Path):
    run = await made(task, endpoint, tmp_path, f"best_of_n:n=32,verifier={NOISY}", seeds=[0, 1])
    (report,) = verifier_report(run)
    assert report.decisions.completeness == pytest.approx(1 - FNR, abs=0.06)
    assert report.decisions.soundness == pytest.approx(1 - FPR, abs=0.06)


async def test_selection_is_that_of_the_strategy_over_all_draws(task: str, endpoint: Endpoint, tmp_path: Path):
    run = await made(
        task, endpoint, tmp_path, "best_of_n:n=4,verifier=blind", "self_consistency:n=4,answer=exact_answer"
    )
    (report,) = verifier_report(run)
    assert report.selection is not None
    track = run.tracks[0]
    assert report.selection.n.tolist() == [1, 2, 4]
    for k, accuracy in zip(report.selection.n, report.selection.verifier.mean, strict=True):
        values = []
        for row, correct in zip(track.rows, track.correct, strict=True):
            pool = track.candidates(row)
            chosen = [track.method.select([pool[i] for i in order]) for order in permutations(range(4), int(k))]
            values.append(np.mean([correct[one.spawned[0]] for one in chosen if one]))
        assert accuracy == pytest.approx(np.mean(values))
    chance = np.mean([flags.mean() for flags in track.correct])
    assert report.selection.random.mean == pytest.approx([chance] * 3)
    assert report.selection.majority is not None
    assert report.selection.majority.mean[0] == pytest.approx(chance)


def said(report: VerifierReport) -> str:
    return "\n".join(report.findings)


async def test_a_verifier_that_knows_nothing_is_told_so_plainly(task: str, endpoint: Endpoint, tmp_path: Path):
    run = await made(
        task, endpoint, tmp_path, "best_of_n:n=16,verifier=alike", "self_consistency:n=16,answer=exact_answer"
    )
    (report,) = verifier_report(run)
    assert report.selection is not None
    assert report.selection.against_random == "no different"
    assert report.selection.against_majority == "worse"  # the wrong answers of this model are all different
    assert "it is WORSE than the majority" in said(report)
    assert "it does NOT beat a random sample" in said(report)
    assert (report.auroc, report.auroc_within, report.rank_correlation) == (0.5, 0.5, None)
    assert report.calibration is not None
    assert report.calibration.error == pytest.approx(abs(0.5 - report.right))


async def test_a_perfect_one_beats_both(task: str, endpoint: Endpoint, tmp_path: Path):
    run = await made(
        task, endpoint, tmp_path, "best_of_n:n=16,verifier=oracle", "self_consistency:n=16,answer=exact_answer"
    )
    (report,) = verifier_report(run)
    assert report.selection is not None
    assert report.selection.against_random == "better"
    assert report.selection.over_majority is not None
    assert report.selection.over_majority.mean[-1] >= 0
    assert (report.auroc, report.decisions.completeness, report.decisions.false_discovery) == (1.0, 1.0, 0.0)
    assert "it beats a random sample" in said(report)


async def test_the_parts_of_a_verifier_are_reported_too(task: str, endpoint: Endpoint, tmp_path: Path):
    run = await made(
        task, endpoint, tmp_path, f"best_of_n:n=8,verifier=weighted(verifiers=[blind,{NOISY}],weights=[0.1,1])"
    )
    whole, blind, noisy = verifier_report(run)
    assert (whole.verifier.partition(":")[0], blind.verifier) == ("weighted", "blind")
    assert noisy.verifier == f"noisy:fpr={FPR},fnr={FNR}"
    assert whole.auroc is not None
    assert blind.auroc is not None
    assert whole.auroc > blind.auroc
    assert blind.decisions.decided == 0
    assert noisy.decisions.decided == 160
    assert "no majority" in said(whole)


class Dear(Verifier):
    """Takes a second of CPU time."""

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        return Verdict(1.0, len(candidate.content) % 2 == 0, cpu_seconds=1.0)


registry.register("verifiers", Dear)


async def test_what_a_verdict_costs_is_told_and_what_was_saved(task: str, endpoint: Endpoint, tmp_path: Path):
    strategies = [
        f"best_of_n:n=8,verifier={one}"
        for one in ("dear", "deduplicated(verifier=dear,by=answer,answer=exact_answer)", "all_of(verifiers=[dear])")
    ]
    plain, cached, whole, part = verifier_report(await made(task, endpoint, tmp_path, *strategies))
    assert plain.cost == Usage(verifier_seconds=1.0, seconds=plain.cost.seconds if plain.cost else 0)
    assert "a verdict costs 1 s of CPU time" in said(plain)
    assert plain.saved == Usage()
    assert cached.cost is not None
    assert 0 < cached.saved.verifier_seconds < 160
    assert cached.cost.verifier_seconds * 160 + cached.saved.verifier_seconds == pytest.approx(160)
    assert f"it did without verdicts worth {cached.saved.verifier_seconds:.3g} s of CPU time" in said(cached)
    assert whole.cost is not None
    assert whole.cost.verifier_seconds == 1.0
    assert part.cost is None


async def test_ratings_in_company_select_as_they_would_among_the_first_n(task: str, endpoint: Endpoint, tmp_path: Path):
    agreeing = "best_of_n:n=8,verifier=agreement(answer=exact_answer)"
    run = await made(task, endpoint, tmp_path, agreeing, "self_consistency:n=8,answer=exact_answer")
    (report,) = verifier_report(run)
    assert report.selection is not None
    votes = run.tracks[1]
    for k, accuracy in zip(report.selection.n, report.selection.verifier.mean, strict=True):
        right = [
            correct[chosen.spawned[0]] if (chosen := votes.method.select(votes.candidates(row)[:k])) else 0.0
            for row, correct in zip(votes.rows, votes.correct, strict=True)
        ]
        assert accuracy == pytest.approx(np.mean(right))


async def test_a_search_that_stops_when_it_likes_has_no_selection_at_n(task: str, endpoint: Endpoint, tmp_path: Path):
    run = await made(task, endpoint, tmp_path, f"first_pass:k=8,verifier={NOISY}")
    (report,) = verifier_report(run)
    assert report.selection is None
    assert "independent samples" in said(report)


async def test_a_run_without_verdicts_says_what_it_takes(task: str, endpoint: Endpoint, tmp_path: Path):
    run = await made(task, endpoint, tmp_path, "single")
    with pytest.raises(ConfigError, match="with a verifier"):
        verifier_report(run)


async def test_a_short_pool_does_not_cut_the_others(task: str, endpoint: Endpoint, tmp_path: Path):
    """Under a budget problems have unequal numbers of samples: the studies count them as the curves do, and say so."""
    models = endpoint.model_copy(update={"params": {"max_tokens": 60}})
    table = {"task": task, "models": models, "strategies": ["best_of_n:n=12,verifier=oracle"]}
    run = await Experiment.parse({**table, "budget": {"completion_tokens": 200}}).run(tmp_path / "run")
    (track,), (report,), (attempts,) = run.tracks, verifier_report(run), parallel_report(run)
    sizes = [int(whole.sum()) for whole in track.whole]
    assert report.selection is not None
    assert report.selection.n[-1] == max(sizes) > min(sizes)
    curve = track_curves(track, by="k")[0]
    np.testing.assert_allclose(report.selection.verifier.mean, curve.y)
    np.testing.assert_allclose(report.selection.verifier.low, curve.low)
    short = sum(size < max(sizes) for size in sizes)
    assert f"at all of their samples, fewer than {max(sizes)}, stand {counted(short, 'problem')}" in said(report)
    assert attempts.repeats.n == min(sizes)
    assert attempts.findings[0].startswith(f"{sum(size > min(sizes) for size in sizes)} problems have more than")
    assert set(attempts.repeats.intervals) == {"average", "best", "worst"}
