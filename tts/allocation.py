"""One budget for many problems: which of them gets the next samples.

The next sample goes where it is expected to gain most for what it costs: Damani et al. 2024 (arXiv 2410.04707) from
predicted success rates, here from what the samples so far have shown, as in the bandit of Zuo and Zhu 2025 (arXiv
2506.12721). Decisions fall in rounds, by what all samples before have shown, so that they do not depend on who
answers first, and an interrupted run makes them again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, model_validator

from tts.base import Strategy, answer_classes
from tts.errors import BudgetSpent
from tts.sampler.parameters import token_limit
from tts.settings import Settings
from tts.stopping import expected_improvement, lead_probability
from tts.types import Candidate, Usage, Verdict

Policy = Literal["greedy", "thompson", "uniform"]
Kind = Literal["passes", "votes", "scores", "rates", "arms"]
"""What is to be had of a problem: an accepted answer, a sure vote, a better score, a more exact rate of success; or of
ways to ask it, the best and the worst."""
Floats = NDArray[np.float64]

SHARE = 4
"""A round goes to the best quarter of the open problems."""


class TotalBudget(Settings):
    """One cap over all problems, for each strategy, model and seed."""

    requests: PositiveInt | None = None
    completion_tokens: PositiveInt | None = None
    total_tokens: PositiveInt | None = None
    """Prompt and completion tokens."""
    policy: Policy = "greedy"
    """`greedy`: the largest expected gain for its cost; `thompson`: the same of success rates drawn from their
    posterior distribution; `uniform`: the problem with the fewest samples, whatever they are."""

    @model_validator(mode="after")
    def _one_cap(self) -> Self:
        if sum(cap is not None for _, cap in self.caps) != 1:
            raise ValueError("a total budget has one cap: requests, completion_tokens or total_tokens")
        return self

    @property
    def caps(self) -> list[tuple[str, int | None]]:
        return [(name, getattr(self, name)) for name in ("requests", "completion_tokens", "total_tokens")]

    @property
    def cap(self) -> tuple[str, int]:
        """What is limited (a field of `Usage`, or `total_tokens`), and to how much."""
        return next((name, cap) for name, cap in self.caps if cap is not None)


class Allocator:
    """What the samples of each problem have shown so far, and who is next. Pure but for its own random numbers."""

    told: int = 1
    """What those who are next are told: how many samples to draw."""

    def __init__(self, policy: Policy, kind: Kind, problems: int, rng: np.random.Generator) -> None:
        self.policy: Policy = policy
        self.kind: Kind = kind
        self.drawn: NDArray[np.int64] = np.zeros(problems, dtype=np.int64)
        self.spent: NDArray[np.float64] = np.zeros(problems)
        self.settled: NDArray[np.bool_] = np.zeros(problems, dtype=np.bool_)
        """Problems that no further sample can gain anything for."""
        self._rng = rng
        self._gain = np.ones(problems)
        self._counts = np.ones((problems, 2))
        """Votes for the second and the first answer, one more than there are; passes: 0, failures."""

    def observe(self, problem: int, evidence: Sequence[float | str | None], cost: float) -> None:
        """Take note of all samples of a problem: whether each passed (1 or 0), its score, or its class of answers."""
        self.drawn[problem], self.spent[problem] = len(evidence), cost
        if self.policy == "uniform":
            return
        if self.kind == "rates":
            passed, seen = sum(one == 1.0 for one in evidence), len(evidence) + 1  # Jeffreys' prior
            rate = (passed + 0.5) / seen
            self._gain[problem] = rate * (1 - rate) / (seen + 1) ** 2  # of the variance, by one sample more
        elif self.kind == "passes":
            self._counts[problem] = 0, len(evidence)
            self.settled[problem] = 1.0 in evidence
        elif self.kind == "votes":
            votes = [count for _, count in Counter(one for one in evidence if one is not None).most_common(2)]
            first, second = [*votes, 0, 0][:2]
            self._counts[problem] = second + 1, first + 1
            self._gain[problem] = 1 - lead_probability(first, second)
        else:
            scores = [float(one) for one in evidence if one is not None]
            if len(scores) > 1:
                self._gain[problem] = expected_improvement(scores, float(np.std(scores)) or 0.1)

    def round(self, open_ones: NDArray[np.bool_], bounds: Floats, left: float) -> list[int]:
        """Who gets a sample each, as far as what they may cost (`bounds`) is surely `left`; empty: nobody.

        Everyone has a first sample before anyone has a second one.
        """
        able = np.flatnonzero(open_ones & ~self.settled)
        if not len(able):
            return []
        unseen = able[self.drawn[able] == 0]
        if len(unseen):
            chosen = unseen
        else:
            chosen = able[np.argsort(-self._index()[able], kind="stable")]
            if self.policy == "uniform":
                chosen = chosen[self.drawn[chosen] == self.drawn[chosen[0]]]
            else:
                chosen = chosen[: -(-len(able) // SHARE)]
        return chosen[np.cumsum(bounds[chosen]) <= left].tolist()

    def _index(self) -> Floats:
        """The expected gain of each problem's next sample for its cost; larger comes first."""
        if self.policy == "uniform":
            return -self.drawn.astype(np.float64)
        cost = self.spent / np.maximum(self.drawn, 1)
        cost = np.where(cost > 0, cost, cost[cost > 0].mean() if (cost > 0).any() else 1.0)
        if self.kind == "passes":
            a, b = fitted_prior(self._counts[:, 1].astype(np.int64), self.settled)
            missed = b + self._counts[:, 1]
            gain = self._rng.beta(np.full(len(missed), a), missed) if self.policy == "thompson" else a / (a + missed)
        elif self.kind == "votes" and self.policy == "thompson":
            gain = np.maximum(self._rng.beta(self._counts[:, 0], self._counts[:, 1]) - 0.5, 0)
        else:
            gain = self._gain
        return gain / cost


