"""The nouns of the library: problem, sample, candidate, verdict, usage, budget, result.

Compute is carried by *charges*. A charge is one thing that was paid for (the shared prompt of a request,
one completion, one verification); whatever was made from it carries it along. What a set of candidates
cost is therefore the union of their charges: an observation that forty programs share is counted once,
and the cost of a prefix does not depend on timing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PlainSerializer, model_validator

from tts.registry import Plugin
from tts.settings import Settings
from tts.text import well_formed

Message = Mapping[str, Any]
"""One chat message in OpenAI's form."""


class Drawing(str):
    """A description of an image, to be generated."""

    __slots__ = ()


Prompt = Sequence[Message] | str | Sequence[int]
"""Chat messages, a raw text to complete (or a `Drawing`), or token ids to complete."""


@dataclass(frozen=True, slots=True, repr=False)
class Usage:
    """Compute, additive. `seconds` is the summed duration of the calls, not elapsed time."""

    requests: float = 0
    prompt_tokens: float = 0
    cached_tokens: float = 0
    """Of the prompt tokens, those that the server read from its prefix cache."""
    completion_tokens: float = 0
    """Generated tokens, reasoning included."""
    reasoning_tokens: float = 0
    verifier_seconds: float = 0
    """CPU seconds spent checking candidates."""
    seconds: float = 0
    estimated_tokens: float = 0
    """Of all tokens, those that are estimates because the server did not count them."""

    @property
    def total_tokens(self) -> float:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, name) + getattr(other, name) for name in USAGE_FIELDS))

    def __repr__(self) -> str:
        return f"Usage({', '.join(f'{name}={value:g}' for name, value in self.as_dict().items())})"

    def as_dict(self) -> dict[str, float]:
        """The fields that are not zero."""
        return {name: value for name in USAGE_FIELDS if (value := getattr(self, name))}


USAGE_FIELDS = tuple(f.name for f in fields(Usage))


@dataclass(frozen=True, slots=True)
class Charge:
    """One payment. Two charges with the same id are the same payment."""

    id: str
    role: str
    usage: Usage = field(compare=False)
    started: float = field(default=0.0, compare=False)
    """Unix time at which the work began; it ended `usage.seconds` later."""
    place: tuple[int, ...] | None = field(default=None, compare=False)
    """Where a candidate would have been spawned that it led to, for charges that led to none; None: nobody knows."""

    def __hash__(self) -> int:
        return hash(self.id)


def total(charges: Iterable[Charge]) -> Usage:
    """The sum of `charges`, each payment once."""
    return sum_usage(charge.usage for charge in set(charges))


def by_role(charges: Iterable[Charge]) -> dict[str, Usage]:
    """The sum of `charges` for each role, each payment once."""
    grouped: dict[str, list[Usage]] = {}
    for charge in set(charges):
        grouped.setdefault(charge.role, []).append(charge.usage)
    return {role: sum_usage(usages) for role, usages in sorted(grouped.items())}


