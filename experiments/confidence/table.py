"""What early termination by confidence saves of the tokens, and what it does to the majority's accuracy.

python -m experiments.confidence.table RUN
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from tts.curves import CurveError, Interval, mean_interval, paired_difference
from tts.runs import Run
from tts.runs.run import Track

HEAD = ("strategy", "tokens", "saved, %", "ended early, %", "right, %", "difference to the majority, points")


def table(run: Run) -> str:
    """One row for each strategy, in Markdown; what is saved is measured against the first, which ends none early.

    Tokens are all that were generated, those of ended samples too. Intervals are 95 %, over the same problems.
    """
    whole, *others = run.tracks
    rows = [row(whole, whole), *(row(track, whole) for track in others)]
    lines = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def row(track: Track, whole: Track) -> tuple[str, ...]:
    """The cells of one strategy."""
    tokens, all_tokens = generated(track), generated(whole)
    difference = ""
    if track is not whole:
        one, other = solved(track), solved(whole)
        if one.keys() != other.keys():
            raise CurveError(f"{track.label} and {whole.label} are not of the same problems")
        pairs = np.array([(one[cell], other[cell]) for cell in one])
        difference = in_points(paired_difference(pairs[:, :1], pairs[:, 1:]), signed=True)
    return (
        f"`{track.strategy}`",
        f"{tokens:,.0f}",
        "" if track is whole else f"{100 * (1 - tokens / all_tokens):.1f}",
        f"{100 * ended_early(track):.1f}",
        in_points(mean_interval(np.array([*solved(track).values()])[:, np.newaxis])),
        difference,
    )


def generated(track: Track) -> float:
    """Tokens that the model wrote, of requests that failed or were cancelled too."""
    return track.usage().completion_tokens + track.wasted().completion_tokens


def solved(track: Track) -> dict[tuple[str, int], float]:
    """Whether the selected answer is right, by problem and seed; none selected is not."""
    return {
        (row.problem, row.seed): flags[row.selected] if row.selected is not None else 0.0
        for row, flags in zip(track.rows, track.correct, strict=True)
    }


def ended_early(track: Track) -> float:
    """The share of samples that were abandoned."""
    query = """SELECT AVG(json_extract(details, '$.finish_reason') = 'abandoned') FROM candidates
               WHERE cell IN (SELECT id FROM cells WHERE strategy = ? AND model = ?)"""
    return track.run.db.execute(query, (track.strategy, track.model)).fetchone()[0]


def in_points(interval: Interval, *, signed: bool = False) -> str:
    """A mean in percent with its interval."""
    sign = "+" if signed else ""
    mean, low, high = (f"{100 * bound[0]:{sign}.1f}" for bound in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} to {high})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    print(table(Run(parser.parse_args().run)), end="")


if __name__ == "__main__":
    main()
