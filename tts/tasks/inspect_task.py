"""Tasks of Inspect (https://inspect.aisi.org.uk): their data sets, the prompts that their solvers make, their scorers.

The solver runs twice. Once to see what it asks the model, which becomes the problem; strategies answer it as any other.
And once for each answer, which it is given as the model's, so that the scorer finds the state that it expects. So those
tasks are taken whose solver asks the model once, without tools: prompt templates, system messages, multiple choice.
Parameters of `generate` are the run's business, and so are epochs.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

from pydantic import Field, NonNegativeInt, model_validator

from tts.base import Verifier
from tts.errors import ConfigError, MissingExtra
from tts.registry import trusted
from tts.session import Session
from tts.tasks import Example, Task
from tts.types import Candidate, Problem, Scale, Verdict


class InspectTask(Task):
    """A task of Inspect whose solver asks the model once: `inspect_task:task=FILE.py@NAME` (extra `inspect`)."""

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
                    asked = thread.submit(asyncio.run, _asked(task, sample)).result()
                except ValueError as error:
                    raise ConfigError(f"{self.task}, sample {id}: {error}") from error
                truth = InspectScorer(sample=sample.model_dump(mode="json", exclude_none=True), **dict(self))
                yield Example(Problem(id=id, messages=asked), truth)


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
        score = await asyncio.to_thread(asyncio.run, self._scored(candidate.content))  # some take their time
        if score is None or isinstance(score.value, dict | list):
            raise ValueError(f"the scorer of {self.task} gave no single number: {score and score.value}")
        from inspect_ai.scorer import value_to_float

        value = value_to_float()(score.value)
        details = {"value": score.value, "answer": score.answer}
        return Verdict(value, value >= self.accept, score.explanation or "", details)

    async def _scored(self, answer: str) -> Any:
        from inspect_ai.dataset import Sample
        from inspect_ai.scorer import Target

        task, sample = loaded(self.task, json.dumps(self.args, sort_keys=True)), Sample.model_validate(self.sample)
        state = await _played(task, sample, answer)
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


class _Asked(Exception):
    """The solver asks the model."""

    def __init__(self, state: Any) -> None:
        self.state = state


async def _played(task: Any, sample: Any, answer: str | None = None) -> Any:
    """The state after the solver, to which the model says `answer`. Raises `_Asked` where nobody says anything."""
    from inspect_ai.model import ChatMessageUser, ModelName, ModelOutput
    from inspect_ai.scorer import Target
    from inspect_ai.solver import TaskState

    left = [] if answer is None else [ModelOutput.from_content("tts/model", answer)]

    async def generate(state: Any, *_: Any, **__: Any) -> Any:
        if answer is None:
            raise _Asked(state)
        if not left:
            raise ValueError("its solver asks the model more than once")
        state.output = left.pop()
        state.messages.append(state.output.message)
        return state

    said: list[Any] = [ChatMessageUser(content=sample.input)] if isinstance(sample.input, str) else [*sample.input]
    state = TaskState(
        model=ModelName("tts/model"),
        sample_id=sample.id or 0,
        epoch=1,
        input=sample.input,
        messages=said,
        target=Target(sample.target),
        choices=sample.choices,
        metadata=dict(sample.metadata or {}),
    )
    for step in (task.setup, task.solver):
        state = state if step is None else await step(state, generate)
    return state


async def _asked(task: Any, sample: Any) -> list[dict[str, Any]]:
    """What the solver asks the model. Raises `ValueError` for what the model would be asked otherwise."""
    try:
        await _played(task, sample)
    except _Asked as asked:
        state = asked.state
    else:
        raise ValueError("its solver asks the model nothing")
    if state.tools:
        raise ValueError("its solver gives the model tools; environments do that here (docs/agents.md)")
    for message in state.messages:
        parts = message.content if isinstance(message.content, list) else []
        if message.role == "tool" or getattr(message, "tool_calls", None) or any(part.type != "text" for part in parts):
            raise ValueError("what its solver asks is more than text")
    await _played(task, sample, "A")  # it asks once
    return [{"role": message.role, "content": message.text} for message in state.messages]
