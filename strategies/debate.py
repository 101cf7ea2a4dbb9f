"""Debate among several agents: Du et al. 2023 (arXiv 2305.14325), section 2.

Every agent answers; in each further round it reads what the others answered and answers again. A vote ends it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from tts.session import Session
from tts.strategies.company import Prompted, Rounds
from tts.types import Candidate

DEBATE = """\
$problem

Your answer was:

$own

Others have answered:

$candidates

Weigh their reasons against yours. Where you were wrong, change your mind; where they are, keep to what you can show. \
Give your answer anew, whole and in the form that was asked for."""


class Debate(Rounds):
    """N agents, spread over the policies, that answer again in the light of the others' answers; a vote at the end."""

    n: PositiveInt = 3
    """Agents."""
    prompt: Prompted = DEBATE
    """What an agent is asked that has answered `$own` and reads `$candidates`, the others' answers."""

    def read(self, place: int, previous: Sequence[Candidate], session: Session) -> Sequence[Candidate]:
        return [one for i, one in enumerate(previous) if i != place]