class Bandit:
    """Which of several arms with outcomes of 0 or 1, such as formats of a prompt, is the best and which the worst.

    Thompson sampling, first for the best and then for the worst (Sclar et al. 2024, FormatSpread, arXiv 2310.11324,
    section 3.2). It begins with no opinion of an arm. In the paper it begins with the accuracy of the format as given,
    which weighs as six outcomes or more and takes more evaluations to overrule than a small run has.
    """

    def __init__(self, arms: int, rng: np.random.Generator) -> None:
        self.drawn: NDArray[np.int64] = np.zeros(arms, dtype=np.int64)
        self.right: NDArray[np.float64] = np.zeros(arms)
        self._rng = rng

    def pull(self, able: NDArray[np.bool_], *, best: bool) -> int:
        """Which of the arms that are `able` is tried next."""
        chance = self._rng.beta(1 + self.right, 1 + self.drawn - self.right)
        return int(np.argmax(np.where(able, chance if best else -chance, -np.inf)))

    @property
    def ends(self) -> tuple[int, int]:
        """What it takes for the best arm and for the worst."""
        means = (1 + self.right) / (2 + self.drawn)
        return int(means.argmax()), int(means.argmin())


class ArmAllocator:
    """In which way a few problems at a time are asked: half of the budget seeks the best way, the other half the worst.

    Problems come in their order, so that ways are compared on the same ones.
    """

    kind: Kind = "arms"
    told: int = 0
    """What those who are next are told: the way, from 1 on."""

    def __init__(self, budget: TotalBudget, arms: int, batch: int, problems: int, rng: np.random.Generator) -> None:
        self.settled: NDArray[np.bool_] = np.zeros(problems, dtype=np.bool_)
        self._budget, self._batch, self._bandit = budget, batch, Bandit(arms, rng)
        self._asked = np.zeros((problems, arms), dtype=np.bool_)
        self._right = np.full((problems, arms), np.nan)

    def observe(self, problem: int, evidence: Sequence[tuple[int, float]], cost: float) -> None:
        """Take note of all samples of a problem: their arms, and whether each passed."""
        for arm, right in evidence:
            self._right[problem, arm] = right

    def round(self, open_ones: NDArray[np.bool_], bounds: Floats, left: float) -> list[int]:
        """Who is next; see `Allocator.round`."""
        self.settled = np.logical_and.reduce(self._asked, axis=1)
        free = open_ones[:, np.newaxis] & ~self._asked
        able, bandit = np.logical_or.reduce(free, axis=0), self._bandit
        bandit.drawn, bandit.right = (~np.isnan(self._right)).sum(axis=0), np.nansum(self._right, axis=0)
        if self._budget.policy == "uniform":
            arm = int(np.argmin(np.where(able, self._asked.sum(axis=0), np.inf)))
        else:
            arm = bandit.pull(able, best=2 * left > self._budget.cap[1])
        chosen = np.flatnonzero(free[:, arm])[: self._batch]
        chosen = chosen[np.cumsum(bounds[chosen]) <= left]
        self._asked[chosen, arm], self.told = True, arm + 1
        return chosen.tolist()


