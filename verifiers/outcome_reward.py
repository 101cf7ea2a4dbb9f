"""A reward model rates the whole answer (Cobbe et al. 2021, arXiv 2110.14168, section 4.2), or each of its steps in the
context of those before it (Lightman et al. 2023, arXiv 2305.20050).

A prefix is rated only once, so an answer that grows step by step pays for each step once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import prod
from statistics import fmean
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tts.base import ScoreVerifier
from tts.concurrency import together
from tts.errors import ConfigError
from tts.prompting import answer_of, problem_text
from tts.sampler.scoring import tokenize
from tts.session import Session
from tts.types import Candidate, Problem, Prompt, Scale, Verdict
from tts.verifiers.answers.extraction import last_number


class OutcomeReward(ScoreVerifier):
    """Scores by the reward that the model for the role `reward` gives the problem together with the answer.

    vLLM serves such models with `--runner pooling`. Identical answers are rated once.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"reward"})
    rates_partial: ClassVar[bool] = True

    route: Literal["classify", "pooling", "score", "chat"] = "classify"
    """The server's route: vLLM's `/classify`, `/pooling` (raw values) or `/score` (question and answer separately), or
    `/v1/chat/completions` of a server that replies to problem and answer with the reward."""
    label: int = -1
    """Which of several values counts: the class of `classify`; by default the last."""
    params: dict[str, Any] = Field(default_factory=dict)
    """More fields of the request, such as `{"use_activation": false}`."""

    @property
    def scale(self) -> Scale | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A probability where the server applies the model's activation, which `/classify` and `/score` do by default;
        else any number."""
        activated = self.params.get("use_activation", self.route in ("classify", "score"))
        return "positive" if activated else "reward"

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """The reward as the model gives it. Raises `ValueError` where the server's answer has none."""
        return self.rated(await self.reward(problem, answer_of(candidate), session))

    async def foresee(self, problem: Problem, candidates: Sequence[Candidate], session: Session) -> None:
        """vLLM takes several texts in one request, but only one conversation."""
        field = "text_2" if self.route == "score" else "input"
        texts = {text for candidate in candidates for text in self._read_of(answer_of(candidate))}
        bodies = [{**self._body(problem, text), **self.params} for text in sorted(texts)]
        if all(field in body for body in bodies):
            await session.post_joined(self._path, bodies, field=field, role="reward")

    def _read_of(self, answer: str) -> list[str]:
        """What the server is to read of an answer to rate it."""
        return [answer]

    @property
    def _path(self) -> str:
        return "/chat/completions" if self.route == "chat" else f"/../{self.route}"

    async def reward(self, problem: Problem, answer: str, session: Session) -> float:
        """The reward of one answer."""
        path = self._path
        data = await session.post(path, {**self._body(problem, answer), **self.params}, role="reward")
        try:
            value = self._read(data)
        except (KeyError, IndexError, TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"no reward in the answer of {path}: {str(data)[:200]}")
        return value

    def _body(self, problem: Problem, answer: str) -> dict[str, Any]:
        if self.route == "score":
            return {"text_1": problem_text(problem), "text_2": answer}
        if isinstance(problem.messages, str):
            return {"input": problem.messages + answer}
        messages = [*problem.messages, {"role": "assistant", "content": answer}]
        whole = {} if self.route == "chat" else {"add_generation_prompt": False}
        return {"messages": messages, **whole}

    def _read(self, data: Mapping[str, Any]) -> float:
        if self.route == "chat":
            number = last_number(data["choices"][0]["message"]["content"])
            return float(number) if number is not None else math.nan
        (item,) = data["data"]
        if self.route == "score":
            return float(item["score"])
        values = item["probs"] if self.route == "classify" else item["data"]
        while isinstance(values[-1], list):  # one row per token or step: the last has seen them all
            values = values[-1]
        return float(values[self.label])


AGGREGATES = {"last": lambda steps: steps[-1], "min": min, "max": max, "mean": fmean, "prod": prod}


