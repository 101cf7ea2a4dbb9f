"""What tuning a small model changed, added to a large one: a tuned large model that nobody has trained.

Mitchell et al. 2023, "An Emulator for Fine-Tuning Large Language Models using Small Language Models" (arXiv
2310.12962), section 3: log p(y) = log p_base(y) + beta (log p_tuned(y) - log p_anchor(y)) + constant. There each token
is drawn by it; here whole answers of another model are rated by it, or drawn anew in proportion to it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from tts.base import ScoreVerifier
from tts.sampler.scoring import TokenScores, detokenize, tokenize
from tts.session import Session
from tts.types import Candidate, Problem, Prompt, Scale, Verdict

READERS = ("base", "tuned", "anchor")


class LogprobContrast(ScoreVerifier):
    """Scores by the log-probability of the answer under a large model tuned as a small one was.

    Three roles read each answer: `base` is the large model, `tuned` the small one, `anchor` what that was tuned from.
    They must give log-probabilities of a prompt, as vLLM does (see `tts doctor`). Chat messages are rendered by the
    template of `tuned`, for all. How an answer ends does not count.
    """

    roles: ClassVar[frozenset[str]] = frozenset(READERS)

    beta: float = 1.0
    """How much of the tuning is added: 0 none, above 1 more than there was."""
    drawn_by: Literal["base", "tuned", "anchor"] | None = None
    """Whose model wrote the answers, at temperature 1. They are then weighted by how much likelier they are under the
    combined model, and the best of N is one drawn in proportion to that (importance resampling, by Gumbel noise on the
    logarithms). None: the score is the mean of a token, which does not favour short answers."""

    @property
    def scale(self) -> Scale | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "order" if self.drawn_by else "logprob"

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """What each role gives it is in `details`. Raises `ConfigError` where a server gives no log-probabilities of a
        prompt, and `ValueError` for an empty answer."""
        if not candidate.content:
            raise ValueError("an empty answer has no log-probability")
        prompt: Prompt = problem.messages
        if not isinstance(prompt, str):
            prompt = await session.once(("rendered by", "tuned"), _rendered)

        async def read(role: str) -> TokenScores:
            special = prompt is problem.messages  # a rendered prompt has its begin-of-text token
            return await session.score(prompt, candidate.content, role=role, special=special)

        scores = dict(zip(READERS, await session.together(map(read, READERS)), strict=True))
        totals = {role: sum(found.logprobs) for role, found in scores.items()}
        combined = totals["base"] + self.beta * (totals["tuned"] - totals["anchor"])
        told: dict[str, Any] = {**totals, "tokens": len(scores["base"].logprobs), "combined": combined}
        if self.drawn_by is None:
            return self.rated(combined / told["tokens"], **told)
        weight = combined - totals[self.drawn_by]
        return self.rated(weight + float(session.rng.gumbel()), **told, log_weight=weight)


async def _rendered(session: Session) -> str:
    tuned = session.sampler("tuned")
    return await detokenize(tuned, await tokenize(tuned, session.problem.messages))
