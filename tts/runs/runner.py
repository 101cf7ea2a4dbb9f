"""Runs the grid: as many problems at once as the servers take, no step waiting for the slowest of a batch."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from time import time

from tts.base import Strategy
from tts.errors import ConfigError, cause_of
from tts.resources import Resources
from tts.runs.config import Experiment, redacted, settle
from tts.runs.database import Lock
from tts.runs.progress import Progress
from tts.runs.run import Run
from tts.runs.store import Cell, Store
from tts.sampler import Sampler
from tts.session import Session
from tts.solving import drive, open_models, open_session
from tts.tasks import Example
from tts.types import Candidate


@dataclass(frozen=True)
class _Row:
    """What is done in one go: every strategy on one problem with one model and seed.

    Strategies take turns, so that one uses the answers that another has paid for.
    """

    example: Example
    model: str
    seed: int
    strategies: tuple[Strategy, ...]

    def cell(self, strategy: Strategy) -> Cell:
        return Cell(self.example.problem.id, strategy.spec, self.model, self.seed)


async def execute(experiment: Experiment, out: Path, *, resume: bool, progress: Progress | None) -> Run:
    """See `Experiment.run`."""
    progress = progress or Progress()
    examples = list(islice(experiment.task.examples(), experiment.limit))
    if not examples:
        raise ConfigError(f"the task {experiment.task.spec} has no problems")
    made_with = {
        "started": time(),
        "command": redacted(sys.argv),
        "versions": {"ttscale": version("ttscale"), "python": platform.python_version()},
    }
    async with AsyncExitStack() as stack:
        models = {
            name: await stack.enter_async_context(open_models(experiment.endpoints(name))) for name in experiment.models
        }
        samplers = {sampler for roles in models.values() for sampler in roles.values()}
        _check_needs(experiment, examples, models)
        stack.callback(progress.end)
        stack.callback(Lock(out).release)
        resources = await stack.enter_async_context(Resources())
        store = await stack.enter_async_context(Store(out / "run.sqlite"))
        settle(out, experiment, examples, made_with, resume=resume, used=await store.used())
        rows = list(_rows(experiment, examples, await store.finished()))
        if rows:
            for sampler in samplers:
                await sampler.check()
        progress.begin(experiment, len(examples), rows_left=sum(len(row.strategies) for row in rows), models=models)
        runner = _Runner(experiment, models, store, resources, progress, out)
        await _at_once(rows, runner.run, lambda: sum(sampler.connection.pool.capacity for sampler in samplers))
    return Run(out)


def _rows(experiment: Experiment, examples: list[Example], done: set[Cell]) -> Iterator[_Row]:
    for seed in experiment.seeds:
        for model in experiment.models:
            for example in examples:
                row = _Row(example, model, seed, experiment.strategies)
                left = tuple(strategy for strategy in experiment.strategies if row.cell(strategy) not in done)
                if left:
                    yield _Row(example, model, seed, left)


def _check_needs(experiment: Experiment, examples: list[Example], models: dict[str, dict[str, Sampler]]) -> None:
    """Find out before anything is spent whether every strategy can work on every problem with every model."""
    for roles in models.values():
        for strategy in experiment.strategies:
            for example in examples:
                session = open_session(
                    example.problem, strategy, roles, verifier=experiment.verifier, budget=experiment.budget
                )
                named = strategy.verifier or experiment.verifier
                if session.verifier is not None and session.verifier.relative and named is None:
                    raise ConfigError(
                        f"{session.verifier.spec} rates candidates in each other's company, which curves must replay; "
                        f"name it for the run, not in the problem {example.problem.id}"
                    )


async def _at_once(rows: list[_Row], run: Callable[[_Row], Awaitable[None]], capacity: Callable[[], float]) -> None:
    """`run` all rows, as many at once as requests may be in flight; the first error cancels the rest."""
    running: set[asyncio.Task[None]] = set()
    try:
        for row in rows:
            while len(running) >= max(4, capacity()):
                await _harvest(running)
            running.add(asyncio.ensure_future(run(row)))
        while running:
            await _harvest(running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _harvest(running: set[asyncio.Task[None]]) -> None:
    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    running -= done
    errors = [error for task in done if (error := task.exception())]
    if errors:
        raise cause_of(errors[0])


class _Runner:
    def __init__(
        self,
        experiment: Experiment,
        models: dict[str, dict[str, Sampler]],
        store: Store,
        resources: Resources,
        progress: Progress,
        folder: Path,
    ) -> None:
        self._folder = folder
        self._experiment = experiment
        self._models = models
        self._store = store
        self._resources = resources
        self._progress = progress

    async def run(self, row: _Row) -> None:
        problem, truth = row.example
        samplers = self._models[row.model]
        grading = Session(problem, samplers, verifier=truth, resources=self._resources, folder=self._folder)
        grades: dict[str, asyncio.Task[bool | None]] = {}  # the same text is graded once

        async def grade(candidate: Candidate) -> bool | None:
            return (await grading.verify(candidate)).passed

        for strategy in row.strategies:
            session = open_session(
                problem,
                strategy,
                samplers,
                verifier=self._experiment.verifier,
                truth=truth,
                budget=self._experiment.budget,
                seed=row.seed,
                store=self._store,
                resources=self._resources,
                folder=self._folder,
            )
            async with asyncio.TaskGroup() as group:

                def arrived(candidate: Candidate) -> None:
                    if candidate.content not in grades:
                        grades[candidate.content] = group.create_task(grade(candidate))

                result = await drive(
                    strategy,
                    session,
                    stop_early=self._experiment.stop_early,
                    on_candidate=arrived,
                    keep_crashes=True,
                )
            correct = {candidate.id: grades[candidate.content].result() for candidate in result.candidates}
            if ungraded := grading.ledger.failures:
                result = replace(result, failures=(*result.failures, *(f"grading: {reason}" for reason in ungraded)))
            await self._store.finish(row.cell(strategy), result, correct)
            self._progress.cell(row.cell(strategy), result, correct)
