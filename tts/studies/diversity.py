"""How different candidates are, and whether that predicts what more of them gain.

Idea diversity after Wang et al. 2024, "Planning In Natural Language Improves LLM Search For Code Generation" (arXiv
2409.03733), section 6.1 and appendix S: the probability that two programs drawn from a pool differ. Whether two are
similar is told by cheap proxies (equal syntax, equal behaviour, near vectors), or by a model: it puts every program
into words and compares every pair. A pair without a usable answer is left out; it does not count as different.
"""

from __future__ import annotations

import ast
import re
import sys
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from pydantic import PositiveInt, ValidationError

from tts.base import answer_classes
from tts.concurrency import concurrent_map
from tts.curves import CurveError, mean_interval, pass_at_k
from tts.curves.estimators import Floats
from tts.curves.fits import fit_line
from tts.curves.plot import COLOURS, GREY, MARKERS, drawing
from tts.errors import ConfigError, complaints
from tts.prompting import NoAnswer, fill, insist, prose, template
from tts.runs import Run
from tts.runs.run import Row, Track
from tts.runs.store import Store
from tts.sampler import Endpoint, Sampler
from tts.session import Session
from tts.studies import FigureFile, Study, StudyFindings, Table, labelled_tracks, write_figure
from tts.tables import number, percent
from tts.text import counted
from tts.types import Candidate, Problem, sum_usage
from tts.verifiers.programs.extract import extract_program, normal_form, normal_tree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")

MEASURES = ("programs", "behaviours", "structure")
BUCKETS = 512
"""Of the hashed counts that stand for a program's structure."""


class Diversity(Study):
    """How different the candidates of each strategy are, and what more of them gain."""

    judge: str | None = None
    """A model that judges whether two programs rest on the same idea. Its answers are kept beside the run."""
    base_url: str | None = None
    """Where the judge is served. Default: $OPENAI_BASE_URL."""
    plot: FigureFile = None
    """Draw the gain of pass@k against diversity into this file (.svg, .png, .pdf)."""
    programs: PositiveInt = 40
    """Programs of a problem that the judge compares, drawn at random."""
    seed: int = 42
    """Of the draw."""
    summarise: Annotated[str, template("program")] = (
        "Say in a few sentences by which idea this program solves its problem: the approach and the main steps, "
        "neither names nor details of the language.\n\n```python\n$program\n```"
    )
    """Asks for the idea of a program."""
    same: Annotated[str, template("first", "second", "first_idea", "second_idea")] = (
        "Two programs were written for the same problem.\n\nThe first, by the idea: $first_idea\n\n```python\n$first\n"
        "```\n\nThe second, by the idea: $second_idea\n\n```python\n$second\n```\n\nDo they rest on the same idea? "
        "Differences in names, style and details do not matter. Reply with yes or no alone."
    )
    """Asks whether two programs share an idea."""

    async def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        tracks = dict(labelled_tracks(runs))
        k = common_k(tracks.values())
        rows, notes = [], []
        for label, track in tracks.items():
            ideas = None
            if self.judge:
                ideas, cost = await judged_ideas(track, self)
                notes.append(f"{self.judge} judged {label}: {cost}")
            rows.append({"run": str(track.run.path), "label": label, **diversity(track, ideas, k)})
        if self.plot is not None:
            write_figure(draw_diversities(rows), self.plot)
        return StudyFindings(rows, [diversity_table(rows), *notes], [self.plot] if self.plot else [])


def diversity_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of `diversity`, each with a `label`."""
    shown = [name for name in (*MEASURES, "ideas") if any(row.get(name) is not None for row in rows)]
    made = Table("Diversity of candidates", ("strategy",), ("problems", *shown, "gain", "k"))
    for row in rows:
        values = (_with_interval(row, name) for name in shown)
        gain = "" if row["gain"] is None else percent(row["gain"])
        made.add_row(row["label"], f"{row['problems']:,}", *values, gain, "" if row["k"] is None else str(row["k"]))
    made.notes = [
        "programs, behaviours, ideas: the probability that two candidates differ; structure: their mean distance",
        "gain: of pass@k over pass@1, at the largest k that all have",
    ]
    return made


def _with_interval(row: Mapping[str, Any], name: str) -> str:
    between = row.get(f"{name}_interval")
    return number(row.get(name)) + (f" ({number(between[0])} to {number(between[1])})" if between else "")


def draw_diversities(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Gain against diversity of such rows: of ideas where all are judged, else of programs."""
    drawn = [row for row in rows if row["gain"] is not None]
    measure = "ideas" if drawn and all(row.get("ideas") is not None for row in drawn) else "programs"
    points = [(row["label"], row[measure], row["gain"]) for row in drawn if row[measure] is not None]
    return draw_gain(points, x_label=f"diversity of {measure}", k=drawn[0]["k"] if drawn else 1)


# -- from a run -------------------------------------------------------------------------------------------------------


