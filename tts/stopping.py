"""When to stop sampling a problem: rules that say, from what the samples so far are, how many more it takes.

A rule sees the samples in the order in which they were spawned, and draws no more at once than it takes until it could
stop. So nothing that was drawn is cancelled, who answers first does not matter, and a stored run replays it (the study
`stopping`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt

from tts.base import as_config
from tts.errors import ConfigError
from tts.registry import Plugin, parse_spec
from tts.session import Session
from tts.types import Candidate

Evidence = Sequence[Any]
"""What each sample says, in spawned order: its class of answers (None: none), or the number that its verdict is worth
(None: unrated; infinite: accepted)."""


class Stopping(Plugin):
    """A rule that ends sampling. Subclass it, and give the object as `stop=`, for one of your own."""

    reads: ClassVar[Literal["votes", "scores"]] = "votes"
    """What its evidence is."""

    def more(self, evidence: Evidence, n: int) -> int:
        """How many more samples it takes, of `n` in all, until it might stop; 0: enough. Pure."""
        raise NotImplementedError(f"{type(self).__name__} must define more()")


class Certain(Stopping):
    """Stops when the votes to come cannot change the majority."""

    def more(self, evidence: Evidence, n: int) -> int:
        """So many that all of them, for the answer in the lead, would end it."""
        votes, left = Counter(vote for vote in evidence if vote is not None), n - len(evidence)
        (_, first), (_, second) = [*votes.most_common(2), (None, 0), (None, 0)][:2]
        others = votes.total() - first

        def ends(more: int) -> bool:
            """Answers may turn out to mean the same, so the lead must be over all others together."""
            sure = first + more > others + left - more
            return sure or self.enough(first + more, second, len(evidence) + more, n)

        return bisect_left(range(max(0, left)), True, key=ends)

    def enough(self, first: int, second: int, drawn: int, n: int) -> bool:
        """Whether to stop already with so many votes for the first and the second answer, of `drawn` samples."""
        return False


class BetaPosterior(Certain):
    """Stops when the answer in the lead is likelier than the next one with this confidence.

    Aggarwal et al. 2023, "Let's Sample Step by Step" (Adaptive-Consistency, arXiv 2305.11860): the share of the first
    of two answers has a uniform prior. The error is what was asked for on average over such problems; where two
    answers are about equally likely it is larger, since the rule looks again and again. `sequential` holds there too.
    """

    name = "beta"

    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """How likely the lead must be to be the model's most frequent answer."""

    def enough(self, first: int, second: int, drawn: int, n: int) -> bool:
        return lead_probability(first, second) >= self.confidence


class SequentialTest(Certain):
    """Stops when it is shown that more samples would not change the vote, with this risk of being wrong.

    Whatever the answers are and however many there are, the vote of all `n` samples is another one with the
    probability `risk` at most: a likelihood ratio of pools in which the lead has more than half of all samples against
    those in which it has not is a test martingale (Ville 1939; universal inference, Wasserman et al. 2020, arXiv
    1912.11436), so that looking often costs nothing. Sampling without replacement makes it exact.
    """

    name = "sequential"

    risk: float = Field(default=0.05, gt=0, lt=1)
    """Probability, at most, that the vote of all samples is another one."""

    def enough(self, first: int, second: int, drawn: int, n: int) -> bool:
        return majority_evidence(first, drawn, n) >= 1 / self.risk


class Windows(Stopping):
    """Stops when all samples of a window give the same answer.

    Li et al. 2024, "Escape Sky-high Cost: Early-stopping Self-Consistency" (ESC, arXiv 2401.10480), which takes that
    answer; here all samples vote.
    """

    size: PositiveInt = 5
    """Samples of a window."""

    def more(self, evidence: Evidence, n: int) -> int:
        """The rest of the window."""
        into = len(evidence) % self.size
        window = set(evidence[-self.size :])
        if evidence and not into and len(window) == 1 and None not in window:
            return 0
        return max(0, min(self.size - into, n - len(evidence)))


class ExpectedImprovement(Stopping):
    """Stops when one more sample is not expected to improve the best score by what it costs.

    The scores are taken to be normal, their mean unknown and their deviation about `spread`, which counts as one
    observation; the next one then follows Student's t (Jones et al. 1998, Journal of Global Optimization 13; as a rule
    of stopping, Weitzman 1979, Econometrica 47). Ends with the first accepted sample too.
    """

    name = "improvement"
    reads: ClassVar[Literal["votes", "scores"]] = "scores"

    cost: PositiveFloat = 0.01
    """What a sample costs, in units of the score."""
    spread: PositiveFloat = 0.1
    """How far scores of one problem lie apart, as far as is known before, in units of the score."""
    least: PositiveInt = 4
    """Samples before it may stop."""

    def more(self, evidence: Evidence, n: int) -> int:
        """One, after the first few."""
        scores, left = [score for score in evidence if score is not None], n - len(evidence)
        if math.inf in scores or left <= 0:
            return 0
        if len(scores) < max(2, self.least):
            return min(max(2, self.least) - len(scores), left)
        return int(expected_improvement(scores, self.spread) >= self.cost)


