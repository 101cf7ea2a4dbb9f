"""A model grades an answer on a scale, after giving its reasons (Zheng et al. 2023, arXiv 2306.05685, section 3.1).

`self_check` asks the model that answered for the mistakes in its own answer (Madaan et al. 2023, "Self-Refine", arXiv
2303.17651, section 2: the feedback step). What it finds becomes the verdict's feedback, which guides strategies that
revise an answer. It is only as good as the model itself; where there is another model, `judge` is the stronger choice.

`logprob_judge` reads the probability that a model calls an answer right off its next token, without sampling (Kadavath
et al. 2022, "Language Models (Mostly) Know What They Know", arXiv 2207.05221, section 3: P(True)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, NonNegativeFloat, NonNegativeInt, PositiveInt, create_model, model_validator
from pydantic import Field as Limits

from tts.base import ScoreVerifier
from tts.prompting import ask, constrained, filled, json_of, shown, template, way_of
from tts.session import Session
from tts.types import Candidate, Problem, Scale, Verdict

PROMPT = """\
Grade an answer to a task. What counts is this: $rubric
How long the answer is, how sure it sounds and how it is laid out are worth nothing in themselves.

<task>
$problem
</task>

<answer>
$answer
</answer>

Look for the worst mistake first, and check what can be checked. Then grade from $low (worthless) to $high (flawless).
Reply with JSON: {"reasons": "what is right and what is wrong, briefly", "grade": a whole number}"""


class Judgement(BaseModel):
    """Reasons come first: a grade given before them would not follow from them."""

    reasons: str = ""
    grade: int


class Judge(ScoreVerifier):
    """Scores by the mean grade of `votes` judgements, scaled to 0 for the lowest grade and 1 for the highest.

    Needs a model for the role `judge`. A judgement that cannot be read is recorded and does not count; if none can,
    there is no score. `feedback` has the reasons of the lowest grade; `details` has all `grades`.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"judge"})
    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    prompt: Annotated[str, template("problem", "answer", "rubric", "low", "high")] = PROMPT
    """The prompt; the reply must be JSON with `reasons` and `grade`."""
    rubric: str = "the answer is correct and does all that the task asks for."
    """What makes an answer good."""
    partial_rubric: str = (
        "the answer is not finished yet; all that it says so far is correct and leads towards what the task asks for."
    )
    """What makes the beginning of an answer good, for searches over steps."""
    low: int = 1
    """The lowest grade."""
    high: int = 10
    """The highest grade."""
    votes: PositiveInt = 1
    """Judgements to average; more than one needs a judge that samples (temperature above 0)."""
    length_penalty: NonNegativeFloat = 0.0
    """Subtracted from the score per 1,000 characters of the answer, to offset a judge that favours long answers."""
    trajectory: NonNegativeInt = 20_000
    """Characters of a trajectory that it reads, the way and the answer together; 0: the answer alone."""

    @model_validator(mode="after")
    def _is_a_scale(self) -> Judge:
        if self.low >= self.high:
            raise ValueError(f"the lowest grade, {self.low}, must be below the highest, {self.high}")
        return self

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        form = _form(self.low, self.high)
        scale = {
            "rubric": self.partial_rubric if candidate.partial else self.rubric,
            "low": self.low,
            "high": self.high,
        }
        answer = await way_of(candidate, self.trajectory)
        prompt = await shown(session, self.prompt, answer, problem=problem, **scale)
        (role,) = self.roles
        messages = [{"role": "user", "content": prompt}]
        judged = ask(session, messages, json_of(form), role=role, n=self.votes, **constrained(form))
        found = sorted([(judgement.grade, judgement.reasons) async for _, judgement in judged])
        if not found:
            return Verdict(None, details={"reason": "no judgement could be read"})
        grades = [grade for grade, _ in found]
        mean = (sum(grades) / len(grades) - self.low) / (self.high - self.low)
        length = len(await filled("$answer", answer=candidate)) if self.length_penalty else 0
        return self.rated(mean - self.length_penalty * length / 1000, found[0][1], grades=grades)


@lru_cache
def _form(low: int, high: int) -> type[Judgement]:
    return create_model("Judgement", __base__=Judgement, grade=(Annotated[int, Limits(ge=low, le=high)], ...))


SELF_CHECK = """\
You gave the answer below to a task. Assume that there is a mistake in it and find it: do the decisive steps again in
another way, test it on a small case, and compare it with each thing that the task asks for ($rubric)

<task>
$problem
</task>

<answer>
$answer
</answer>

Then say how sure you are that the answer holds, from $low (certainly wrong) to $high (certainly right).
Reply with JSON: {"reasons": "each mistake and how to repair it, or why there is none", "grade": a whole number}"""


class SelfCheck(Judge):
    """`judge` with the model that gave the answer: scores by how sure the model is on a second look."""

    roles: ClassVar[frozenset[str]] = frozenset({"policy"})

    prompt: Annotated[str, template("problem", "answer", "rubric", "low", "high")] = SELF_CHECK
    """The prompt; the reply must be JSON with `reasons` and `grade`."""


YES_OR_NO = """\
<task>
$problem
</task>

<answer>
$answer
</answer>

Is this answer to the task correct and complete? Reply with one word, $yes or $no."""
YES_OR_NO_SO_FAR = """\
<task>
$problem
</task>

<beginning>
$answer
</beginning>

This is how an answer to the task begins. Is all of it correct, and does it lead to the solution? Reply with one word, \
$yes or $no."""


class LogprobJudge(ScoreVerifier):
    """Scores by P(yes) / (P(yes) + P(no)): one request, one token, no sampling noise.

    Needs a model for the role `judge` that answers at once (without thinking first) and returns `top_logprobs`. If
    neither word is among the top tokens, there is no score. `details` has `certain`, the probability of both words.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"judge"})
    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    prompt: Annotated[str, template("problem", "answer", "yes", "no")] = YES_OR_NO
    """The prompt; the first token of the reply must be the start of `yes` or `no`."""
    partial_prompt: Annotated[str, template("problem", "answer", "yes", "no")] = YES_OR_NO_SO_FAR
    """The prompt for the beginning of an answer, for searches over steps."""
    yes: str = "yes"
    """The word that accepts."""
    no: str = "no"
    """The word that refuses."""
    trajectory: NonNegativeInt = 20_000
    """Characters of a trajectory that it reads, the way and the answer together; 0: the answer alone."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """The probability of yes. Raises `ValueError` where the judge's tokens do not give it."""
        words = {"yes": self.yes, "no": self.no}
        prompt = self.partial_prompt if candidate.partial else self.prompt
        answer = await way_of(candidate, self.trajectory)
        prompt = await filled(prompt, problem=problem, answer=answer, **words)
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
