"""The probability that a model calls an answer right, read off its next token instead of sampled.

Kadavath et al. 2022, "Language Models (Mostly) Know What They Know" (arXiv 2207.05221), section 3: P(True).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from tts.base import ScoreVerifier
from tts.prompting import answer_of, fill, problem_text, template
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict

PROMPT = """\
<task>
$problem
</task>

<answer>
$answer
</answer>

Is this answer to the task correct and complete? Reply with one word, $yes or $no."""


class LogprobJudge(ScoreVerifier):
    """Scores by P(yes) / (P(yes) + P(no)): one request, one token, no sampling noise.

    Needs a model for the role `judge` that answers at once (without thinking first) and returns `top_logprobs`. If
    neither word is among the top tokens, there is no score. `details` has `certain`, the probability of both words.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"judge"})
    scale: ClassVar[Scale | None] = "positive"

    prompt: Annotated[str, template("problem", "answer", "yes", "no")] = PROMPT
    """The prompt; the first token of the reply must be the start of `yes` or `no`."""
    yes: str = "yes"
    """The word that accepts."""
    no: str = "no"
    """The word that refuses."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """The probability of yes. Raises `ValueError` where the judge's tokens do not give it."""
        words = {"yes": self.yes, "no": self.no}
        prompt = fill(self.prompt, problem=problem_text(problem), answer=answer_of(candidate), **words)
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 1, "logprobs": True}
        settings = {k: v for k, v in session.sampler("judge").endpoint.params.items() if not k.startswith("max_")}
        data = await session.post("/chat/completions", {**settings, **body, "top_logprobs": 20}, role="judge")
        chances = _first_token(data)
        yes, no = (sum(p for token, p in chances if begins(word, token)) for word in (self.yes, self.no))
        if not yes + no:
            likeliest = ", ".join(repr(token) for token, _ in chances[:3])
            raise ValueError(f"the judge's answer starts neither '{self.yes}' nor '{self.no}' but {likeliest}")
        return self.rated(yes / (yes + no), certain=yes + no)


def begins(word: str, token: str) -> bool:
    """Whether a token is `word` or the start of it, in any case and with spaces around it."""
    token = token.strip().casefold()
    return bool(token) and word.casefold().startswith(token)


def _first_token(data: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The candidates for the first token with their probabilities, the likeliest first."""
    try:
        tops = data["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        chances = [(str(top["token"]), math.exp(top["logprob"])) for top in tops]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("the judge's server returns no top_logprobs") from error
    return sorted(chances, key=lambda chance: -chance[1])
