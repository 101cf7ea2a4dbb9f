"""What N attempts at each problem of a run say of a model: reliability, evenness of cost, room for a verifier."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tts.errors import ConfigError
from tts.runs.run import Run, Track
from tts.studies.heterogeneity import Heterogeneity, HeterogeneitySummary, heterogeneity, summarise
from tts.studies.repeats_math import Repeats, Spread, conventional_to_reasoning_gap, cost_spread, repeats
from tts.studies.verifiers import plain


@dataclass(frozen=True)
class Protocol:
    """The parallel protocol of one strategy and model."""

    track: str
    model: str
    problems: int
    repeats: Repeats
    tokens: Spread
    """Generated tokens of an attempt."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return plain(asdict(self))


def parallel_report(run: Run) -> list[Protocol]:
    """Average, best, worst and majority over the independent attempts of each strategy and model, and their cost.

    Seeds are further attempts; with unequal numbers all problems are cut to the fewest. Raises `ConfigError` when no
    strategy has independent, graded attempts.
    """
    found = [protocol for track in run.tracks if (protocol := _of_track(track)) is not None]
    if not found:
        raise ConfigError(f"{run.path} has no independent, graded attempts: run best_of_n or self_consistency")
    return found


def gap(reports: Sequence[Protocol]) -> float | None:
    """The conventional-to-reasoning gap between the models of some runs; None for a single model."""
    if len({one.model for one in reports}) < 2:
        return None
    return conventional_to_reasoning_gap([one.repeats for one in reports])


def _of_track(track: Track) -> Protocol | None:
    if not track.independent:
        return None
    known = any(answer is not None for part in track.answers for answer in part)
    flags, tokens, said = defaultdict(list), defaultdict(list), defaultdict(list)
    per_cell = zip(track.rows, track.correct, track.cost("completion_tokens"), track.answers, strict=True)
    for row, correct, cost, answers in per_cell:
        flags[row.problem] += correct.tolist()
        tokens[row.problem] += np.diff(cost, prepend=0.0).tolist()
        said[row.problem] += answers
    kept = [problem for problem, part in flags.items() if part and not np.isnan(part).any()]
    if not kept:
        return None
    n = min(len(flags[problem]) for problem in kept)
    matrix = [flags[problem][:n] for problem in kept]
    answers = [said[problem][:n] for problem in kept] if known else None
    return Protocol(
        track.label,
        track.model,
        len(kept),
        repeats(matrix, answers),
        cost_spread([tokens[problem][:n] for problem in kept], matrix),
    )


@dataclass(frozen=True)
class HeterogeneityReport:
    """How heterogeneous the attempts of one strategy and model are."""

    track: str
    summary: HeterogeneitySummary
    problems: dict[str, Heterogeneity]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return plain(asdict(self))


def heterogeneity_report(run: Run, *, epsilon: float = 1.0) -> list[HeterogeneityReport]:
    """Mean, spread and anti-concentration of each problem's attempts, by their truth, and what that recommends.

    Raises `ConfigError` when no strategy has independent, graded attempts.
    """
    found = []
    for track in run.tracks:
        flags: dict[str, list[float]] = defaultdict(list)
        for row, correct in zip(track.rows, track.correct, strict=True):
            flags[row.problem] += correct.tolist()
        known = {problem: np.array(part) for problem, part in flags.items() if part and not np.isnan(part).any()}
        if track.independent and known:
            problems = {problem: heterogeneity(part, epsilon=epsilon) for problem, part in known.items()}
            found.append(HeterogeneityReport(track.label, summarise(list(problems.values())), problems))
    if not found:
        raise ConfigError(f"{run.path} has no independent, graded attempts: run best_of_n or self_consistency")
    return found