def diversity(track: Track, ideas: Mapping[int, float] | None = None, k: int | None = None) -> dict[str, Any]:
    """One row for a strategy and model: each measure's mean over problems, with its 95 % interval.

    `programs` is the probability that two candidates differ in normal form (names and layout aside), `behaviours` that
    their tests had different outcomes, or their parsed answers differ; `structure` is the mean cosine distance of
    their counts of syntax; `ideas` are a judge's, by cell. Candidates without a program are left out, and problems
    with fewer than two. `gain` is that of pass@k over pass@1; gains compare at the same `k` (default: `largest_k`).
    """
    values: dict[str, dict[str, list[float]]] = {name: {} for name in MEASURES}
    for row, correct in zip(track.rows, track.correct, strict=True):
        for name, value in _of_cell(track, row, correct).items():
            values[name].setdefault(row.problem, []).append(value)
    if ideas:
        values["ideas"] = {}
        for row in track.rows:
            if row.cell in ideas:
                values["ideas"].setdefault(row.problem, []).append(ideas[row.cell])
    found = {"strategy": track.strategy, "model": track.model, "problems": len(track.rows), **_gain(track, k)}
    for name, of_problem in values.items():
        measured = [float(np.mean(seeds)) for seeds in of_problem.values()]  # the seeds of a problem count as one
        interval = mean_interval(np.array(measured)[:, None]) if len(measured) > 1 else None
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


def _measured(measure: Callable[[], float]) -> float | None:
    try:
        return measure()
    except CurveError:  # fewer than two that can be compared
        return None


def programs_of(candidates: Sequence[Candidate]) -> dict[int, str]:
    """The programs among the candidates, by position."""
    extracted = {i: extract_program(candidate.content) for i, candidate in enumerate(candidates)}
    return {i: program for i, program in extracted.items() if program and normal_form(program)}


def _behaviours(candidates: Sequence[Candidate], correct: Floats) -> list[Hashable]:
    """The outcomes of each candidate's tests, hidden ones included, or its answer."""
    labels: list[Hashable] = []
    answers = answer_classes([candidate.notes for candidate in candidates])
    for candidate, answer, truth in zip(candidates, answers, correct, strict=True):
        outcomes = candidate.verdict.details.get("outcomes") if candidate.verdict else None
        known = tuple(outcomes) if outcomes else answer
        if known is not None:
            labels.append((known, None if np.isnan(truth) else bool(truth)))
    return labels


def syntax_counts(programs: Sequence[str]) -> Floats:
    """A vector for each program: how often a node of one kind is the child of another kind, hashed."""
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


def common_k(tracks: Iterable[Track]) -> int | None:
    """The largest k at which the gains of all tracks that have any compare; None where none has."""
    return min((most for track in tracks if (most := largest_k(track)) > 1), default=None)


def _graded(track: Track) -> list[Floats]:
    return [flags for flags in track.correct if len(flags) and not np.isnan(flags).any()]


def _gain(track: Track, k: int | None) -> dict[str, Any]:
    graded, k = _graded(track), min(largest_k(track), k or sys.maxsize)
    if k < 2:
        return {"k": None, "gain": None}
    sizes, right = np.array([len(flags) for flags in graded]), np.array([flags.sum() for flags in graded])
    once, often = pass_at_k(sizes, right, [1, k]).mean(axis=0)
    return {"k": k, "gain": _measured(lambda: relative_gain(once, often))}


# -- measures ----------------------------------------------------------------------------------------------------------


