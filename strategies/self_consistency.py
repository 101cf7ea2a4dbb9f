"""Self-consistency: majority vote over parsed final answers (Wang et al. 2022, arXiv 2203.11171).

Weighted by a verifier's scores it is the weighted best-of-N of Li et al. 2022 (arXiv 2206.02336).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Self

from pydantic import model_validator

from tts.base import answer_classes, answer_reader
from tts.session import Session
from tts.stopping import VoteRule, drawn
from tts.strategies.voting import Voting
from tts.types import Candidate, Problem


class SelfConsistency(Voting):
    """N independent samples; the most frequent answer wins, answers that mean the same counted together.

    A sample without a parseable answer abstains. Ties go to the answer that was spawned first. With `stop`, samples are
    drawn a few at a time, until the evidence suffices.
    """

    gains = "votes"

    stop: VoteRule | None = None
    """When fewer than `n` samples are enough: `certain` (the votes to come cannot change it),
    `sequential(risk=0.05)` (they would with this probability at most, whatever the answers), `beta(confidence=0.95)`
    (Adaptive-Consistency), `windows(size=5)` (ESC)."""

    @property
    def independent(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.stop is None

    @model_validator(mode="after")
    def _counts_alike(self) -> Self:
        if self.stop is not None and self.weighted:
            raise ValueError("stop counts votes that weigh the same; leave out weighted=true")
        return self

    def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        reader, known = answer_reader(problem, self.answer), list[str]()

        def draw(n: int) -> AsyncIterator[Candidate]:
            samples = session.propose(n=n)
            return session.classified(session.verified(samples) if self.weighted else samples, reader, known)

        return drawn(session, self.n, self.stop, draw, lambda found: answer_classes([one.notes for one in found]))
