"""Tasks of Inspect (https://inspect.aisi.org.uk): their data sets, the prompts that their solvers make, their scorers.

The solver runs to see what it asks the model, which becomes the problem; strategies answer it as any other. It runs
again for each answer, which it is given as the model's, so that the scorer finds the state that it expects. A solver
that then goes on asking is an environment: what it says is what the policy is told, and an answer is a trajectory. So
those tasks are taken whose solver talks with the model, without tools: prompt templates, system messages, multiple
choice, questions behind the first. Parameters of `generate` are the run's business, and so are epochs.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

from pydantic import Field, NonNegativeInt, model_validator

from tts.base import Verifier
from tts.calls import digest
from tts.errors import ConfigError, MissingExtra
from tts.registry import trusted
from tts.resources import Resources
from tts.session import Session
from tts.tasks import Example, Task
from tts.trajectories import EndState, Environment, Episode, Observation, ToolCall
from tts.types import Candidate, Problem, Scale, Verdict

Messages = list[dict[str, Any]]


class InspectTask(Task):
    """A task of Inspect whose solver only talks with the model: `inspect_task:task=FILE.py@NAME` (extra `inspect`)."""

    task: str
    """`FILE.py@NAME` or `MODULE@NAME`: a function with the decorator `@task`, such as `inspect_evals.gsm8k@gsm8k`."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Its arguments."""
    scorer: NonNegativeInt = 0
    """Which of its scorers grades, from 0."""
    accept: float = 1.0
    """The score, as a number (C is 1, P is 0.5, I and N are 0), from which an answer is right."""

    @model_validator(mode="after")
    def _is_ours(self) -> Self:
        if not trusted():
            raise ValueError("a request may not name code that runs here")
        return self

    def examples(self) -> Iterator[Example]:
        task = loaded(self.task, json.dumps(self.args, sort_keys=True))
        seen = set[str]()
        if self.scorer >= len(task.scorer or ()):
            raise ConfigError(f"{self.task} has {len(task.scorer or ())} scorers, none with the number {self.scorer}")
        with ThreadPoolExecutor(1) as thread:  # there may be a loop in this one
            for number, sample in enumerate(task.dataset):
                id = str(number if sample.id is None else sample.id)
                if id in seen:
                    raise ConfigError(f"{self.task} has two samples with the id {id}")
                seen.add(id)
                if sample.sandbox or sample.files or sample.setup or task.sandbox:
                    raise ConfigError(f"{self.task}, sample {id}: it needs a sandbox of Inspect's, and has none here")
                try:
                    asked, more = thread.submit(asyncio.run, _seen(task, sample)).result()
                except ValueError as error:
                    raise ConfigError(f"{self.task}, sample {id}: {error}") from error
                given = sample.model_dump(mode="json", exclude_none=True)
                problem = Problem(id=id, messages=asked)
                if more:
                    place = InspectSolver(task=self.task, args=self.args)
                    problem = Problem(id=id, messages=asked, environment=place, metadata={"sample": given})
                yield Example(problem, InspectScorer(sample=given, **dict(self)))