def pair_diversity(similar: ArrayLike) -> float:
    """D = 1 - (sum over i < j of S_ij) / C(n, 2) of a pool of n.

    `similar` is n x n with S from 0 to 1, read above its diagonal. NaN pairs were not judged and count neither way.
    Raises `CurveError` when no pair was judged.
    """
    matrix = np.asarray(similar, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise CurveError(f"similarity is a square matrix over the candidates of a problem, not {matrix.shape}")
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    judged = pairs[~np.isnan(pairs)]
    if not len(judged):
        raise CurveError("diversity needs at least one judged pair of candidates")
    if judged.min() < 0 or judged.max() > 1:
        raise CurveError("similarity lies between 0 and 1")
    return float(1 - judged.mean())


def group_diversity(labels: Sequence[Hashable]) -> float:
    """`pair_diversity` where two candidates are similar iff their labels are equal.

    Raises `CurveError` for fewer than two candidates.
    """
    if len(labels) < 2:
        raise CurveError("diversity needs at least two candidates")
    return 1 - sum(comb(size, 2) for size in Counter(labels).values()) / comb(len(labels), 2)


def vector_diversity(vectors: ArrayLike) -> float:
    """Mean cosine distance over all pairs of rows: 0 for parallel ones, at most 1 where no entry is negative.

    Raises `CurveError` for fewer than two rows, or a row of zeros.
    """
    matrix = np.asarray(vectors, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < 2:
        raise CurveError("diversity needs at least two vectors")
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    if not lengths.all():
        raise CurveError("a vector of zeros has no direction")
    n, unit = len(matrix), matrix / lengths
    together = float((unit.sum(axis=0) ** 2).sum())  # = n + twice the sum of all cosines of pairs
    return max(0.0, 1 - (together - n) / (n * (n - 1)))  # rounding may take it just below 0


def relative_gain(once: float, often: float) -> float:
    """By which share of pass@1 pass@k is larger. Raises `CurveError` where pass@1 is 0."""
    if once <= 0:
        raise CurveError("there is no relative gain over a pass@1 of 0")
    return often / once - 1


# -- ideas, as a model judges them -------------------------------------------------------------------------------------


async def judged_ideas(track: Track, study: Diversity) -> tuple[dict[int, float], str]:
    """The idea diversity of each cell of a track, as the study's judge sees it, and what that took, in words.

    Cells with fewer than two programs, or without a judged pair, are left out. Answers are stored and reused.
    """
    place = {"base_url": study.base_url} if study.base_url else {}
    try:
        endpoint = Endpoint.model_validate({"model": study.judge, **place})
    except ValidationError as error:
        raise ConfigError(f"judge: {complaints(error)}") from None
    found: dict[int, float] = {}
    usages, unanswered = [], 0
    async with Sampler(endpoint) as judge, Store(track.run.path / "diversity.sqlite") as store:
        await judge.check()
        for row in track.rows:
            session = Session(Problem.from_prompt("", id=row.problem), {"judge": judge}, store=store)
            programs = list(programs_of(track.candidates(row)).values())
            order = np.random.default_rng(study.seed).permutation(len(programs))[: study.programs]
            with suppress(CurveError):
                found[row.cell] = pair_diversity(await _similar(session, [programs[int(i)] for i in order], study))
            usages.append(session.spent)
            unanswered += len(session.ledger.failures)
    usage = sum_usage(usages)
    cost = f"{counted(usage.requests, 'request')}, {counted(usage.total_tokens, 'token')}"
    lost = f", {unanswered:,} without a usable answer (their pairs are left out)" if unanswered else ""
    return found, cost + lost


async def _similar(session: Session, programs: Sequence[str], study: Diversity) -> Floats:
    """Whether each pair shares its idea: 1, 0, or NaN where the judge gave no usable answer."""

    async def summarise(i: int) -> tuple[int, str | None]:
        return i, await _answer(session, fill(study.summarise, program=programs[i]), prose)

    async def compare(pair: tuple[int, int]) -> tuple[tuple[int, int], bool | None]:
        i, j = pair
        texts = {"first": programs[i], "second": programs[j], "first_idea": ideas[i], "second_idea": ideas[j]}
        return pair, await _answer(session, fill(study.same, **texts), yes_or_no)

    ideas = {i: idea async for i, idea in concurrent_map(summarise, _each(range(len(programs)))) if idea}
    matrix = np.full((len(programs), len(programs)), np.nan)
    async with aclosing(concurrent_map(compare, _each(combinations(sorted(ideas), 2)))) as compared:
        async for (i, j), same in compared:
            matrix[i, j] = matrix[j, i] = np.nan if same is None else float(same)
    return matrix


async def _each(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


async def _answer(session: Session, question: str, read: Callable[[str], T]) -> T | None:
    messages = [{"role": "user", "content": question}]
    try:
        return (await insist(session, messages, read, role="judge", tries=[{"temperature": 0.0}]))[1]
    except NoAnswer:
        return None


def yes_or_no(text: str) -> bool:
    """Whether an answer starts with yes or with no. Raises `ValueError` for any other."""
    match = re.match(r"\W*(yes|no)\b", text, re.I)
    if match is None:
        raise ValueError("it is neither yes nor no")
    return match[1].lower() == "yes"


# -- the figure --------------------------------------------------------------------------------------------------------


def draw_gain(points: Sequence[tuple[str, float, float]], *, x_label: str = "diversity", k: int) -> Figure:
    """Gain (pass@k / pass@1 - 1) against diversity, from three points on with their regression line.

    A point is the label of a strategy and model, its diversity (0 to 1) and its gain. Raises `CurveError` without
    points, `MissingExtra` without the extra `plot`.
    """
    if not points:
        raise CurveError("there is no strategy with both a diversity and a gain to draw")
    x, y = np.array([point[1:] for point in points]).T
    with drawing("gains") as figures:
        from matplotlib.ticker import PercentFormatter

        figure = figures(figsize=(5.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for i, (label, different, gain) in enumerate(points):
            axes.plot(different, gain, MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], label=label)
        try:
            line = fit_line(x, y)
        except CurveError:  # too few points for a line
            pass
        else:
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, line.intercept + line.slope * ends, color=GREY, linewidth=1, zorder=0)
            axes.set_title(f"r = {line.correlation:.2f} over {line.points} points", loc="left", fontsize=9)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel(x_label)
        axes.set_ylabel(f"gain of pass@{k} over pass@1")
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure
