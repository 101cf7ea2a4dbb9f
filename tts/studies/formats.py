"""How far accuracy spreads over the formats of a prompt, and how few evaluations find that out.

Sclar et al. 2024, "FormatSpread" (arXiv 2310.11324), section 3.2: formats are the arms of a bandit; Thompson sampling
spends the first half of the evaluations on the best format, and the second half on the worst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import PositiveInt

from tts.allocation import Bandit
from tts.curves import mean_interval
from tts.errors import ConfigError
from tts.runs import Run
from tts.runs.run import Floats, Track
from tts.strategies.format_spread import FormatSpread
from tts.studies import Study, StudyFindings, Table, TrackReport, reports_on
from tts.tables import interval, percent

Pair = tuple[float | None, float | None]
Extremes = tuple[int, int]
"""The places of the best and of the worst format."""


class Formats(Study):
    """Best and worst format of a question, of those that `format_spread` has tried, and how a bandit finds them.

    The extremes of many are biased outwards; `held out` are the accuracies, on other problems than those
    that chose them, of the formats that are best and worst on these. Where a bandit has drawn the samples
    (`format_spread:bandit=true`), they are those that it takes for the best and the worst, and nothing is replayed.
    """

    evaluations: PositiveInt | None = None
    """What the bandit may evaluate in all: problems times formats. By default a quarter of what was."""
    batch: PositiveInt = 5
    """Problems that one turn of the bandit evaluates."""
    orders: PositiveInt = 40
    """Random orders of the problems, over which the bandits' results are averaged."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        reports, rows = reports_on(runs, self._reports)
        columns = ("accuracy", "95 %", "held out", "bandit", "uniform")
        made = Table("Accuracy over formats", ("strategy", "format"), columns)
        for label, one in reports:
            for place, name in ((one.best, "best: "), (one.worst, "worst: ")):
                end = int(name == "worst: ")
                made.add_row(
                    label,
                    name + one.formats[place],
                    percent(one.accuracies[place]),
                    interval(one.low[place], one.high[place]),
                    *(percent(pair[end]) for pair in (one.held_out, one.bandit, one.uniform)),
                )
            made.notes += [f"{label}: {words}" for words in one.sentences()]
        made.notes.append("bandit, uniform: accuracy of the formats that they take for the best and the worst")
        return StudyFindings(rows, [made])

    def _reports(self, run: Run) -> list[FormatReport]:
        tracks = [(track, track.method) for track in run.tracks]
        found = [self._report(track, made) for track, made in tracks if isinstance(made, FormatSpread)]
        found = [one for one in found if one is not None]
        if not found:
            raise ConfigError(f"{run.path} needs format_spread:n=16 or so, graded, over two problems or more")
        return found

    def _report(self, track: Track, method: FormatSpread) -> FormatReport | None:
        graded: dict[str, dict[tuple[str, int], float]] = {}
        for row, flags in zip(track.rows, track.correct, strict=True):
            for one, right in zip(track.candidates(row), flags, strict=True):
                if not np.isnan(right):
                    graded.setdefault(one.notes["format"], {})[row.problem, row.seed] = float(right)
        names = [name for name, cells in graded.items() if len(cells) > 1]
        cells = sorted(set().union(*(graded[name] for name in names)))
        if len(names) < 2 or len(cells) < 2:
            return None
        table = np.array([[graded[name].get(cell, np.nan) for cell in cells] for name in names])
        over = [mean_interval(row[~np.isnan(row), np.newaxis]).at() for row in table]
        accuracies, low, high = map(list, zip(*over, strict=True))
        rng, means, known = np.random.default_rng(0), np.array(accuracies), (~np.isnan(table)).sum(axis=1)
        size = int(known.sum())
        if method.bandit:
            made = Bandit(len(names), rng)
            made.drawn, made.right = known, np.nansum(table, axis=1)
            ends = made.ends
            took = accuracies[ends[0]], accuracies[ends[1]]
            averages: dict[str, Pair] = {"held_out": (None, None), "bandit": took, "uniform": (None, None)}
            limit, size = size, method.n * len(cells)
        else:
            limit, ends = self.evaluations or size // 4, (int(means.argmax()), int(means.argmin()))
            averages = self._replayed(table, means, limit, rng)
        return FormatReport(track.label, size, limit, names, accuracies, low, high, *ends, **averages)

    def _replayed(self, table: Floats, means: Floats, limit: int, rng: np.random.Generator) -> dict[str, Pair]:
        """What the best and the worst format reach by each way to find them, on average over orders of the problems."""
        results: dict[str, list[tuple[float, float]]] = {"bandit": [], "uniform": [], "held_out": []}
        for _ in range(self.orders):
            shuffled = table[:, rng.permutation(table.shape[1])]
            outcomes = [row[~np.isnan(row)] for row in shuffled]
            for way, ends in (
                ("bandit", bandit(outcomes, limit, self.batch, rng)),
                ("uniform", uniform(outcomes, limit)),
            ):
                results[way].append((means[ends[0]], means[ends[1]]))
            results["held_out"].append(_held_out(shuffled))
        return {way: (float(a), float(b)) for way, (a, b) in ((w, np.mean(r, axis=0)) for w, r in results.items())}


