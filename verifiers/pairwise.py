"""A model says which of two answers is better, in both orders (Zheng et al. 2023, arXiv 2306.05685, section 3.4).

The strategy `tournament` compares all candidates with each other.
"""

from __future__ import annotations

from statistics import fmean
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, PositiveInt

from tts.base import ScoreVerifier
from tts.concurrency import together
from tts.errors import ConfigError, SamplingFailed
from tts.prompting import ask, constrained, filled, json_of, template
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict

PROMPT = """\
Two answers to one task are to be compared. Which is better? What counts is this: $rubric
Which comes first, how long each is and how it is laid out are worth nothing in themselves.

<task>
$problem
</task>

<first>
$first
</first>

<second>
$second
</second>

Where they differ, check which one is right. Two that are equally good, or equally wrong, are a tie.
Reply with JSON: {"reasons": "what decides it, briefly", "better": "first", "second" or "tie"}"""

WORTH = {"first": 1.0, "tie": 0.5, "second": 0.0}


class Preference(BaseModel):
    """Which of two answers a judge prefers."""

    reasons: str = ""
    better: Literal["first", "second", "tie"]


class Pairwise(ScoreVerifier):
    """Scores by how strongly the answer is preferred to each of `rivals`, from 0 to 1.

    Needs a model for the role `judge`; one that goes by the order alone gives 0.5. A comparison counts only if it can
    be read in both orders. `details` has `wins`, one for each rival, None where the comparison does not count; if none
    counts, there is no score.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"judge"})
    scale: ClassVar[Scale | None] = "positive"

    prompt: Annotated[str, template("problem", "first", "second", "rubric")] = PROMPT
    """The prompt; the reply must be JSON with `reasons` and `better`: first, second or tie."""
    rubric: str = "the answer is correct and does all that the task asks for."
    """What makes an answer good."""
    votes: PositiveInt = 1
    """Judgements for each order; more than one needs a judge that samples (temperature above 0)."""
    rivals: tuple[str, ...] = ()
    """The answers to compare with."""

    def ready(self, problem: Problem) -> None:
        if not self.rivals:
            raise ConfigError("pairwise needs answers to compare with: rivals=[...], or the strategy tournament")

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        answer = await filled("$answer", answer=candidate)

        async def play(rival: str) -> float | None:
            orders = ((answer, rival), (rival, answer))
            ahead, behind = await together(self._worth(session, problem, *order) for order in orders)
            return None if ahead is None or behind is None else (ahead + 1 - behind) / 2

        wins = await together(play(rival) for rival in self.rivals)
        known = [win for win in wins if win is not None]
        return self.rated(fmean(known), wins=wins) if known else Verdict(None, details={"wins": wins})

    async def _worth(self, session: Session, problem: Problem, first: str, second: str) -> float | None:
        """How strongly the judge prefers the `first`, from 0 to 1; None where no judgement can be read."""
        prompt = await filled(self.prompt, problem=problem, first=first, second=second, rubric=self.rubric)
        messages = [{"role": "user", "content": prompt}]
        judged = ask(session, messages, json_of(Preference), role="judge", n=self.votes, **constrained(Preference))
        try:
            found = [WORTH[preference.better] async for _, preference in judged]
        except SamplingFailed:  # already recorded; the other comparisons continue
            return None
        return fmean(found) if found else None
