"""Confident reasoning: votes are drawn many at a time, and those that lose confidence are not written to the end.

Fu et al. 2025, "Deep Think with Confidence" (arXiv 2508.15260), section 3.2: the first samples are whole and tell how
sure the model is of this problem; a later one is abandoned where a passage of it is less sure than most of those were,
and none is drawn where those agree.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt

from tts.base import AnswerVerifier, Estimator, answer_reader, tally
from tts.confidence import LIKELIEST, LowConfidence, confidences_of, lowest_group
from tts.errors import ConfigError
from tts.session import Session
from tts.strategies.self_consistency import SelfConsistency
from tts.types import Candidate, Problem


class DeepConf(SelfConsistency):
    """Self-consistency in which weak samples are ended early and do not vote.

    The paper looks for consensus after each sample; here it is looked for once, after the first ones, so that which
    samples there are does not depend on which of them came first.

    The paper's weights are `weighted=true,verifier=min_window_confidence`. Needs a server that streams
    log-probabilities; one that counts tokens while it streams (vLLM) is billed exactly.
    """

    name = "deepconf"
    independent = False

    n: PositiveInt = 64
    """Samples, abandoned ones included."""
    warmup: PositiveInt = 16
    """Samples that are drawn first, and whole."""
    keep: float = Field(default=0.9, gt=0, le=1)
    """Share of the first samples that would not have been abandoned (the paper: 0.9, and 0.1 to save more)."""
    window: PositiveInt = 2048
    """Tokens over which confidence is averaged; an answer that is no longer than this is never abandoned."""
    consensus: float = Field(default=0.95, gt=0)
    """Share of the first samples' votes for one answer at which no more are drawn; above 1: never."""

    @property
    def estimator(self) -> Estimator:
        return "replay"

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        reader, known = answer_reader(problem, self.answer), list[str]()
        lowest: list[float] = []
        voters: list[Candidate] = []
        first = min(self.warmup, self.n)
        async for voter in self._voters(session, reader, known, n=first):
            try:
                lowest.append(lowest_group(confidences_of(voter), self.window))
            except ValueError as error:
                raise ConfigError(f"deepconf cannot tell weak samples: {error}") from None
            voters.append(voter)
            yield voter
        if self.n == first or not lowest or self._agreed(voters):
            return
        rule = LowConfidence(float(np.quantile(lowest, 1 - self.keep)), self.window)
        async for voter in self._voters(session, reader, known, n=self.n - first, stop_when=rule):
            abandoned = voter.samples[-1].finish_reason == "abandoned"
            yield replace(voter, notes={**voter.notes, "answer": None}) if abandoned else voter

    def _voters(
        self, session: Session, reader: AnswerVerifier, known: list[str], **params: Any
    ) -> AsyncIterator[Candidate]:
        drawn = session.propose(**LIKELIEST, **params)
        return session.classified(session.verified(drawn) if self.weighted else drawn, reader, known)

    def _agreed(self, voters: Sequence[Candidate]) -> bool:
        votes = tally(voters, weighted=self.weighted).values()
        return bool(votes) and max(votes) >= self.consensus * sum(votes)
