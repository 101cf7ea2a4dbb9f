"""The steps of a sample made by two models: a draft model writes, a target model scores it, and either goes on.

Where both models have the same tokenizer a sample is a list of token ids that only ever grows: nothing is tokenized
twice or glued in between, and a target that goes on after scoring finds its prefix in the cache. Otherwise it is a text
that each server tokenizes as a whole. Leviathan et al. 2023 (arXiv 2211.17192) call such a pair draft and target.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tts.base import AnswerVerifier
from tts.errors import BudgetSpent, ConfigError, EndpointError, EndpointRefused, SamplingFailed
from tts.sampler.scoring import detokenize, tokenize
from tts.session import Session
from tts.strategies.speculation.conformal import Scored
from tts.strategies.speculation.pair import ROLES, Pair, Pairs
from tts.types import Candidate, Charge, Sample
from tts.verifiers.answers.extraction import final_answers


@dataclass(slots=True)
class Chain:
    """A sample in the making."""

    number: int
    text: str = ""
    ids: list[int] = field(default_factory=list)
    """Its tokens, where both models have the same."""
    samples: list[Sample] = field(default_factory=list)
    """Its chunks."""
    charges: set[Charge] = field(default_factory=set)
    """What it cost beside its chunks: its scores."""
    turns: list[dict[str, Any]] = field(default_factory=list)
    """What was found out about each draft."""
    ended: str = ""
    """Why it is finished: "stop", "answered", "length", ... as a finish reason; empty while it is not."""


class Speculation:
    """The steps that strategies of a draft and a target model are made of, for one problem."""

    def __init__(self, session: Session, reader: AnswerVerifier | None, pair: Pair, heads: dict[str, Any]) -> None:
        self.session = session
        self.pair = pair
        self.shared: set[Charge] = set()
        """What all chains of the problem descend from: drafts that served to calibrate."""
        self.provenance: dict[str, Any] = {}
        """What the scores of drafts are made with; the first candidate says so."""
        self._reader = reader
        self._heads = heads
        self._rendered = not isinstance(session.problem.messages, str)

    @classmethod
    async def open(cls, session: Session, reader: AnswerVerifier | None = None, *, scoring: bool = True) -> Speculation:
        """Raises `ConfigError` before anything is generated if the models cannot work together on the problem.

        `reader` reads final answers: a sample that has one is finished. Without `scoring` no score will be asked for.
        """
        pair = await session.resources.get(Pairs).get(session, scoring=scoring)
        prompt = session.problem.messages
        samplers = {role: session.sampler(role) for role in ROLES}
        if isinstance(prompt, str) and not pair.same_tokens:
            return cls(session, reader, pair, dict.fromkeys(ROLES, prompt))
        heads: dict[str, Any] = {role: await tokenize(sampler, prompt) for role, sampler in samplers.items()}
        if not pair.same_tokens:
            heads = {role: await detokenize(sampler, heads[role]) for role, sampler in samplers.items()}
        return cls(session, reader, pair, heads)

    def made_with(self, **settings: Any) -> dict[str, Any]:
        """All that shapes the scores of drafts, to be kept with them."""
        models = {role: self.session.sampler(role).endpoint for role in ROLES}
        return {
            "score": "mean log-probability of all tokens of a draft, its first included",
            **{role: {"model": model.model, "params": model.params} for role, model in models.items()},
            "templates": self.pair.templates,
            "same_tokens": self.pair.same_tokens,
            **settings,
        }

    async def extend(self, chain: Chain, role: str, tokens: int, *, step: str | None = None, **params: Any) -> None:
        """Let the model of `role` go on for at most `tokens` tokens, or to the end of a `step` (a stop string).

        Raises `EndpointError` when that could not be had.
        """
        if self.pair.same_tokens:
            tokens = min(tokens, self._room(chain))
            params["return_token_ids"] = True
        elif self._rendered:
            params["add_special_tokens"] = False
        if (seed := self.session.sampler(role).endpoint.params.get("seed")) is not None:
            params["seed"] = _digest([seed, chain.number, len(chain.samples)], 3)  # samples must not share their noise
        if step is not None:
            params |= {"stop": [step], "include_stop_str_in_output": True}
        if tokens <= 0:
            chain.ended = "length"
            return
        drawn = self.session.sample(self._prompt(chain, role), role=role, max_tokens=tokens, **params)
        async with aclosing(drawn) as samples:
            sample = await anext(samples, None)
        if sample is None:
            raise SamplingFailed(f"{role}: no continuation could be had")
        self._append(chain, sample)
        stepped = step is not None and sample.text.endswith(step)
        if not (sample.text or sample.token_ids) or not (stepped or sample.finish_reason == "length"):
            chain.ended = sample.finish_reason or "stop"
        elif self._answered(chain.text):
            chain.ended = "answered"

    async def scored(self, chain: Chain) -> Scored | None:
        """The target's mean log-probability of the last chunk's tokens; None, and noted, where it could not be had."""
        last = chain.samples[-1]
        head, prompt = self._heads["target"], self._prompt(chain, "target")
        try:
            if self.pair.same_tokens:
                start = len(prompt) - len(last.token_ids or ())
                scores = await self.session.score(prompt[:start], prompt[start:])
            else:
                before = head + chain.text[: len(chain.text) - len(last.text)]
                scores = await self.session.score(before, last.text, special=not self._rendered)
        except EndpointRefused:
            raise
        except EndpointError as error:
            self.session.ledger.failures.append(f"scoring: {error}")
            return None
        chain.charges.update(scores.charges)
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

    def undo(self, chain: Chain) -> None:
        """Take the last chunk back; what it cost stays."""
        last = chain.samples.pop()
        chain.charges.update(last.charges)
        chain.text = chain.text[: len(chain.text) - len(last.text)]
        chain.ids = chain.ids[: len(chain.ids) - len(last.token_ids or ())]
        chain.ended = ""

    def chance(self, chain: Chain) -> float:
        """A number in (0, 1] that looks random and depends on the seed, the problem and the chain alone.

        Chains with equal contents have different ones: equal drafts are rejected at the rate, not all or none.
        """
        content = [self.session.seed, self.session.problem.id, chain.number, chain.ids or chain.text]
        return (_digest(content, 6) + 1) / 2**48

    def candidate(self, chain: Chain) -> Candidate:
        """The chain as it stands, with all it cost."""
        notes: dict[str, Any] = {"answer": None, "ended": chain.ended or "rounds", "turns": chain.turns}
        if self.provenance and chain.number == 0:
            notes["made_with"] = self.provenance
        candidate = self.session.candidate(chain.text, *chain.samples, spawned=(chain.number,), **notes)
        return replace(candidate, charges=candidate.charges.union(chain.charges, self.shared))

    def _append(self, chain: Chain, sample: Sample) -> None:
        if self.pair.same_tokens:
            if sample.token_ids is None and sample.text:
                raise ConfigError(f"{sample.model} returns no token ids (return_token_ids); serve it with vLLM")
            chain.ids += sample.token_ids or ()
        chain.text += sample.text
        chain.samples.append(sample)

    def _prompt(self, chain: Chain, role: str) -> Any:
        return self._heads[role] + (chain.ids if self.pair.same_tokens else chain.text)

    def _room(self, chain: Chain) -> int:
        """Tokens by which the chain may grow so that either model can still read it and say a word."""
        lengths = ((self.session.sampler(role).context_length, len(self._heads[role])) for role in ROLES)
        return min((most - head - len(chain.ids) - 1 for most, head in lengths if most is not None), default=2**31)

    def _answered(self, text: str) -> bool:
        """Whether a final answer is announced that a further character cannot change."""
        answers = final_answers(text)
        if not answers or final_answers(text + "0") != answers:
            return False
        return self._reader is None or self._reader.parse(answers[0]) is not None


def _digest(content: Any, size: int) -> int:
    """A number of `size` bytes that looks random and depends on `content` alone."""
    return int.from_bytes(hashlib.blake2b(json.dumps(content).encode(), digest_size=size).digest(), "big")