class InspectScorer(Verifier):
    """The scorer of a task of Inspect, for one of its samples."""

    scale: ClassVar[Scale | None] = "positive"

    task: str
    args: dict[str, Any]
    scorer: int
    accept: float
    sample: dict[str, Any]
    """In Inspect's form."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        """The score as a number. Raises `ValueError` for one that is none."""
        turns = candidate.notes.get("trajectory", {}).get("turns", ())
        said = [turn["content"] or "" for turn in turns if turn["role"] == "assistant"] or [candidate.content]
        score = await asyncio.to_thread(asyncio.run, self._scored(said))  # some take their time
        if score is None or isinstance(score.value, dict | list):
            raise ValueError(f"the scorer of {self.task} gave no single number: {score and score.value}")
        from inspect_ai.scorer import value_to_float

        value = value_to_float()(score.value)
        details = {"value": score.value, "answer": score.answer}
        return Verdict(value, value >= self.accept, score.explanation or "", details)

    async def _scored(self, said: Sequence[str]) -> Any:
        from inspect_ai.dataset import Sample
        from inspect_ai.scorer import Target

        task, sample = loaded(self.task, json.dumps(self.args, sort_keys=True)), Sample.model_validate(self.sample)
        try:
            state = await _played(task, sample, said)
        except _Asked:
            raise ValueError(f"the solver of {self.task} goes on asking the model behind the last answer") from None
        return await task.scorer[self.scorer](state, Target(sample.target))


@cache
def loaded(name: str, args: str) -> Any:
    """The task of that name, made with arguments in JSON. Raises `ConfigError`, and `MissingExtra` without Inspect."""
    try:
        from inspect_ai import Task as Theirs
    except ImportError as error:
        raise MissingExtra("inspect", "the task inspect_task") from error
    where, _, function = name.rpartition("@")
    try:
        made = getattr(_module(where), function)(**json.loads(args))
    except Exception as error:  # it is code of others
        raise ConfigError(
            f"cannot load {name} (FILE.py@NAME or MODULE@NAME): {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, Theirs):
        raise ConfigError(f"{name} is no task of Inspect but {type(made).__name__}")
    return made


def _module(where: str) -> ModuleType:
    if not where.endswith(".py"):
        return importlib.import_module(where)
    path = Path(where).expanduser().resolve()
    spec = spec_from_file_location(f"inspect_task_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class InspectSolver(Environment):
    """What a solver of Inspect says between one answer of the model and the next: the problems of `inspect_task` whose
    solver asks more than once are solved in it."""

    forks: ClassVar[bool | None] = True

    task: str
    args: dict[str, Any] = Field(default_factory=dict)

    async def reset(self, problem: Problem, resources: Resources) -> Episode:
        from inspect_ai.dataset import Sample

        task = loaded(self.task, json.dumps(self.args, sort_keys=True))
        return Asking(task, Sample.model_validate(problem.metadata["sample"]), problem.turns, ())


class Asking(Episode):
    """A solver and what it was told so far. It is run again from its beginning for each further answer."""

    def __init__(self, task: Any, sample: Any, asked: Messages, said: tuple[str, ...]) -> None:
        self._task, self._sample, self._asked, self._said = task, sample, asked, said

    async def step(self, action: ToolCall | str) -> Observation:
        said = (*self._said, str(action))
        asked = await asyncio.to_thread(asyncio.run, _asked(self._task, self._sample, said))
        told = None if asked is None else _more(self._asked, said[-1], asked)
        self._said, self._asked = said, asked or self._asked
        return Observation(told or "", done=told is None)

    async def state(self) -> EndState:
        return EndState(digest([*self._said]).hex())

    async def fork(self) -> Episode:
        return Asking(self._task, self._sample, self._asked, self._said)


class _Asked(Exception):
    """The solver asks the model."""

    def __init__(self, state: Any) -> None:
        self.state = state


async def _played(task: Any, sample: Any, said: Sequence[str]) -> Any:
    """The state after the solver, to which the model says all of `said`. Raises `_Asked` where it asks for more."""
    from inspect_ai.model import ChatMessageUser, ModelName, ModelOutput
    from inspect_ai.scorer import Target
    from inspect_ai.solver import TaskState

    left = [ModelOutput.from_content("tts/model", answer) for answer in reversed(said)]

    async def generate(state: Any, *_: Any, **__: Any) -> Any:
        if not left:
            raise _Asked(state)
        state.output = left.pop()
        state.messages.append(state.output.message)
        return state

    first: list[Any] = [ChatMessageUser(content=sample.input)] if isinstance(sample.input, str) else [*sample.input]
    state = TaskState(
        model=ModelName("tts/model"),
        sample_id=sample.id or 0,
        epoch=1,
        input=sample.input,
        messages=first,
        target=Target(sample.target),
        choices=sample.choices,
        metadata=dict(sample.metadata or {}),
    )
    for step in (task.setup, task.solver):
        state = state if step is None else await step(state, generate)
    return state


async def _asked(task: Any, sample: Any, said: Sequence[str]) -> Messages | None:
    """The conversation with which the solver asks the model for more than it has `said`; None: it does not.

    Raises `ValueError` for what the model would be asked otherwise.
    """
    try:
        await _played(task, sample, said)
    except _Asked as asked:
        state = asked.state
    else:
        return None
    if state.tools:
        raise ValueError("its solver gives the model tools; environments do that here (docs/agents.md)")
    for message in state.messages:
        parts = message.content if isinstance(message.content, list) else []
        if message.role == "tool" or getattr(message, "tool_calls", None) or any(part.type != "text" for part in parts):
            raise ValueError("what its solver asks is more than text")
    return [{"role": message.role, "content": message.text} for message in state.messages]


async def _seen(task: Any, sample: Any) -> tuple[Messages, bool]:
    """What the solver asks the model first, and whether it asks for more after an answer."""
    if (asked := await _asked(task, sample, ())) is None:
        raise ValueError("its solver asks the model nothing")
    more = await _asked(task, sample, ("A",))
    if more is not None:
        _more(asked, "A", more)
    return asked, more is not None


def _more(before: Messages, answer: str, asked: Messages) -> str:
    """What the solver says to an `answer` to what it asked `before`. Raises `ValueError` where that is no reply."""
    known = [*before, {"role": "assistant", "content": answer}]
    told = asked[len(known) :]
    if asked[: len(known)] != known or not told or any(message["role"] != "user" for message in told):
        raise ValueError("its solver asks the model more than once, and not by going on with the conversation")
    return "\n\n".join(message["content"] for message in told)
