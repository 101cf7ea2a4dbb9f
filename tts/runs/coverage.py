"""What a run's candidates hold, whatever was selected: the coverage law, and pass@k of those that were accepted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tts.curves import Curve, CurveError, filtered_pass_at_k, fit_coverage_law, pass_at_k, powers_of_two
from tts.runs.estimates import GradedPool, by_problem
from tts.runs.run import Track


def coverage_laws(tracks: Mapping[str, Track]) -> list[dict[str, Any]]:
    """For each track with independent candidates, the fit c = exp(a k^b) of its coverage (Brown et al. 2024, 3.2).

    Fitted to every k up to what all problems have; `most` is what any has. Tracks that do not determine it, such as
    one whose coverage is 0 throughout, are left out. `tracks` are named as in the report.
    """
    laws = []
    for label, track in tracks.items():
        pool = GradedPool.of(track)
        if not track.independent or not pool.kept or pool.sizes.min() < 3:
            continue
        ks = np.arange(1, int(pool.sizes.min()) + 1)
        rows = np.concatenate([pass_at_k(pool.sizes, pool.right, ks), np.zeros((len(pool.empty), len(ks)))])
        try:
            law = fit_coverage_law(ks, by_problem(rows, [row.problem for row in pool.rows]).mean(axis=0))
        except CurveError:
            continue
        found = {"a": law.a, "b": law.b, "r_squared": law.r_squared, "k": len(ks), "most": int(pool.sizes.max())}
        laws.append({"curve": f"{label} coverage", **found})
    return laws


def filtered_curve(track: Track) -> Curve | None:
    """Filtered pass@k, or None where the verifier decided on no candidate: k of the accepted candidates are submitted.

    Over all subsets of the accepted (`filtered_pass_at_k`). `x` is how many are submitted, which is fewer than k where
    fewer were accepted; every candidate is paid for at each k, so it is no curve of compute.
    """
    graded = [
        (row.problem, flags, said == 1)
        for row, flags, said in zip(track.rows, track.correct, track.passed, strict=True)
        if not np.isnan(flags).any()
    ]
    if not graded or all(np.isnan(said).all() for said in track.passed):
        return None
    accepted = np.array([said.sum() for _, _, said in graded])
    right = np.array([flags[said].sum() for _, flags, said in graded])
    grid = powers_of_two(max(1, int(accepted.max())))
    problems = [problem for problem, _, _ in graded]
    values, submitted = filtered_pass_at_k(accepted, right, grid), np.minimum(accepted[:, np.newaxis], grid)
    return Curve.from_values(
        track.label,
        "filtered pass@k",
        grid,
        by_problem(values, problems),
        x=by_problem(submitted, problems),
        x_name="submitted",
    )
