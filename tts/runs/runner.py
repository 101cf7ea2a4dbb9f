"""Runs the grid: as many problems at once as the servers take, no step waiting for the slowest of a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path

from tts.base import Strategy
from tts.errors import ConfigError, cause_of
from tts.policies import check_models, dispensable
from tts.resources import Resources
from tts.runs.config import Grid
from tts.runs.damage import check
from tts.runs.database import Lock
from tts.runs.progress import Models, Progress
from tts.runs.record import write_record
from tts.runs.run import Run
from tts.runs.store import Cell, Store
from tts.sampler import Sampler
from tts.session import Session
from tts.solving import drive, open_models, open_session
from tts.tasks import Example
from tts.types import Candidate

BEAT = 1.0
"""Seconds between two looks of the progress at what goes wrong."""


class Experiment(Grid):
    """A grid of strategies x models x seeds over the problems of a task, which `run` runs."""

    async def run(self, out: Path | str, *, resume: bool = False, progress: Progress | None = None) -> Run:
        """Run the grid into the directory `out` and return it for reading.

        With `resume=True` a run that was interrupted, in whatever way, continues: finished cells are kept, stored
        answers are used again, and only what is missing is sampled. Raises `EndpointLost` when an endpoint answers
        nothing for its `outage_timeout`; what was answered by then is stored.
        """
        folder, progress = Path(out), progress or Progress()
        examples = list(islice(self.task.examples(), self.limit))
        if not examples:
            raise ConfigError(f"the task {self.task.spec} has no problems")
        async with AsyncExitStack() as stack:
            models = {name: await stack.enter_async_context(open_models(self.endpoints(name))) for name in self.models}
            _check_needs(self, examples, models)
            stack.callback(progress.end)
            stack.callback(Lock(folder).release)
            resources = await stack.enter_async_context(Resources())
            store = await stack.enter_async_context(Store(folder / "run.sqlite"))
            if used := await store.used():
                await store.run(lambda db: check(db, folder / "run.sqlite"))
            write_record(folder, self, examples, resume=resume, used=used)
            rows = list(_rows(self, examples, await store.finished()))
            if rows:
                for roles in models.values():
                    await check_models(roles)
            progress.begin(self, len(examples), cells_left=sum(len(row.strategies) for row in rows), models=models)
            await _Runner(self, models, store, resources, progress, folder).run(rows)
        return Run(folder)


@dataclass(frozen=True)
class _Row:
    """What is done in one go: every strategy on one problem with one model and seed.

    Strategies take turns, so that each can use the answers that an earlier one has paid for.
    """

    example: Example
    model: str
    seed: int
    strategies: tuple[Strategy, ...]

    def cell(self, strategy: Strategy) -> Cell:
        return Cell(self.example.problem.id, strategy.spec, self.model, self.seed)


def _rows(grid: Grid, examples: list[Example], done: set[Cell]) -> Iterator[_Row]:
    for seed, model, example in product(grid.seeds, grid.models, examples):
        row = _Row(example, model, seed, grid.strategies)
        if left := tuple(strategy for strategy in grid.strategies if row.cell(strategy) not in done):
            yield replace(row, strategies=left)


def _check_needs(grid: Grid, examples: list[Example], models: Models) -> None:
    """Check, before anything is spent, that every strategy can work on every problem with every model."""
    for roles, strategy, example in product(models.values(), grid.strategies, examples):
        session = open_session(example.problem, strategy, roles, verifier=grid.verifier, budget=grid.budget)
        named = strategy.verifier or grid.verifier
        if session.verifier is not None and session.verifier.relative and named is None:
            raise ConfigError(
                f"{session.verifier.spec} rates candidates relative to each other, which curves must replay; "
                f"name it for the run, not in the problem {example.problem.id}"
            )


@dataclass(frozen=True)
class _Runner:
    grid: Grid
    models: Models
    store: Store
    resources: Resources
    progress: Progress
    folder: Path

    async def run(self, rows: Sequence[_Row]) -> None:
        """Run all rows, as many at once as requests may be in flight; the first error cancels the rest.

        An endpoint that is given up is such an error: whatever it would be asked next would be lost.
        """
        samplers = {sampler for roles in self.models.values() for sampler in roles.values()}
        running: set[asyncio.Task[None]] = set()

        async def end_with(role: str, roles: Mapping[str, Sampler]) -> None:
            while error := await roles[role].connection.health.outage():
                if not dispensable(role, roles):
                    raise error

        async def beat() -> None:
            while True:
                await asyncio.sleep(BEAT)
                self.progress.beat()

        try:
            async with asyncio.TaskGroup() as group:
                ends = (end_with(role, roles) for roles in self.models.values() for role in roles)
                beside = [group.create_task(work) for work in (beat(), *ends)]
                for row in rows:
                    while len(running) >= max(4, sum(sampler.connection.pool.capacity for sampler in samplers)):
                        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    task = group.create_task(self._run(row))
                    running.add(task)
                    task.add_done_callback(running.discard)
                while running:
                    await asyncio.wait(running)
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise cause_of(errors) from None

    async def _run(self, row: _Row) -> None:
        problem, truth = row.example
        samplers = self.models[row.model]
        grading = Session(problem, samplers, verifier=truth, resources=self.resources, folder=self.folder)
        grades: dict[str, asyncio.Task[bool | None]] = {}  # the same text is graded once

        async def grade(candidate: Candidate) -> bool | None:
            return (await grading.verify(candidate)).passed

        for strategy in row.strategies:
            session = open_session(
                problem,
                strategy,
                samplers,
                verifier=self.grid.verifier,
                truth=truth,
                budget=self.grid.budget,
                seed=row.seed,
                store=self.store,
                resources=self.resources,
                folder=self.folder,
            )
            async with asyncio.TaskGroup() as group:

                def arrived(candidate: Candidate) -> None:
                    if candidate.content not in grades:
                        grades[candidate.content] = group.create_task(grade(candidate))

                stop_early = self.grid.stop_early
                result = await drive(strategy, session, stop_early=stop_early, on_candidate=arrived, keep_crashes=True)
            correct = {candidate.id: grades[candidate.content].result() for candidate in result.candidates}
            if ungraded := grading.ledger.failures:
                result = replace(result, failures=(*result.failures, *(f"grading: {reason}" for reason in ungraded)))
            await self.store.finish(row.cell(strategy), result, correct)
            self.progress.cell(row.cell(strategy), result, correct)
