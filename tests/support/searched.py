"""A small world to search in step by step: a line is a digit, its reward is the digit, and four lines are an answer."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar

from tts import Candidate, MockModel, Problem, Session, Strategy, Verdict
from tts.base import ScoreVerifier
from tts.registry import register
from tts.runs import Experiment
from tts.tasks import Example, Task
from tts.types import Scale
from tts.verifiers.exact_answer import ExactAnswer

LINES = 4
DVTS, ROLLED, BEAM = "dvts:n=4,width=2", "beam_search:n=4,width=2,rollouts=2", "beam_search:n=8,width=2"


class DigitRace(Task):
    """Whoever writes 9 in every line is right."""

    words: str = "Digits:\n"

    def examples(self) -> Iterator[Example]:
        for i in range(2):
            problem = Problem(id=f"<b>race</b>{i}", messages=self.words)
            yield Example(problem, truth=ExactAnswer(reference="\n\n".join("9" * LINES)))


class Broad(Strategy):
    """No search, but the records of one of 10,000 steps: a hundred chains of a hundred."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        for i in range(100):
            names = [".".join([str(i), *"0" * depth]) for depth in range(100)]
            tree = [{"node": name, "turn": len(name), "text": name, "tokens": 9, "reward": i / 99} for name in names]
            yield session.candidate(f"answer {i}", spawned=(i,), tree=tree, node=names[-1])


class MeanDigit(ScoreVerifier):
    """The last line's digit, from 0 to 1."""

    rates_partial: ClassVar[bool] = True
    scale: ClassVar[Scale | None] = "positive"

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        return self.rated(int(candidate.content.strip().split("\n\n")[-1][0]) / 9)


register("tasks", DigitRace)
register("strategies", Broad)
register("verifiers", MeanDigit)


def searching(
    *strategies: str,
    words: str = "Digits:\n",
    remark: str = "",
    before: Callable[[dict[str, Any]], None] = lambda _: None,
    **more: Any,
) -> Experiment:
    """An experiment over two problems; each line is a digit with `remark` behind it. `before` sees each request."""
    dice = random.Random(0)

    def line(request: dict[str, Any]) -> str:
        before(request)
        done = str(request["prompt"]).removeprefix(words).count("\n\n")
        rest = LINES - done if "stop" not in request else 1
        lines = [f"{dice.randrange(10)}{remark}" for _ in range(rest)]
        return "\n\n".join(lines) + ("\n\n" if done + rest < LINES else "")

    return Experiment.parse(
        {
            "task": {"name": "digit_race", "words": words},
            "strategies": list(strategies),
            "models": {"mock": MockModel(line, max_attempts=1)},
            "verifier": "mean_digit",
            **more,
        }
    )
