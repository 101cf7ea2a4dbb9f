"""Many-shot: solved examples before the question, as many as the context holds.

Agarwal et al. 2024, "Many-Shot In-Context Learning" (arXiv 2404.11018), section 2. With `k` the input grows, so curves
are against `prompt_tokens`: the study `sweep` draws one over several runs of `k`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from random import Random
from typing import Annotated, Any, Self

from pydantic import AfterValidator, NonNegativeInt

from tts import registry
from tts.base import AnswerVerifier, as_config, made_from_spec
from tts.errors import ConfigError
from tts.prompting import problem_text
from tts.registry import Plugin
from tts.session import Session
from tts.strategies.wrapping import Reworded
from tts.tasks import Example, Task
from tts.types import Problem

MOST = 20_000
"""Examples of a task that are chosen from."""


TaskField = Annotated[Task, made_from_spec("tasks"), as_config]


def operators_alone(task: Task | None) -> Task | None:
    """`task`, unless a stranger's request names it: tasks read files and download them."""
    if task is not None and not registry.trusted():
        raise ValueError("a request may not name tasks; the operator can, in a preset")
    return task


class ManyShot(Reworded):
    """K solved examples before the question: chat turns, or texts before a raw text. The rest is the inner strategy's.

    The seed of the run chooses them, the same for all problems; those of a smaller `k` begin those of a larger one.
    An example that asks the same as the problem is passed over.
    """

    k: NonNegativeInt = 4
    """Examples; 0: the question alone."""
    examples: Annotated[TaskField | None, AfterValidator(operators_alone)] = None
    """The task whose examples are shown: `gsm8k(split=train)`, `jsonl(path=solved.jsonl)`; by default the training
    split of the run's task, where that has one."""

    def taught(self, training: Plugin) -> Self:
        taught = super().taught(training)
        return taught if self.examples is not None or not self.k else taught.model_copy(update={"examples": training})

    def ready(self, problem: Problem) -> None:
        super().ready(problem)
        self.shown(problem, 0)

    async def asked(self, problem: Problem, session: Session) -> Problem:
        return with_examples(problem, self.shown(problem, session.seed))

    def shown(self, problem: Problem, seed: int) -> list[Example]:
        """The first `k` examples in the order of the seed. Raises `ConfigError` where there are not so many."""
        if not self.k:
            return []
        if self.examples is None:
            raise ConfigError(
                f"{self.spec} needs solved examples, for the task has no training split: examples=TASK, such as "
                "jsonl(path=FILE) with prompt and solution on each line"
            )
        pool = solved_examples(self.examples.spec)
        order = Random(f"many_shot {seed}").sample(range(len(pool)), len(pool))
        asked = _words(problem)
        chosen = list(islice((pool[i] for i in order if _words(pool[i].problem) != asked), self.k))
        if len(chosen) < self.k:
            raise ConfigError(f"{self.examples.spec} has {len(chosen)} examples besides {problem.id}; lower k={self.k}")
        return chosen


@lru_cache(maxsize=8)
def solved_examples(spec: str) -> Sequence[Example]:
    """The examples of a task that say how they are solved. Raises `ConfigError` if there are none."""
    found = [one for one in islice(registry.make("tasks", spec).examples(), MOST) if solution_of(one)]
    if not found:
        raise ConfigError(f"no example of {spec} says how it is solved; jsonl reads prompts with their `solution`")
    return found


def solution_of(example: Example) -> str:
    """The answer that is shown: the worked solution, else the truth's in one line; empty if neither is known."""
    reference = example.truth.reference if isinstance(example.truth, AnswerVerifier) else None
    return example.solution or ("" if reference is None else f"Answer: {reference}")


def with_examples(problem: Problem, examples: Sequence[Example]) -> Problem:
    """`problem` with the solved examples before its first message that is not the system's."""
    if not examples:
        return problem
    if isinstance(problem.messages, str):
        parts = [f"{problem_text(one.problem)}\n{solution_of(one)}" for one in examples]
        return problem.model_copy(update={"messages": "\n\n".join([*parts, problem.messages])})
    turns: list[dict[str, Any]] = []
    for one in examples:
        turns += [turn for turn in one.problem.turns if turn["role"] not in ("system", "developer")]
        turns.append({"role": "assistant", "content": solution_of(one)})
    first = next((i for i, turn in enumerate(problem.turns) if turn["role"] not in ("system", "developer")), 0)
    return problem.model_copy(update={"messages": (*problem.turns[:first], *turns, *problem.turns[first:])})


def _words(problem: Problem) -> str:
    """What a problem asks, however it is laid out."""
    return " ".join(" ".join(str(turn.get("content")) for turn in problem.turns).casefold().split())