def sum_usage(usages: Iterable[Usage]) -> Usage:
    """The sum of `usages`; nothing at all is `Usage()`."""
    sums = [0.0] * len(USAGE_FIELDS)
    for usage in usages:
        for i, name in enumerate(USAGE_FIELDS):
            sums[i] += getattr(usage, name)
    return Usage(*sums)


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of one prompt. Its texts are well formed, whatever the server sent (`tts.text`)."""

    text: str
    finish_reason: str | None = None
    """"stop", "length", "tool_calls", ... as the server said; "refusal" where the model refused, "abandoned" where a
    stop rule ended it, "budget" where the budget had no room for all its `max_tokens`."""
    charges: tuple[Charge, ...] = field(default=(), repr=False)
    """The prompt of its request (shared by the request's choices) and its own completion."""
    index: int = 0
    """Spawn number within the session: the order in which samples were asked for."""
    role: str = "policy"
    model: str = ""
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    """Natural log-probability of each generated token, where asked for."""
    confidences: tuple[float, ...] | None = None
    """For each generated token, minus the mean log-probability of the likeliest tokens at its place, where
    `top_logprobs` were asked for: high where the model was sure (Fu et al. 2025, arXiv 2508.15260, section 2)."""
    batched: bool | None = None
    """Whether the server answers several choices to one request, as far as this sample's request showed it."""
    again: int = 0
    """How many requests had asked for it before and brought others only."""
    top_logprobs: Mapping[str, float] | None = None
    """The most likely first tokens with their log-probabilities, where asked for."""
    trajectory: Mapping[str, Any] | None = field(default=None, repr=False)
    """Of a sample that is a whole trajectory: its `turns`, how it `ended`, its end `state` (see `tts.trajectories`)."""
    raw: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """The choice as the server sent it, where the sampler keeps it (`Sampler.keep_raw`); it is not stored."""

    def __post_init__(self) -> None:
        if (  # most are, and the question costs nothing
            self.text.isascii()
            and self.reasoning.isascii()
            and not self.tool_calls
            and not self.top_logprobs
            and (self.finish_reason or "").isascii()
            and self.model.isascii()
        ):
            return
        for name in ("text", "finish_reason", "model", "reasoning", "tool_calls", "top_logprobs"):
            object.__setattr__(self, name, well_formed(getattr(self, name)))


Scale = Literal["positive", "logprob", "reward", "order"]
"""What a score is, and so what it counts in a weighted vote.

A `positive` number (a probability, a share, a confidence) counts as it is, and nothing below 0; a `logprob` counts as
the probability, its exponential; a `reward`, which may be any number, as its logistic: where rewards were learnt from
comparisons, the chance of being preferred to an answer of reward 0. An `order` (ranks, lengths) weighs nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's rating of a candidate.

    One whose score is not a finite number is no verdict: it loses its score and its decision, and `details["error"]`
    says why.
    """

    score: float | None
    """Higher is better; None when the candidate could not be rated."""
    passed: bool | None = None
    """Accepted, refused, or None where the verifier only ranks."""
    feedback: str = ""
    """Words for the model: what failed and how."""
    details: Mapping[str, Any] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    charges: frozenset[Charge] = field(default=frozenset(), repr=False)
    """Filled in by the session: the calls and CPU time that this verdict took. A verifier that remembers its work gives
    the same charges with the same verdict, and no `cpu_seconds` where it did not do the work again."""
    scale: Scale | None = None
    """Filled in by the session: what the verifier says that its scores are."""
    invalid: bool = field(default=False, init=False, repr=False, compare=False)
    """Whether the score that it was made with is not a finite number."""

    def __post_init__(self) -> None:
        score, passed = self.score, None if self.passed is None else bool(self.passed)
        if score is not None:
            try:
                score = float(score)
            except (TypeError, ValueError, OverflowError):
                score = math.nan
            if not math.isfinite(score):
                error = f"the score {self.score!r} is not a finite number"
                object.__setattr__(self, "details", {**self.details, "error": error})
                object.__setattr__(self, "invalid", True)
                score = passed = None
        object.__setattr__(self, "score", score)
        object.__setattr__(self, "passed", passed)

    @property
    def weight(self) -> float | None:
        """What it counts in a weighted vote, by its `scale`, never negative; None: it does not vote.

        Where the scale is unknown, the score counts as it is, and does not vote below 0.
        """
        if self.score is None or self.scale == "order" or (self.scale is None and self.score < 0):
            return None
        if self.scale == "logprob":
            return math.exp(min(self.score, 0.0))
        if self.scale == "reward":
            return 0.5 + 0.5 * math.tanh(self.score / 2)
        return max(self.score, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A proposed answer with everything it descends from."""

    id: int
    content: str
    spawned: tuple[int, ...]
    """Position for curves, compared lexicographically; independent of which call was answered first."""
    samples: tuple[Sample, ...] = field(default=(), repr=False)
    """The samples that made it, the last one being the answer itself."""
    parents: tuple[int, ...] = ()
    """Ids of the candidates it was made from."""
    charges: frozenset[Charge] = field(default=frozenset(), repr=False)
    """Every payment it descends from, its verdict's included."""
    verdict: Verdict | None = None
    partial: bool = False
    """Whether it is a step on the way to an answer, shown to a verifier that rates such."""
    arrived: int = -1
    """Position in order of arrival, set by the driver."""
    elapsed: float = 0.0
    """Seconds from the start of the session to its arrival."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Whatever the strategy wants kept and shown: the plan, the round, the parsed answer."""
    graded: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Of a wrong one in a run, for people: what grading said (`feedback`), the `answer` it read and the `expected` one.
    It is written when the search is over, and no strategy ever sees it."""

    @property
    def usage(self) -> Usage:
        """What this candidate alone would have cost."""
        return total(self.charges)

    @property
    def passed(self) -> bool:
        """Whether a verifier accepted it."""
        return self.verdict is not None and self.verdict.passed is True

    @property
    def cut_off(self) -> bool:
        """Whether the budget ended it before it was whole."""
        return bool(self.samples) and self.samples[-1].finish_reason == "budget"

    @property
    def tool_calls(self) -> tuple[Mapping[str, Any], ...]:
        """The tool calls of the sample that is the answer."""
        return self.samples[-1].tool_calls if self.samples else ()


class Problem(BaseModel):
    """What a solver may see. The truth that grades it lives with the task."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    id: str
    messages: Sequence[dict[str, Any]] | str
    """Chat messages, or a raw text to complete."""
    tests: dict[str, Any] | None = None
    """Public tests, in the form that the `unit_tests` verifier documents."""
    verifier: str | None = None
    """Spec of the verifier that suits the public information of this problem."""
    answer: str | None = None
    """Spec of the answer verifier that parses and compares answers of this kind, for votes."""
    environment: str | Annotated[Plugin, PlainSerializer(lambda plugin: plugin.spec)] | None = None
    """The environment in which it is solved, or its spec; its answers are then trajectories (`tts.trajectories`)."""
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _well_formed(cls, fields: Any) -> Any:
        return well_formed(fields)

    @property
    def turns(self) -> list[dict[str, Any]]:
        """Its messages as chat turns to add to; a raw text is a user's turn."""
        if isinstance(self.messages, str):
            return [{"role": "user", "content": self.messages}]
        return [dict(message) for message in self.messages]

    @classmethod
    def from_prompt(cls, prompt: str, *, id: str = "prompt", system: str | None = None, **fields: Any) -> Problem:
        """A problem of one user message."""
        head = ({"role": "system", "content": system},) if system else ()
        return cls(id=id, messages=(*head, {"role": "user", "content": prompt}), **fields)


class Budget(Settings):
    """Caps on what one problem may cost; None means no cap. Work re-used from a store counts like new work."""

    requests: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None
    total_tokens: NonNegativeInt | None = None
    """Prompt and completion tokens."""
    money: NonNegativeFloat | None = None
    """In the currency of the models' prices, which every model that may be asked needs (`card`)."""
    verifier_seconds: NonNegativeFloat | None = None
    seconds: NonNegativeFloat | None = None
    """Elapsed time since the session began."""

    @property
    def capped(self) -> bool:
        """Whether anything but time is limited."""
        return any(getattr(self, name) is not None for name in self.model_fields_set - {"seconds"})


Ended = Literal["complete", "settled", "budget", "deadline", "failed"]
"""The strategy finished; its selection could no longer change; a cap was reached; the time was up; an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One strategy on one problem: every candidate, the choice, and what was really spent."""

    problem: str
    strategy: str
    candidates: tuple[Candidate, ...] = field(repr=False)
    """In order of arrival."""
    selected: Candidate | None
    ended: Ended
    spent: Mapping[str, Usage] = field(repr=False)
    """By role: all work that was answered and paid for here. With `wasted` it is the server's bill."""
    reused: Mapping[str, Usage] = field(default_factory=dict, repr=False)
    """By role: of what it needed, what a store had: paid for by an earlier run or another strategy."""
    needed: Mapping[str, Usage] = field(default_factory=dict, repr=False)
    """By role: what the search would have cost alone, with nothing to re-use and nothing that failed. See
    `tts.accounts.Tariff` for the rule. It is the sum of all charges, of candidates and `loose` ones."""
    wasted: Mapping[str, Usage] = field(default_factory=dict, repr=False)
    """By role: requests that failed or were cancelled, with the tokens they are known to have cost."""
    failures: tuple[str, ...] = ()
    """Samples and verdicts that failed, each with its reason."""
    warnings: tuple[str, ...] = ()
    """What else its user should know: what the strategy warns of (`Strategy.warning`), and what the budget cut off."""
    oracle: bool = False
    """Whether the hidden truth was used to find or select the answer."""
    seconds: float = 0.0
    parsed: str | None = None
    """The final answer that was read in the selected candidate, such as `18`; None where none was, as in a program."""
    loose: frozenset[Charge] = field(default=frozenset(), repr=False)
    """What was needed and no candidate descends from, such as a plan that was cut off."""

    @property
    def answer(self) -> str | None:
        """What was `parsed`, else the selected candidate's whole text; None when the strategy abstains."""
        return self.text if self.parsed is None else self.parsed

    @property
    def text(self) -> str | None:
        """The selected candidate's whole text; None when the strategy abstains."""
        return None if self.selected is None else self.selected.content

    def _repr_html_(self) -> str:
        from tts.tables import result_table

        return result_table(self).html()

    @property
    def unused(self) -> dict[str, Usage]:
        """By role: what was needed and no candidate descends from: lost, or delivered when all was settled."""
        return by_role(self.loose)

    @property
    def usage(self) -> Usage:
        """All that was spent, roles and wasted work together."""
        return sum_usage([*self.spent.values(), *self.wasted.values()])
