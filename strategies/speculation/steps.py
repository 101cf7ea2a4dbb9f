"""The steps of a sample made by two models: a draft model writes, a target model scores it, and either goes on.

What the two have in common is found out once in a run, before anything is generated. Where that is the tokenizer, a
sample grows as token ids; otherwise as a text that each server tokenizes as a whole (see `tts.continuation`). Leviathan
et al. 2023 (arXiv 2211.17192) call such a pair draft and target.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tts.base import AnswerVerifier
from tts.calls import digest
from tts.continuation import Continuation
from tts.errors import BudgetSpent, ConfigError, EndpointError, EndpointRefused
from tts.sampler.scoring import tokenize
from tts.session import Session
from tts.strategies.speculation.conformal import Scored
from tts.types import Candidate, Charge
from tts.verifiers.answers.extraction import final_answers

ROLES = ("draft", "target")
GREETING = [{"role": "user", "content": "Hello?"}]
WORDS = "Let x_1 = 12.5 + é;\n\tüber 数 \\frac{3}{4} isn't"
"""Two tokenizers that agree on it are taken to be the same."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What a draft and a target model have in common."""

    same_tokens: bool
    templates: dict[str, str]
    """By role: a digest of what its chat template makes of a greeting; empty where the server does not tell."""


class Pairs:
    """The pairs of a run, each looked at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Pair] = {}
        self._looking = asyncio.Lock()

    async def get(self, session: Session, *, scoring: bool) -> Pair:
        """The pair of the session's models. Raises `ConfigError` if there is `scoring` to do and the target cannot."""
        models = (*(session.sampler(role) for role in ROLES), scoring)
        async with self._looking:
            if models not in self._known:
                if scoring:  # it is paid for, but no search is charged for what the run finds out
                    scores = await session.score(WORDS[:12], WORDS[12:])
                    session.ledger.forgive(scores.charges)
                self._known[models] = await _look(session)
        return self._known[models]


async def _look(session: Session) -> Pair:
    samplers = {role: session.sampler(role) for role in ROLES}
    try:
        words = [await tokenize(sampler, WORDS, special=False) for sampler in samplers.values()]
        greetings = {role: await tokenize(sampler, GREETING) for role, sampler in samplers.items()}
    except ConfigError:
        return Pair(False, dict.fromkeys(ROLES, ""))
    digests = {role: hashlib.blake2b(json.dumps(ids).encode(), digest_size=6) for role, ids in greetings.items()}
    return Pair(words[0] == words[1], {role: digest.hexdigest() for role, digest in digests.items()})


@dataclass(slots=True)
class Chain:
    """A sample in the making."""

    number: int
    answer: Continuation
    turns: list[dict[str, Any]] = field(default_factory=list)
    """What was found out about each draft."""
    ended: str = ""
    """Why it is over: "stop", "answered", "length", ... as a finish reason; empty while it is not."""


class Speculation:
    """The steps that strategies of a draft and a target model are made of, for one problem."""

    def __init__(self, session: Session, reader: AnswerVerifier | None, pair: Pair, empty: Continuation) -> None:
        self.session = session
        self.shared: set[Charge] = set()
        """What all chains of the problem descend from: drafts that served to calibrate."""
        self.provenance: dict[str, Any] = {}
        """What the scores of drafts are made with; the first candidate says so."""
        self._pair = pair
        self._reader = reader
        self._empty = empty

    @classmethod
    async def open(cls, session: Session, reader: AnswerVerifier | None = None, *, scoring: bool = True) -> Speculation:
        """Raises `ConfigError` before anything is generated if the models cannot work together on the problem.

        `reader` reads final answers: a sample that has one is finished. Without `scoring` no score will be asked for.
        """
        pair = await session.resources.get(Pairs).get(session, scoring=scoring)
        return cls(session, reader, pair, await Continuation.start(session, roles=ROLES, exact=pair.same_tokens))

    def chain(self, number: int) -> Chain:
        """The beginning of a sample."""
        return Chain(number, replace(self._empty, path=(number,)))

    def made_with(self, **settings: Any) -> dict[str, Any]:
        """All that shapes the scores of drafts, to be kept with them."""
        models = {role: self.session.sampler(role).endpoint for role in ROLES}
        return {
            "score": "mean log-probability of all tokens of a draft, its first included",
            **{role: {"model": model.model, "params": model.params} for role, model in models.items()},
            "templates": self._pair.templates,
            "same_tokens": self._pair.same_tokens,
            **settings,
        }

    async def extend(self, chain: Chain, role: str, tokens: int, *, step: str = "") -> None:
        """Let the model of `role` go on for at most `tokens` tokens, or to the end of a `step` (a stop string).

        Raises `EndpointError` where the server fails.
        """
        chain.answer = await chain.answer.extend(role=role, tokens=tokens, stop=(step,) if step else ())
        chain.ended = chain.answer.ended or ("answered" if self._answered(chain.answer.text) else "")

    async def scored(self, chain: Chain) -> Scored | None:
        """The target's mean log-probability of the last chunk's tokens; None, and noted, where scoring fails."""
        try:
            scores = await chain.answer.scores("target")
        except EndpointRefused:
            raise
        except EndpointError as error:
            self.session.ledger.failures.append(f"scoring: {error}")
            return None
        chain.answer = chain.answer.charged(scores.charges)
        return Scored(scores.mean, self.session.problem.id, len(chain.turns), len(scores.logprobs))

    @contextmanager
    def alone(self, chain: Chain) -> Iterator[None]:
        """What goes wrong inside ends this chain and no other; what it has is kept."""
        try:
            yield
        except EndpointRefused:
            raise
        except EndpointError as error:
            chain.ended = "failed"
            self.session.ledger.failures.append(f"sample {chain.number}: {error}")
        except BudgetSpent:
            chain.ended = "budget"
            raise

    async def reopen(self, chain: Chain) -> None:
        """Let a chain that has ended go on behind its last chunk."""
        chain.answer, chain.ended = await chain.answer.reopened(), ""

    def undo(self, chain: Chain) -> None:
        """Take the last chunk back; what it cost stays."""
        chain.answer, chain.ended = chain.answer.back(), ""

    def chance(self, chain: Chain) -> float:
        """A number in (0, 1] that looks random and depends on the seed, the problem and the chain alone.

        Chains with equal contents have different ones: equal drafts are rejected at the rate, not all or none.
        """
        answer = chain.answer
        content = [self.session.seed, self.session.problem.id, chain.number, answer.ids or answer.text]
        return (int.from_bytes(digest(content)[:6], "big") + 1) / 2**48

    def candidate(self, chain: Chain) -> Candidate:
        """The chain as it stands, with all it cost."""
        notes: dict[str, Any] = {"answer": None, "ended": chain.ended or "rounds", "turns": chain.turns}
        if self.provenance and chain.number == 0:
            notes["made_with"] = self.provenance
        answer = chain.answer.charged(self.shared)
        if chain.ended == "budget":
            answer = replace(
                answer, samples=(*answer.samples[:-1], replace(answer.samples[-1], finish_reason="budget"))
            )
        return answer.candidate(spawned=(chain.number,), **notes)

    def _answered(self, text: str) -> bool:
        """Whether a final answer is announced that a further character cannot change."""
        answers = final_answers(text)
        if not answers or final_answers(text + "0") != answers:
            return False
        return self._reader is None or self._reader.parse(answers[0]) is not None
