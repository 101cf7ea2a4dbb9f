"""PRIS: find what the best candidates commonly miss, rewrite the prompt for exactly that, and generate again.

"PRIS" (arXiv 2512.03534): prompt redesign for inference-time scaling, for texts, programs and images.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import count

from pydantic import NonNegativeInt, PositiveInt, field_validator

from tts.base import Strategy, Verifier, VerifierField
from tts.prompting import problem_text
from tts.session import Session
from tts.strategies.redesign import Attempt, Rewriter, covering, drawn, with_seeds, wording_of
from tts.strategies.redesign.prompts import RedesignPrompts, RedesignPromptsField
from tts.types import Candidate, Problem
from tts.verifiers.element_check import ElementCheck


class PromptRedesign(Strategy):
    """N candidates in equal rounds; each round's prompt says what the best ones so far mostly missed.

    Half of a round's number, chosen to meet the most elements together, are used again: their seeds for images,
    they themselves as drafts for texts. Every candidate is judged by the original request. Needs a model for the role
    that rewrites, and those of the verifier.
    """

    needs_verifier = True

    n: PositiveInt = 20
    """Candidates in all."""
    rounds: NonNegativeInt = 1
    """Redesigns. 0 is best-of-N."""
    variants: PositiveInt = 2
    """Rewritten prompts in a round, as far as there are candidates to make from them."""
    per_sample: bool = False
    """Whether the prompt is rewritten for each chosen candidate by what that one misses, for comparison."""
    expand: bool = False
    """Whether the prompt is expanded before anything is generated."""
    reuse: bool = True
    """Whether seeds or drafts are used again; otherwise only the prompt is."""
    images: bool = False
    """Whether the role `image` draws the candidates instead of `policy` writing them."""
    rewrite_role: str = "policy"
    """The role that rewrites."""
    verifier: VerifierField | None = ElementCheck()
    """What says which elements of the request are met; for programs with public tests this may be
    `unit_tests(elements=true)`. The run's verifier is not used."""
    prompts: RedesignPromptsField = RedesignPrompts()
    """What is asked: `lab` for the lab models, or `{"rewrite": "..."}` to replace rewrite, element, paraphrase, expand
    or draft."""

    @field_validator("verifier")
    @classmethod
    def _by_elements(cls, verifier: Verifier | None) -> Verifier | None:
        if verifier is None or not verifier.tells_elements:
            name = verifier.name if verifier is not None else "null"
            raise ValueError(f"{name} does not say which elements are met; verifier=element_check does")
        return verifier

    @property
    def roles(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        writer = {self.rewrite_role} if self.rounds or self.expand else set()
        return frozenset({"image" if self.images else "policy", *writer})

    def ready(self, problem: Problem) -> None:
        problem_text(problem)
        wording_of(problem)

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        pool: list[Candidate] = []
        for number in range(self.rounds + 1):
            attempts = await self._attempts(pool, self._until(number + 1) - self._until(number), session)
            had: list[Candidate] = []
            made = drawn(attempts, pool, session, images=self.images, draft=self.prompts.draft, number=number)
            async for candidate in session.verified(made):
                had.append(candidate)
                yield candidate
            pool = sorted([*pool, *had], key=lambda candidate: candidate.spawned)

    def _until(self, number: int) -> int:
        """Candidates before round `number`."""
        return self.n * number // (self.rounds + 1)

    async def _attempts(self, pool: Sequence[Candidate], n: int, session: Session) -> list[Attempt]:
        """What to ask next, for `n` candidates, knowing those of `pool`."""
        rewriter = Rewriter(session, self.prompts, self.rewrite_role)
        best = covering(pool, max(1, self.n // (2 * (self.rounds + 1))))
        if best:
            attempts = await rewriter.redesigned(best, n, self.variants, per_sample=self.per_sample, reuse=self.reuse)
        else:
            if pool:
                session.ledger.failures.append("no candidate could be rated: the prompt is not redesigned")
            plain = await rewriter.expanded() if self.expand else Attempt(wording_of(session.problem))
            attempts = [plain] * n if self.images else [replace(plain, n=n)]
        if not self.images:
            return attempts
        first = session.sampler("image").endpoint.params.get("seed") or 0
        return with_seeds(attempts, count(first + len(pool)))