MEANS = np.linspace(0.025, 0.975, 20)
STRENGTHS = np.geomspace(0.2, 20, 12)
"""Of the priors that are tried: a / (a + b), and a + b."""


def fitted_prior(drawn: NDArray[np.int64], passed: NDArray[np.bool_]) -> tuple[float, float]:
    """The Beta prior (a, b) of success rates that best explains problems drawn until the first pass, or not so far.

    Empirical Bayes by maximum likelihood on a grid, with one problem of each kind added.
    """
    mean, strength = (grid.ravel()[:, np.newaxis] for grid in np.meshgrid(MEANS, STRENGTHS))
    a, b = mean * strength, (1 - mean) * strength
    failures = np.arange(int(drawn.max(initial=0)) + 1)
    missed = np.cumsum(np.log((b + failures) / (strength + failures)), axis=1)
    missed = np.concatenate([np.zeros_like(a), missed], axis=1)  # after 0, 1, ... failures
    hit = missed[:, :-1] + np.log(a / (strength + failures))
    solved = np.bincount(drawn[passed] - 1, minlength=hit.shape[1])
    unsolved = np.bincount(drawn[~passed], minlength=missed.shape[1])
    solved[0] += 1
    unsolved[1] += 1
    best = int(np.argmax(hit @ solved + missed @ unsolved))
    return float(a[best, 0]), float(b[best, 0])


def evidence_kind(votes: bool, decisions: Sequence[bool | None]) -> Kind:
    """What a problem's samples are told apart by: votes where they vote, else decisions, else scores."""
    return "votes" if votes else "passes" if any(one is not None for one in decisions) else "scores"


def evidence_of(kind: Kind, candidates: Sequence[Candidate]) -> list[Any]:
    """What `candidates` in spawned order are worth to an allocator."""
    if kind == "arms":
        return [(one.notes["arm"], float(one.passed)) for one in candidates]
    if kind == "votes":
        return [*answer_classes([one.notes for one in candidates])]
    if kind in ("passes", "rates"):
        return [float(one.passed) for one in candidates]
    return [None if one.verdict is None else one.verdict.score for one in candidates]


class Turns(Protocol):
    """Lets the searches of one strategy, model and seed take turns under a total budget."""

    def wait(self, problem: str, asked: int, candidates: Sequence[Candidate], spent: Usage) -> Awaitable[int]:
        """How many samples the problem's search, which has `asked` for so many, may draw next; 0: enough. To one that
        gains by arms: which, from 1 on, to draw a sample with.

        It is known when everyone has done what he was granted, and the same if it is asked again, as a search that was
        lost does when it is run once more. Raises `BudgetSpent` where the total budget has no room for another one.
        """
        ...

    def leave(self, problem: str, spent: Usage) -> None:
        """Its search, which took so much, has come to its end. One that is only interrupted has not, and nothing is
        decided without it."""
        ...


def essentials(candidate: Candidate) -> Candidate:
    """What `evidence_of` reads of a candidate."""
    notes = {name: value for name, value in candidate.notes.items() if name in ("answer", "said", "alike", "arm")}
    verdict = candidate.verdict and Verdict(candidate.verdict.score, candidate.verdict.passed)
    return Candidate(id=candidate.id, content="", spawned=candidate.spawned, notes=notes, verdict=verdict)