class ProcessReward(OutcomeReward):
    """Scores by aggregating the rewards of the steps; `details` has them all as `steps`.

    The literature uses `last` for beam search and best-of-N; `min` and `prod` suit rewards that are probabilities that
    a step is right.
    """

    step: str = "\n\n"
    """The text that ends a step of an answer."""
    aggregate: Literal["last", "min", "prod", "mean", "max"] = "last"
    """How the steps' rewards are aggregated into the score."""
    separator: str | None = None
    """The token at which the model rates a step (such as `<extra_0>`), appended to each step: a single request to
    `/pooling` then returns all rewards, one row per step. None: each prefix is rated as an answer of its own."""
    labels: tuple[str, str] | None = None
    """The tokens by which a generative model calls a step right or wrong, such as `["+", "-"]`: a step's reward is the
    chance of the first among both. With a `separator` (Math-Shepherd's ` ки`) the model says it behind that of each
    step, in a text; without, in its turn of a chat in which each step is a turn of the user's (RLHFlow)."""
    exact: bool = False
    """Whether the chance is asked of vLLM's `/generative_scoring`, which also knows labels that are not among the 20
    likeliest tokens."""

    @model_validator(mode="after")
    def _exact_by_labels(self) -> Self:
        if self.exact and self.labels is None:
            raise ValueError('exact needs labels, such as labels=["+","-"]')
        return self

    @property
    def scale(self) -> Scale | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A probability also where the model gives one at each separator or by its labels."""
        activated = self.labels or (self.separator and self.params.get("use_activation", True))
        return "positive" if activated else super().scale

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """Raises `ValueError` where the server's answer lacks the steps' rewards."""
        steps = self._steps(answer_of(candidate))
        if not steps:
            return Verdict(None, details={"reason": "there are no steps"})
        rate = self._by_labels if self.labels else self._at_separators if self.separator else self._of_prefixes
        rewards = await rate(problem, steps, session)
        return self.rated(AGGREGATES[self.aggregate](rewards), steps=rewards)

    def _steps(self, answer: str) -> list[str]:
        return [step for step in answer.split(self.step) if step.strip()]

    def _read_of(self, answer: str) -> list[str]:
        steps = self._steps(answer)
        if self.labels:  # asked as completions
            return []
        if self.separator:
            return ["".join(f"{step}{self.separator}" for step in steps)] if steps else []
        return list(accumulate(steps, lambda before, step: before + self.step + step))

    @property
    def _path(self) -> str:
        return "/../pooling" if self.separator else super()._path

    async def _of_prefixes(self, problem: Problem, steps: list[str], session: Session) -> list[float]:
        prefixes = self._read_of(self.step.join(steps))
        return await together(self.reward(problem, prefix, session) for prefix in prefixes)

    async def _at_separators(self, problem: Problem, steps: list[str], session: Session) -> list[float]:
        (text,) = self._read_of(self.step.join(steps))
        data = await session.post(self._path, {**self._body(problem, text), **self.params}, role="reward")
        try:
            ((*rows,),) = (item["data"] for item in data["data"])
            rewards = [reward for row in rows if math.isfinite(reward := float(row[self.label]))]
        except (KeyError, IndexError, TypeError, ValueError):
            rewards = []
        if len(rewards) != len(steps):
            raise ValueError(
                f"{len(steps)} steps and {len(rewards)} rewards; does the server pool at '{self.separator}'?"
            )
        return rewards

    async def _by_labels(self, problem: Problem, steps: list[str], session: Session) -> list[float]:
        assert self.labels is not None
        asked = problem_text(problem)
        if self.separator:
            said = accumulate((f"{step}{self.separator}" for step in steps), lambda one, next: one + self.step + next)
            return await together(self._chance(f"{asked} {text}", session) for text in said)
        turns: list[dict[str, str]] = []
        for step in [f"{asked} {steps[0]}", *steps[1:]]:
            turns += {"role": "user", "content": step}, {"role": "assistant", "content": self.labels[0]}
        return await together(self._chance(turns[: 2 * i + 1], session) for i in range(len(steps)))

    async def _chance(self, prompt: Prompt, session: Session) -> float:
        """The chance of the first label against the second as what follows `prompt`, which is asked once."""
        if self.exact:
            return await self._exact_chance(prompt, session)
        asked = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}
        sample = await session.once(
            ("labels", json.dumps(prompt)), lambda inner: inner.one(prompt, role="reward", inner=True, **asked)
        )
        tops = dict(sample.top_logprobs or {}) if sample is not None else {}
        right, wrong = (
            sum(math.exp(logprob) for token, logprob in tops.items() if token.strip() == label)
            for label in self.labels or ()
        )
        if not right + wrong:
            raise ValueError(f"neither of {self.labels} is among the model's likeliest tokens: {list(tops)[:3]}")
        return right / (right + wrong)

    async def _exact_chance(self, prompt: Prompt, session: Session) -> float:
        sampler = session.sampler("reward")
        labels = await session.once(("label tokens", self.labels), self._label_tokens)
        body = {"query": [], "items": [await tokenize(sampler, prompt)], "label_token_ids": labels}
        data = await session.post("/../generative_scoring", body, role="reward")
        try:
            return float(data["data"][0]["score"])
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError(f"no reward in the answer of /generative_scoring: {str(data)[:200]}") from None

    async def _label_tokens(self, session: Session) -> list[int]:
        found = [await tokenize(session.sampler("reward"), label, special=False) for label in self.labels or ()]
        if any(len(ids) != 1 for ids in found):
            raise ConfigError(f"{self.labels} are not one token each for the model, as exact=true needs them")
        return [ids[0] for ids in found]