@dataclass(frozen=True)
class FormatReport(TrackReport):
    """The formats of a track."""

    size: int
    """Evaluations in all."""
    evaluations: int
    """Those that the bandit may make."""
    formats: list[str]
    accuracies: list[float]
    low: list[float]
    high: list[float]
    best: int
    worst: int
    held_out: Pair
    """Accuracy of the best and of the worst format, found on half of the problems, on the other half."""
    bandit: Pair
    """Accuracy of what the bandit takes for the best and the worst."""
    uniform: Pair
    """The same with as many evaluations spread evenly over all formats."""

    def sentences(self) -> Iterator[str]:
        spread = self.accuracies[self.best] - self.accuracies[self.worst]
        yield f"accuracy spreads over {spread * 100:.1f} points between {len(self.formats)} formats"
        yield f"the bandit made {self.evaluations:,} of {self.size:,} evaluations"
        if "as given" in self.formats:
            yield f"as given: {percent(self.accuracies[self.formats.index('as given')])}"


def bandit(outcomes: Sequence[Floats], evaluations: int, batch: int, rng: np.random.Generator) -> Extremes:
    """What a `Bandit` takes for the best and the worst of formats whose outcomes, 0 or 1, come one by one."""
    sizes, spent, arms = np.array([len(one) for one in outcomes]), 0, Bandit(len(outcomes), rng)
    while spent < min(evaluations, sizes.sum()):
        arm = arms.pull(arms.drawn < sizes, best=2 * spent < evaluations)
        begin = arms.drawn[arm]
        end = min(begin + min(batch, evaluations - spent), sizes[arm])
        arms.right[arm] += outcomes[arm][begin:end].sum()
        spent += int(end - begin)
        arms.drawn[arm] = end
    return arms.ends


def uniform(outcomes: Sequence[Floats], evaluations: int) -> Extremes:
    """The same with the evaluations spread evenly; formats that get none are taken for middling."""
    each, more = divmod(evaluations, len(outcomes))
    parts = [one[: each + (i < more)] for i, one in enumerate(outcomes)]
    overall = float(np.concatenate(parts).mean())
    means = [float(part.mean()) if len(part) else overall for part in parts]
    return int(np.argmax(means)), int(np.argmin(means))


def _held_out(table: Floats) -> tuple[float, float]:
    """The accuracy, on the second half of the columns, of the formats that are best and worst on the first."""
    half = table.shape[1] // 2
    chosen, other = (np.nan_to_num(np.nanmean(part, axis=1), nan=0.5) for part in (table[:, :half], table[:, half:]))
    return float(other[chosen.argmax()]), float(other[chosen.argmin()])
