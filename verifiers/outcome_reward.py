"""A reward model rates the whole answer (Cobbe et al. 2021, arXiv 2110.14168, section 4.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from tts.base import ScoreVerifier
from tts.prompting import answer_of, problem_text
from tts.session import Session
from tts.types import Candidate, Problem, Verdict
from tts.verifiers.answers.extraction import last_number


class OutcomeReward(ScoreVerifier):
    """Scores by the reward that the model for the role `reward` gives the problem together with the answer.

    vLLM serves such models with `--runner pooling`. Identical answers are rated once.
    """

    roles: ClassVar[frozenset[str]] = frozenset({"reward"})

    route: Literal["classify", "pooling", "score", "chat"] = "classify"
    """The server's route: vLLM's `/classify`, `/pooling` (raw values) or `/score` (question and answer separately), or
    `/v1/chat/completions` of a server that replies to problem and answer with the reward."""
    label: int = -1
    """Which of several values counts: the class of `classify`; by default the last."""
    params: dict[str, Any] = Field(default_factory=dict)
    """More fields of the request, such as `{"use_activation": false}`."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """The reward as the model gives it. Raises `ValueError` where the server's answer has none."""
        return self.rated(await self.reward(problem, answer_of(candidate), session))

    async def reward(self, problem: Problem, answer: str, session: Session) -> float:
        """The reward of one answer."""
        path = "/chat/completions" if self.route == "chat" else f"/../{self.route}"
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
