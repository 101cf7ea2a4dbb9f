"""Whether more compute was worth it: curves that fall, and strategies that cost more than they buy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tts.curves import Interval, paired_difference, powers_of_two
from tts.runs.estimates import GradedPool, by_problem, final_accuracies
from tts.runs.measures import fair_measure
from tts.runs.run import Track, once


@once
def fall(track: Track) -> dict[str, float] | None:
    """From where to where the accuracy of what a track selects falls as it sees more candidates; None: it does not.

    Between its highest point and the last one, at powers of two; the level is corrected for the number of points that
    the highest is chosen from.
    """
    pool = GradedPool.of(track)
    if not pool.kept or len({row.problem for row in pool.rows}) < 2 or (most := int(pool.sizes.max())) < 2:
        return None
    grid = powers_of_two(most)
    selected = pool.estimates[0]
    values, _ = selected.values(np.minimum(grid, pool.sizes[:, np.newaxis]))
    values = by_problem(values, [track.rows[i].problem for i in pool.kept])
    top = int(np.argmax(values.mean(axis=0)))
    if len(values) < 2 or top == len(grid) - 1:
        return None
    lost = paired_difference(values[:, -1:], values[:, top : top + 1], level=1 - 0.05 / (len(grid) - 1))
    if lost.high[0] >= 0:
        return None
    means = values.mean(axis=0)
    ends = {"from_k": float(grid[top]), "to_k": float(grid[-1]), "from": float(means[top]), "to": float(means[-1])}
    return {**ends, **told(lost)}


def told(difference: Interval) -> dict[str, float]:
    """A difference with its bounds, by name."""
    return dict(zip(("difference", "low", "high"), difference.at(), strict=True))


def outdone(tracks: Sequence[Track], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | None]:
    """For each track the most accurate cheaper one, where it is not shown to be better than that.

    Costs are compared by `fair_measure`, accuracies over the problems that both have. One that costs nearly the same is
    no cheaper one, and the hidden truth makes none.
    """
    solved: list[dict[str, float]] = []
    for track in tracks:
        pairs = [(row.problem, right) for row, right in zip(track.rows, final_accuracies(track), strict=True)]
        known = [(problem, right) for problem, right in pairs if not np.isnan(right)]
        names = sorted({problem for problem, _ in known})
        means = by_problem(np.array([[right] for _, right in known]).reshape(-1, 1), [one for one, _ in known])
        solved.append(dict(zip(names, means[:, 0].tolist(), strict=True)))
    found: list[dict[str, Any] | None] = []
    entries = list(zip(tracks, rows, solved, strict=True))
    for track, row, mine in entries:
        best: tuple[float, dict[str, Any]] | None = None
        for cheaper, other, theirs in entries:
            common = sorted(mine.keys() & theirs.keys())
            measure = fair_measure([track, cheaper])
            if other["oracle"] or measure is None or len(common) < 2:
                continue
            costs = [_cost(*one, measure) for one in ((track, row), (cheaper, other))]
            if costs[0] < CHEAPER * costs[1] or not costs[1]:
                continue
            over = [np.array([[one[problem]] for problem in common]) for one in (mine, theirs)]
            gain, accuracy = paired_difference(*over), float(over[1].mean())
            if best is None or accuracy > best[0]:
                name = {"strategy": other["strategy"], "model": other["model"]}
                ratio = {"times": costs[0] / costs[1], "measure": measure}
                best = accuracy, {**name, **ratio, "problems": len(common), **told(gain)}
        found.append(best[1] if best is not None and best[1]["low"] <= 0 else None)
    return found


CHEAPER = 1.1
"""What costs this many times less at least is cheaper."""


def _cost(track: Track, row: Mapping[str, Any], measure: str) -> float:
    """What each problem cost."""
    if measure == "flops":
        return sum(float(part[-1]) for part in track.cost(measure)) / row["problems"]
    whole = row["money"] if measure == "money" else row["prompt_tokens"] + row["completion_tokens"]
    return whole / row["problems"]