class SharedBudget:
    """The `Turns` of a run, where it is stored."""

    def __init__(
        self,
        budget: TotalBudget,
        problems: Sequence[str],
        strategy: Strategy,
        params: Sequence[Mapping[str, Any]],
        seed: int,
    ) -> None:
        """`params` are those of the policies: they say how long a sample may be."""
        self.budget: TotalBudget = budget
        self._places = {name: i for i, name in enumerate(problems)}
        self._gains, self._n = strategy.gains, int(getattr(strategy, "n", 1))
        self._bound = max(float(own.get(token_limit(own)) or 0) for own in params)
        self._rng = np.random.default_rng(seed)
        self._waiting: dict[int, tuple[asyncio.Future[int], Sequence[Candidate]]] = {}
        self._told: list[list[int | BudgetSpent]] = [[] for _ in problems]
        """What each was told, by how many samples it had asked for."""
        self._live = set(range(len(problems)))
        self._spent = np.zeros(len(problems))
        self._prompts = np.zeros(len(problems))
        self._allocator: Allocator | ArmAllocator | None = None
        if strategy.gains == "arms":
            batch = int(getattr(strategy, "batch", 1))
            self._allocator = ArmAllocator(budget, self._n, batch, len(problems), self._rng)

    def wait(self, problem: str, asked: int, candidates: Sequence[Candidate], spent: Usage) -> asyncio.Future[int]:
        place, future = self._places[problem], asyncio.get_running_loop().create_future()
        if asked < len(self._told[place]):
            _tell(future, self._told[place][asked])
            return future
        self._waiting[place] = future, candidates
        self._live.add(place)
        self._spent[place] = getattr(spent, self.budget.cap[0])
        self._prompts[place] = spent.prompt_tokens / max(len(candidates), 1)
        self._decide()
        return future

    def leave(self, problem: str, spent: Usage) -> None:
        place = self._places[problem]
        self._live.discard(place)
        self._waiting.pop(place, None)
        self._spent[place] = getattr(spent, self.budget.cap[0])
        self._decide()

    def _decide(self) -> None:
        if not self._waiting or len(self._waiting) < len(self._live):
            return
        found = {place: candidates for place, (_, candidates) in self._waiting.items()}
        allocator = self._allocator = self._allocator or self._suited(found)
        for place, candidates in found.items():
            allocator.observe(place, evidence_of(allocator.kind, candidates), self._spent[place])
        open_ones = np.zeros(len(self._places), dtype=np.bool_)
        open_ones[[place for place, candidates in found.items() if len(candidates) < self._n]] = True
        name, cap = self.budget.cap
        granted = allocator.round(open_ones, self._bounds(name), cap - self._spent.sum())
        able = open_ones & ~allocator.settled
        for place in found:
            if granted and able[place] and place not in granted:
                continue  # another round
            spent = BudgetSpent(f"the total budget of {cap:,} {name} is spent")
            told = spent if able[place] and place not in granted else allocator.told * (place in granted)
            self._told[place].append(told)
            _tell(self._waiting.pop(place)[0], told)
        if allocator.kind != "arms" and not any(map(len, found.values())):  # what the samples are is not known yet
            self._allocator = None

    def _suited(self, found: dict[int, Sequence[Candidate]]) -> Allocator:
        """The allocator for what the first samples are."""
        verdicts = [one.verdict for part in found.values() for one in part if one.verdict]
        passed = [verdict.passed for verdict in verdicts]
        kind: Kind = "rates" if self._gains == "rates" else evidence_kind(self._gains == "votes", passed)
        return Allocator(self.budget.policy, kind, len(self._places), self._rng)

    def _bounds(self, name: str) -> Floats:
        """The most that each problem's next sample may cost, its prompt being as long as those before."""
        bounds = np.full(len(self._places), 1.0 if name == "requests" else self._bound)
        if name == "total_tokens":
            bounds += np.where(self._prompts > 0, self._prompts, self._prompts.max(initial=0.0))
        return bounds


def _tell(future: asyncio.Future[int], told: int | BudgetSpent) -> None:
    if future.done():  # whoever waited was interrupted
        return
    if isinstance(told, BudgetSpent):
        future.set_exception(told)
    else:
        future.set_result(told)
