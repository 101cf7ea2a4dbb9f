"""Recursive self-aggregation: Venkatraman et al. 2025 (arXiv 2509.26626), section 3.

A population of answers; each loop replaces it by as many new ones, each written from K of it that are drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from tts.session import Session
from tts.strategies.company import Prompted, Rounds
from tts.types import Candidate

AGGREGATE = """\
$problem

These are attempts at it. None, some or all of them may be right:

$candidates

Find out where they differ and who is right there. Take over what is right, mend what is wrong, or go another way if \
all of them fail. Then give the whole answer in the form that was asked for."""


class Aggregate(Rounds):
    """A population of N answers, replaced `rounds` - 1 times by answers that each merge K of it; at the end a vote."""

    n: PositiveInt = 8
    """Answers in the population (16 in the paper)."""
    k: PositiveInt = 4
    """Answers that are merged into one; 1: each is refined alone."""
    rounds: PositiveInt = 3
    """Populations, the first answers included (10 in the paper)."""
    prompt: Prompted = AGGREGATE
    """What a model is asked that reads `$candidates`, K of the population."""

    def read(self, place: int, previous: Sequence[Candidate], session: Session) -> Sequence[Candidate]:
        drawn = session.rng.permutation(len(previous))[: self.k].tolist()
        return [previous[i] for i in drawn]
