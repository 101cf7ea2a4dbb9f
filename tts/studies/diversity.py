"""How different the candidates of a run are: by cheap proxies from what is stored, and by a model's judgement."""

from __future__ import annotations

import ast
import sys
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tts.curves import CurveError, bootstrap, pass_at_k
from tts.runs.run import Row, Track
from tts.studies.diversity_math import group_diversity, relative_gain, vector_diversity
from tts.types import Candidate
from tts.verifiers.programs.extract import extract_program
from tts.verifiers.programs.normal_form import normal_form, normal_tree

Floats = NDArray[np.float64]
BUCKETS = 512
"""Of the hashed counts that stand for a program's structure."""


def diversity(track: Track, ideas: Mapping[int, float] | None = None, k: int | None = None) -> dict[str, Any]:
    """One row for a strategy and model: each measure's mean over problems, with its 95 % interval.

    `programs`: the probability that two candidates differ in their normal form (names and layout aside);
    `behaviours`: that their tests came out differently, or their parsed answers; `structure`: the mean cosine
    distance of their counts of syntax; `ideas`: what a judge said, by cell. Candidates that are no program are left
    out, and problems with fewer than two. `gain` is that of pass@k over pass@1; gains compare at the same `k`, by
    default `largest_k`.
    """
    values: dict[str, list[float]] = {name: [] for name in MEASURES}
    for row, correct in zip(track.rows, track.correct, strict=True):
        for name, value in _of_cell(track, row, correct).items():
            values[name].append(value)
    if ideas:
        values["ideas"] = [ideas[row.cell] for row in track.rows if row.cell in ideas]
    found = {"strategy": track.strategy, "model": track.model, "problems": len(track.rows), **_gain(track, k)}
    for name, measured in values.items():
        interval = bootstrap(np.array(measured)[:, None]) if len(measured) > 1 else None
        found[name] = float(np.mean(measured)) if measured else None
        found[f"{name}_interval"] = [float(interval.low[0]), float(interval.high[0])] if interval else None
    return found


def _of_cell(track: Track, row: Row, correct: Floats) -> dict[str, float]:
    candidates = track.candidates(row)
    programs = list(programs_of(candidates).values())
    found = {
        "programs": lambda: group_diversity([form for program in programs if (form := normal_form(program))]),
        "behaviours": lambda: group_diversity(_behaviours(candidates, correct)),
        "structure": lambda: vector_diversity(syntax_counts(programs)),
    }
    return {name: value for name, measure in found.items() if (value := _measured(measure)) is not None}


MEASURES = ("programs", "behaviours", "structure")


def _measured(measure: Callable[[], float]) -> float | None:
    try:
        return measure()
    except CurveError:  # fewer than two that can be compared
        return None


def programs_of(candidates: Sequence[Candidate]) -> dict[int, str]:
    """The programs among the candidates, by their place."""
    extracted = {i: extract_program(candidate.content) for i, candidate in enumerate(candidates)}
    return {i: program for i, program in extracted.items() if program and normal_form(program)}


def _behaviours(candidates: Sequence[Candidate], correct: Floats) -> list[Hashable]:
    """How the tests of each candidate came out, hidden ones included, or what its answer is."""
    labels: list[Hashable] = []
    for candidate, truth in zip(candidates, correct, strict=True):
        outcomes = candidate.verdict.details.get("outcomes") if candidate.verdict else None
        known = tuple(outcomes) if outcomes else candidate.notes.get("answer")
        if known is not None:
            labels.append((known, None if np.isnan(truth) else bool(truth)))
    return labels


def syntax_counts(programs: Sequence[str]) -> Floats:
    """A vector for each program: how often its tree has a node of one kind under one of another, hashed."""
    counts = np.zeros((len(programs), BUCKETS))
    for i, program in enumerate(programs):
        tree = normal_tree(program)
        for parent in ast.walk(tree) if tree else ():
            for child in ast.iter_child_nodes(parent):
                pair = f"{type(parent).__name__}>{type(child).__name__}"
                counts[i, zlib.crc32(pair.encode()) % BUCKETS] += 1
    return counts[counts.any(axis=1)]


def largest_k(track: Track) -> int:
    """How many candidates every graded problem has at least; 0 where nothing is graded."""
    return min(map(len, _graded(track)), default=0)


def _graded(track: Track) -> list[Floats]:
    return [flags for flags in track.correct if len(flags) and not np.isnan(flags).any()]


def _gain(track: Track, k: int | None) -> dict[str, Any]:
    graded, k = _graded(track), min(largest_k(track), k or sys.maxsize)
    if k < 2:
        return {"k": None, "gain": None}
    sizes, right = np.array([len(flags) for flags in graded]), np.array([flags.sum() for flags in graded])
    once, often = pass_at_k(sizes, right, [1, k]).mean(axis=0)
    return {"k": k, "gain": _measured(lambda: relative_gain(once, often))}
