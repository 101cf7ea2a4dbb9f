"""Where the rows of an experiment are run: in this process, or on what an annex provides."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import ValidationError

from tts.errors import ConfigError, cause_of, complaints
from tts.policies import dispensable
from tts.registry import parse_spec
from tts.runs.progress import Models, Progress
from tts.sampler import Sampler
from tts.settings import Settings

if TYPE_CHECKING:
    from tts.runs.runner import GridRow, RowRunner

EXECUTORS = {"local": "tts.runs.executors:LocalExecutor", "ray": "tts.cluster:RayExecutor"}
"""Where rows can be run, by name."""

BEAT = 1.0
"""Seconds between two looks of the progress at what goes wrong."""


class Executor(Protocol):
    """What runs the rows of an experiment; it is entered before anything else is done, and left at the end."""

    async def __aenter__(self) -> Any: ...
    async def __aexit__(self, *_: object) -> None: ...
    async def run(self, runner: RowRunner, rows: Sequence[GridRow]) -> None:
        """Run all `rows`; the first error cancels the rest."""
        ...


def executor_named(spec: str) -> Executor:
    """The executor of a spec: a name in `EXECUTORS` and its fields."""
    name, parameters = parse_spec(spec)
    if name not in EXECUTORS:
        raise ConfigError(f"no executor '{name}'; there are: {', '.join(EXECUTORS)}")
    kind = resolve_name(EXECUTORS[name])
    try:
        return kind(**parameters)
    except ValidationError as error:
        known = ", ".join(kind.model_fields) or "none"
        raise ConfigError(f"executor '{name}': {complaints(error)}. Fields: {known}") from None


class LocalExecutor(Settings):
    """Runs rows in this process."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def run(self, runner: RowRunner, rows: Sequence[GridRow]) -> None:
        """Run all rows, as many at once as requests may be in flight; the first error cancels the rest.

        An endpoint that is given up is such an error: whatever it would be asked next would be lost.
        """
        running = set[asyncio.Task[None]]()
        try:
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(work) for work in (beat(runner.progress), *ends(runner.models))]
                for row in rows:
                    while len(running) >= runner.at_once:
                        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    task = group.create_task(runner.run(row))
                    running.add(task)
                    task.add_done_callback(running.discard)
                while running:
                    await asyncio.wait(running)
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise cause_of(errors) from None


def ends(models: Models) -> Iterator[Coroutine[Any, Any, None]]:
    """For each role of each model: wait until its endpoint is given up, and raise `EndpointLost`.

    A policy whose set has another that works is no such end.
    """

    async def end_with(role: str, roles: Mapping[str, Sampler]) -> None:
        while error := await roles[role].connection.health.outage():
            if not dispensable(role, roles):
                raise error

    yield from (end_with(role, roles) for roles in models.values() for role in roles)


async def beat(progress: Progress) -> None:
    """Have `progress` look at what goes wrong, for ever."""
    while True:
        await asyncio.sleep(BEAT)
        progress.beat()
