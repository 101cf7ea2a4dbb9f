"""Confident reasoning: votes are drawn many at a time, and those that lose confidence are not written to the end.

Fu et al. 2025, "Deep Think with Confidence" (arXiv 2508.15260), section 3.2 and the authors' code: the first samples
are whole and tell how sure the model is of this problem. Whatever is less sure in a passage than most of those were
does not vote, the first ones included, and is abandoned while it is written; none is drawn where the first ones agree.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt

from tts.base import Estimator, Weight, answer_reader, by_verdict, decided, each_alike, majority, tally
from tts.confidence import LIKELIEST, LowConfidence, confidences_of, lowest_group
from tts.errors import ConfigError
from tts.session import Session
from tts.strategies.voting import Voting
from tts.types import Candidate, Problem


class DeepConf(Voting):
    """Self-consistency in which a vote counts its confidence, and weak samples are ended early and do not vote.

    The confidence of a sample, in `notes`, is that of its weakest passage. The paper looks for consensus after each
    sample; here it is looked for once, after the first ones, so that which samples there are does not depend on which
    of them came first.

    Needs a server that streams log-probabilities; one that counts tokens while it streams (vLLM) is billed exactly.
    """

    name = "deepconf"
    independent = False

    n: PositiveInt = 64
    """Samples, abandoned ones included."""
    weighted: bool = True
    """Whether a vote counts the sample's confidence, or what the score of `verifier=` is worth; otherwise one."""
    warmup: PositiveInt = 16
    """Samples that are drawn first, and whole."""
    keep: float = Field(default=0.9, gt=0, le=1)
    """Share of the first samples that are sure enough to vote (the paper: 0.9, and 0.1 to save more)."""
    window: PositiveInt = 2048
    """Tokens over which confidence is averaged; an answer that is no longer than this is never abandoned."""
    consensus: float = Field(default=0.95, gt=0)
    """Share of the first samples' votes for one answer at which no more are drawn; above 1: never."""

    @property
    def weighs_votes(self) -> bool:
        return self.weighted and self.verifier is not None

    @property
    def needs_verifier(self) -> bool:
        return self.weighs_votes

    @property
    def estimator(self) -> Estimator:
        return "replay"

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        first, voters = min(self.warmup, self.n), list[Candidate]()
        known: list[str] = []
        async for voter in self._drawn(session, known, n=first):
            voters.append(replace(voter, notes={**voter.notes, "first": True}))
            yield voters[-1]
        votes = tally(voters, self._weight(voters)).values()
        agreed = bool(votes) and max(votes) >= self.consensus * sum(votes)
        if self.n == first or not voters or agreed:
            return
        rule = LowConfidence(self._threshold(voters), self.window)
        async for voter in self._drawn(session, known, n=self.n - first, stop_when=rule):
            yield voter

    async def _drawn(self, session: Session, known: list[str], **params: Any) -> AsyncGenerator[Candidate, None]:
        """Samples with their answers and confidences; what was abandoned has no answer."""
        drawn = session.propose(**LIKELIEST, **params)
        judged = session.verified(drawn) if self.weighs_votes else drawn
        async for voter in session.classified(judged, answer_reader(session.problem, self.answer), known):
            if not voter.content:  # a refusal, say: it has no tokens to be sure of, and no vote
                yield voter
                continue
            try:
                confidence = lowest_group(confidences_of(voter), self.window)
            except ValueError as error:
                raise ConfigError(f"deepconf cannot tell weak samples: {error}") from None
            abandoned = {"answer": None} if voter.samples[-1].finish_reason == "abandoned" else {}
            yield replace(voter, notes={**voter.notes, **abandoned, "confidence": confidence})

    def _threshold(self, candidates: Sequence[Candidate]) -> float:
        """The confidence that the share `keep` of the first samples among `candidates` reach."""
        first = [one.notes["confidence"] for one in candidates if one.notes.get("first") and "confidence" in one.notes]
        return float(np.quantile(first, 1 - self.keep)) if first else -inf

    def _weight(self, candidates: Sequence[Candidate]) -> Weight:
        """What the votes of `candidates` count; those less sure than most of the first ones are do not vote."""
        least = self._threshold(candidates)
        counts = by_verdict if self.weighs_votes else _confidence if self.weighted else each_alike
        return lambda one: counts(one) if _confidence(one) >= least else None

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        return majority(candidates, self._weight(candidates))

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        """Whether the votes to come cannot change it, once the first samples have told who votes."""
        told = sum("first" in one.notes for one in candidates) == min(self.warmup, self.n)
        return told and not self.weighted and decided(candidates, self.n, self._weight(candidates))


def _confidence(candidate: Candidate) -> float:
    return candidate.notes.get("confidence", 1.0)
