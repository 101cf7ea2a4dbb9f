"""ATTS: asynchronous test-time scaling with conformal rejection (arXiv 2509.15148).

Each of n samples goes through rounds of its own: a small draft model writes a chunk, the large target model scores it,
and goes on itself where the conformal p-value is too large. No sample ever waits for another.

The paper's target goes on after a rejected draft, which stays. Where one wrong word spoils a sample, let the target
write in its place (`rewrite`), as SpecReason does (arXiv 2504.07891).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt

from tts.base import Estimator, best
from tts.strategies.speculation import Speculative, Turn
from tts.strategies.speculation.conformal import Stratum, rate_within
from tts.strategies.speculation.rejection import Rejection
from tts.strategies.speculation.steps import Chain, Speculation
from tts.types import Candidate

Strata = Annotated[tuple[Stratum, ...], BeforeValidator(lambda by: by.split("+") if isinstance(by, str) else by)]


class Atts(Speculative):
    """N samples drafted by a small model, their poorest chunks continued by a large one; the majority answer wins.

    With `target_tokens=0` the draft model works alone, with `draft_tokens=0` the target model: the two controls.
    """

    rejection_rate: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of the drafts that the target continues, or rewrites."""
    rewrite: bool = False
    """Whether a rejected draft is taken back and the target writes in its place, instead of going on after it."""
    target_budget: PositiveInt | None = None
    """Completion tokens of the target for a problem, at most and in expectation; lowers `rejection_rate` if need be."""
    calibration: Path | None = None
    """File of scores to compare with, from `tts calibrate`; by default those of the strategy's earlier drafts in
    this run."""
    score_last: bool = True
    """Whether a draft that ends a sample, by an answer or by itself, is scored too and may be rejected, as in the
    paper's runs. Otherwise it is kept as it is, so that a sample of a single draft never meets the target."""
    by: Strata = ()
    """Compare only scores of the same `question`, `turn` or `length`; join several with +."""
    window: PositiveInt | None = None
    """Without a file: how many of the latest scores to compare with; None: all."""
    presample: NonNegativeInt = 0
    """Without a file: drafts of each problem that are drawn and scored beforehand, to compare with."""

    async def begin(self, speculation: Speculation) -> Turn:
        """Draft, look for an answer, score; keep the draft, or let the target continue it."""
        rejection = Rejection.open(
            speculation,
            self.calibration,
            self.rate,
            owner=self.spec,
            made_with=speculation.made_with(draft_tokens=self.draft_tokens, target_tokens=self.target_tokens),
            by=self.by,
            window=self.window,
        )
        await rejection.presample(self.presample, self.draft_tokens)

        async def turn(chain: Chain) -> None:
            if self.draft_tokens:
                await speculation.extend(chain, "draft", self.draft_tokens)
                if not self.target_tokens or self.kept(chain) or not await rejection.rejects(chain):
                    return
            await self.take_over(speculation, chain)

        return turn

    def kept(self, chain: Chain) -> bool:
        """Whether the last draft stays without having been scored: it ends the sample, or nobody can go on from it."""
        if chain.ended not in (("", "stop", "answered") if self.score_last else ("",)):
            return True
        last = chain.answer.samples[-1]
        return not (last.text or last.token_ids)  # the model ended the sample at once: there is nothing to score

    async def take_over(self, speculation: Speculation, chain: Chain) -> None:
        """Let the target write, after the last draft or in its place."""
        if self.rewrite and self.draft_tokens:
            speculation.undo(chain)
        elif self.draft_tokens:
            await speculation.reopen(chain)
        await speculation.extend(chain, "target", self.target_tokens)

    @property
    def rate(self) -> float:
        """`rejection_rate`, as far as the target's budget allows it."""
        if self.target_budget is None:
            return self.rejection_rate
        most = rate_within(self.target_budget, samples=self.n, rounds=self.rounds, tokens=self.target_tokens or 1)
        return min(self.rejection_rate, most)


class AttsBest(Atts):
    """The same samples; the one that the verifier rates highest wins."""

    @property
    def needs_verifier(self) -> bool:
        return True

    @property
    def estimator(self) -> Estimator:
        return "best_of_k"

    def select(self, candidates: Sequence[Candidate]) -> Candidate | None:
        return best(candidates)

    def settled(self, candidates: Sequence[Candidate]) -> bool:
        return any(candidate.passed for candidate in candidates)