RULES = {rule.name: rule for rule in (Certain, BetaPosterior, SequentialTest, Windows, ExpectedImprovement)}


def made(spec: Any) -> Any:
    """A rule from its spec. Raises `ValueError` for unknown names."""
    if not isinstance(spec, str | dict):
        return spec
    try:
        name, parameters = parse_spec(spec)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if name not in RULES:
        raise ValueError(f"no rule '{name}'; there are: {', '.join(RULES)}")
    return RULES[name](**parameters)


def _reading(kind: str) -> Callable[[Stopping], Stopping]:
    def check(rule: Stopping) -> Stopping:
        if rule.reads != kind:
            fit = ", ".join(name for name, one in RULES.items() if one.reads == kind)
            raise ValueError(f"{rule.name} stops by {rule.reads}, and this strategy selects by {kind}; use: {fit}")
        return rule

    return check


RuleField = Annotated[Stopping, BeforeValidator(made), as_config]
"""A parameter that is a rule: an object, or a spec such as `beta(confidence=0.9)`."""
VoteRule = Annotated[RuleField, AfterValidator(_reading("votes"))]
"""One for votes."""
ScoreRule = Annotated[RuleField, AfterValidator(_reading("scores"))]
"""One for scores."""


async def drawn(
    session: Session,
    n: int,
    rule: Stopping | None,
    draw: Callable[[int], AsyncIterator[Candidate]],
    evidence: Callable[[Sequence[Candidate]], Evidence],
) -> AsyncGenerator[Candidate, None]:
    """The candidates that `draw` makes, of so many samples at a time, until `rule` has enough or there are `n`.

    `evidence` is what the rule reads off candidates in spawned order. Without a rule all are drawn at once, unless the
    session's searches take turns.
    """
    candidates: list[Candidate] = []
    asked = 0
    while asked < n:
        ordered = sorted(candidates, key=lambda candidate: candidate.spawned)
        wanted = n if rule is None else min(rule.more(evidence(ordered), n), n - asked)
        if wanted and session.turn is not None:
            wanted = min(await session.turn(asked, ordered, session.spent), wanted)
        if not wanted:
            return
        asked += wanted
        async for candidate in draw(wanted):
            candidates.append(candidate)
            yield candidate


def scores_of(candidates: Sequence[Candidate]) -> list[float | None]:
    """The evidence of verdicts."""
    verdicts = [candidate.verdict for candidate in candidates]
    return [None if one is None else math.inf if one.passed else one.score for one in verdicts]


def lead_probability(first: int, second: int) -> float:
    """That of two answers with so many votes the first is the likelier one, its share having a uniform prior.

    It is 1 - I(1/2; first + 1, second + 1), I being the regularised incomplete beta function.
    """
    trials = first + second + 1
    return sum(math.comb(trials, k) for k in range(first + 1)) / 2**trials


@lru_cache(maxsize=10_000)
def majority_evidence(first: int, drawn: int, n: int) -> float:
    """By how much likelier `first` of `drawn` samples are if more than half of all `n` are of that kind.

    The mean over all such numbers, against the number, of those up to half of `n`, that explains it best.
    """
    import numpy as np  # here, so that asking one question does not load it

    log = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    of_kind = np.arange(first, n - (drawn - first) + 1)  # what is possible
    others = n - of_kind
    likelihood = log[of_kind] - log[of_kind - first] + log[others] - log[others - (drawn - first)]
    more, less = likelihood[2 * of_kind > n], likelihood[2 * of_kind <= n]
    if not less.size:
        return math.inf
    return float(np.exp(more - less.max()).sum() / (n - n // 2))


def expected_improvement(scores: Sequence[float], spread: float) -> float:
    """By how much the next score is expected to exceed the best so far, with 0 where it does not.

    Of two scores or more, by Student's t with as many degrees of freedom; `spread` counts as one observation of their
    deviation.
    """
    n = len(scores)
    mean = sum(scores) / n
    scale = math.sqrt((spread**2 + sum((score - mean) ** 2 for score in scores)) / n * (1 + 1 / n))
    z = (max(scores) - mean) / scale
    density = math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2)) / math.sqrt(n * math.pi)
    density *= (1 + z * z / n) ** (-(n + 1) / 2)
    return scale * ((n + z * z) / (n - 1) * density - z * (0.5 - student(z, n) / 2))


def student(t: float, freedom: int) -> float:
    """The probability that Student's t lies between -t and t, in closed form (Abramowitz and Stegun 26.7.3 and 4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, total, term = math.cos(angle) ** 2, 0.0, math.cos(angle) if freedom % 2 else 1.0
    for k in range(2 + freedom % 2, freedom + 1, 2):
        total += term
        term *= cosine * (k - 1) / k
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if freedom % 2 else total
