"""How success grows with the size of models: a fit to a grid of models, and what it predicts.

Hu et al. 2023, "Predicting Emergent Abilities with Infinite Resolution Evaluation" (arXiv 2310.03262): success is
exp(-c N^-alpha), so that log(-log success) falls in a straight line over log N, N being parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import PositiveFloat

from tts.curves import CurveError, mean_interval, pass_until
from tts.curves.fits import fit_line
from tts.errors import ConfigError
from tts.runs import Run
from tts.runs.estimates import by_problem
from tts.runs.run import Floats, Track
from tts.stopping import student
from tts.strategies.pass_until import PassUntil
from tts.studies import Study, StudyFindings, Table, labelled_tracks
from tts.tables import interval, number, percent


class ScaleLaw(Study):
    """Success against the size of models, with a fit and its prediction interval.

    Takes runs of `pass_until`, or of any strategy with independent samples, with several models whose card has
    `parameters`.
    """

    name = "scale"

    predict: PositiveFloat | None = None
    """Parameters of the model to predict; by default twice the largest."""

    def findings(self, runs: Mapping[str, Run]) -> StudyFindings:
        found: dict[str, list[dict[str, Any]]] = {}
        for _, track in labelled_tracks(runs):
            if (row := success(track)) is not None:
                found.setdefault(track.strategy, []).append(row)
        if not found:
            raise ConfigError(
                "no success rates: the study takes pass_until, or independent samples, of two problems or more"
            )
        columns = ("parameters", "problems", "samples", "success", "95 %")
        made, data = Table("Success against size", ("strategy", "model"), columns), []
        for strategy, rows in found.items():
            for row in rows:
                success_ = f"{row['success']:.2g}" if 0 < row["success"] < 0.01 else percent(row["success"])
                size = "" if row["parameters"] is None else number(row["parameters"])
                bounds = interval(row["low"], row["high"])
                made.add_row(strategy, row["model"], size, str(row["problems"]), str(row["samples"]), success_, bounds)
            law, why_not = self._law(rows)
            data.append({"strategy": strategy, "models": rows, "law": law, "why_not": why_not})
            made.notes.append(f"{strategy}: {why_not or _words(law)}")
        return StudyFindings(data, [made])

    def _law(self, rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float] | None, str]:
        """The fit over the models whose size is known, or why there is none."""
        sized = [row for row in rows if row["parameters"]]
        if len(sized) < len(rows):
            return None, "no fit: models without `parameters` in their card"
        sizes, rates = ([row[key] for row in sized] for key in ("parameters", "success"))
        try:
            law = fit_size_law(sizes, rates)
        except CurveError as error:
            return None, f"no fit: {error}"
        size = self.predict or 2 * max(sizes)
        rate, low, high = law.predicted(size)
        fitted = {"c": law.c, "alpha": law.alpha, "r_squared": law.r_squared}
        return {**fitted, "size": size, "rate": rate, "low": low, "high": high}, ""


def _words(law: Mapping[str, float] | None) -> str:
    assert law is not None
    return (
        f"success = exp(-{law['c']:.3g} N^-{law['alpha']:.3g}), r² {law['r_squared']:.3f}; {number(law['size'])} "
        f"parameters: {law['rate']:.2g}, a new model within {law['low']:.2g} to {law['high']:.2g} (95 %)"
    )


def success(track: Track) -> dict[str, Any] | None:
    """The mean success rate of a track's problems with its interval; None where samples do not tell it.

    Of `pass_until` it is the rate of acceptance, which is what it draws until; elsewhere that of right samples.
    """
    method = track.method
    if not track.independent and not isinstance(method, PassUntil):
        return None
    flags = track.passed if isinstance(method, PassUntil) else track.correct
    kept = [i for i, part in enumerate(flags) if len(part) and (method.gains == "rates" or not np.isnan(part).any())]
    parts, names = [flags[i] == 1 for i in kept], [track.rows[i].problem for i in kept]
    if isinstance(method, PassUntil) and track.run.record["config"].get("total_budget") is None:
        found = pass_until(parts, method.passes)
        values, samples = found.rate, int(found.draws.sum())
    else:
        values, samples = np.array([part.mean() for part in parts]), sum(map(len, parts))
    if len(set(names)) < 2:
        return None
    success, low, high = mean_interval(by_problem(values[:, np.newaxis], names)).at()
    return {
        "model": track.model,
        "parameters": track.run.card(track.model, "policy").parameters,
        "problems": len(set(names)),
        "samples": samples,
        "success": success,
        "low": low,
        "high": high,
    }


@dataclass(frozen=True)
class SizeLaw:
    """success(N) = exp(-c N^-alpha), fitted as a straight line."""

    c: float
    alpha: float
    r_squared: float
    sizes: Floats
    """Logarithms of the sizes fitted to."""
    error: float
    """Standard deviation of the residuals of log(-log success)."""

    def predicted(self, size: float, level: float = 0.95) -> tuple[float, float, float]:
        """Success at `size`, with the bounds within which a new model of that size lies."""
        x, centre = math.log(size), self.sizes.mean()
        line = math.log(self.c) - self.alpha * x
        spread = ((self.sizes - centre) ** 2).sum()
        error = self.error * math.sqrt(1 + 1 / len(self.sizes) + (x - centre) ** 2 / spread)
        reach = error * students_quantile(level, len(self.sizes) - 2)
        at, low, high = (math.exp(-math.exp(min(line + by, 700))) for by in (0, reach, -reach))
        return at, low, high


def fit_size_law(sizes: Sequence[float], rates: Sequence[float]) -> SizeLaw:
    """Least squares of log(-log rate) on log size.

    Raises `CurveError` with fewer than three sizes, or for a rate of 0 or 1.
    """
    if any(not 0 < rate < 1 for rate in rates):
        raise CurveError("a model solves none or all, which has no logarithm: more samples, or other problems")
    x, y = np.log(np.asarray(sizes, np.float64)), np.log(-np.log(np.asarray(rates, np.float64)))
    line = fit_line(x, y)
    left = y - line.intercept - line.slope * x
    error = math.sqrt((left**2).sum() / (len(x) - 2))
    return SizeLaw(math.exp(line.intercept), -line.slope, line.r_squared, x, error)


def students_quantile(level: float, freedom: int) -> float:
    """Where Student's t lies between plus and minus of it with the probability `level`."""
    low, high = 0.0, 1e6
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student(middle, freedom) < level else (low, middle)
    return high
