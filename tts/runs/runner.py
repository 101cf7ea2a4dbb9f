"""Runs the grid: as many problems at once as the servers take, no step waiting for the slowest of a batch."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, product
from math import inf
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from tts.allocation import SharedBudget, Turns
from tts.base import AnswerVerifier, Strategy, Verifier
from tts.concurrency import blocking
from tts.errors import ConfigError
from tts.policies import check_models, drawn_from, shared_sampling
from tts.resources import Resources
from tts.runs.config import Grid
from tts.runs.database import Lock
from tts.runs.executors import Executor, executor_named
from tts.runs.progress import Models, Progress, progress_shown
from tts.runs.record import write_record
from tts.runs.run import Run
from tts.runs.store import AnswerStore, Cell, Store
from tts.sampler import Endpoint, Sampler
from tts.session import Session
from tts.solving import drive, open_models, open_session
from tts.tasks import Example
from tts.trajectories import Agent
from tts.types import Candidate, Verdict

OUTSIDE_AGENT = "tts.gateway.agents:OutsideAgent"
FOLLOWING = "tts.report.trackers:following"
"""Where they are: annexes, which only those need who name an agent or a tracker."""


class Experiment(Grid):
    """A grid of strategies x models x seeds over the problems of a task, which `run` runs."""

    if TYPE_CHECKING:
        __init__ = Grid.__init__  # else type checkers make one of the fields' types

    async def run(
        self,
        out: Path | str,
        *,
        resume: bool = False,
        progress: Progress | bool | None = None,
        executor: Executor | str = "local",
        track: str | Sequence[str] = (),
    ) -> Run:
        """Run the grid into the directory `out` and return it for reading.

        With `resume=True` a run that was interrupted, in whatever way, continues: finished cells are kept, stored
        answers are used again, and only what is missing is sampled. Raises `EndpointLost` when an endpoint answers
        nothing for its `outage_timeout`; what was answered by then is stored.

        `progress=True` shows how it goes, in a notebook below the cell. `executor` says where: `local` in this process,
        `ray:workers=4` and the like on a cluster (`tts.cluster`). `track` names trackers that follow the run: `wandb`.
        """
        folder = Path(out)
        progress = progress if isinstance(progress, Progress) else progress_shown(quiet=not progress)
        examples = list(islice(self.task.examples(), self.limit))
        if not examples:
            raise ConfigError(f"the task {self.task.spec} has no problems")
        executor = executor_named(executor) if isinstance(executor, str) else executor
        async with executor, AsyncExitStack() as stack:
            models = {
                name: await stack.enter_async_context(open_models(_batched_in(folder, self.endpoints(name))))
                for name in self.models
            }
            _check_needs(self, examples, models)
            stack.callback(progress.end)
            stack.callback(Lock(folder).release)
            resources = await stack.enter_async_context(Resources())
            store = await stack.enter_async_context(Store(folder / "run.sqlite"))
            await store.check()
            used = await store.used()
            write_record(folder, self, examples, resume=resume, used=used)
            if track:
                await stack.enter_async_context(resolve_name(FOLLOWING)(folder, track))
            done = await store.finished()
            parts = list(_shared(self, examples, done)) if self.total_budget else [list(_rows(self, examples, done))]
            rows = list(chain.from_iterable(parts))
            runner = RowRunner(self, models, store, resources, progress, folder)
            if rows:
                for roles in models.values():
                    await check_models(roles)
            left = Counter((strategy.spec, row.model) for row in rows for strategy in row.strategies)
            progress.begin(self, len(examples), left=left, models=models)
            for part in parts:  # under a total budget one strategy, model and seed after the other
                turns = None
                if self.total_budget:
                    roles, (strategy,) = self.endpoints(part[0].model), part[0].strategies
                    params = [roles[role].params for role in drawn_from(strategy, roles)]
                    ids = [row.example.problem.id for row in part]
                    turns = SharedBudget(self.total_budget, ids, strategy, params, part[0].seed)
                await executor.run(replace(runner, turns=turns), part)
        return Run(folder)

    def run_sync(
        self,
        out: Path | str,
        *,
        resume: bool = False,
        progress: Progress | bool | None = None,
        executor: Executor | str = "local",
        track: str | Sequence[str] = (),
    ) -> Run:
        """`run` without await, for scripts and notebooks."""
        blocking(self.run)(out, resume=resume, progress=progress, executor=executor, track=track)
        return Run(out, checked=False)  # in this thread


def _batched_in(folder: Path, endpoints: dict[str, Endpoint]) -> dict[str, Endpoint]:
    """`endpoints`, whose batches, if they make any, are remembered in `folder`."""
    return {
        role: one.model_copy(update={"batch_folder": folder}) if one.batch and one.batch_folder is None else one
        for role, one in endpoints.items()
    }


@dataclass(frozen=True)
class GridRow:
    """What is done in one go: every strategy on one problem with one model and seed.

    Strategies take turns, so that each can use the answers that an earlier one has paid for.
    """

    example: Example
    model: str
    seed: int
    strategies: tuple[Strategy, ...]

    def cell(self, strategy: Strategy) -> Cell:
        return Cell(self.example.problem.id, strategy.spec, self.model, self.seed)


def _rows(grid: Grid, examples: list[Example], done: set[Cell]) -> Iterator[GridRow]:
    for seed, model, example in product(grid.seeds, grid.models, examples):
        row = GridRow(example, model, seed, grid.strategies)
        if left := tuple(strategy for strategy in grid.strategies if row.cell(strategy) not in done):
            yield replace(row, strategies=left)


def _shared(grid: Grid, examples: list[Example], done: set[Cell]) -> Iterator[list[GridRow]]:
    """The rows that share a total budget, which are done all or none: what a problem gets depends on the others.

    Those that are done already are done again, from the store.
    """
    for seed, model, strategy in product(grid.seeds, grid.models, grid.strategies):
        rows = [GridRow(example, model, seed, (strategy,)) for example in examples]
        if any(row.cell(strategy) not in done for row in rows):
            yield rows


def _check_needs(grid: Grid, examples: list[Example], models: Models) -> None:
    """Check, before anything is spent, that every strategy can work on every problem with every model."""
    for roles, strategy, example in product(models.values(), grid.strategies, examples):
        world = {"environment": grid.environment, "agent": outside_agent(grid)}
        session = open_session(example.problem, strategy, roles, verifier=grid.verifier, budget=grid.budget, **world)
        named = strategy.verifier or grid.verifier
        if session.verifier is not None and session.verifier.relative and named is None:
            raise ConfigError(
                f"{session.verifier.spec} rates candidates relative to each other, which curves must replay; "
                f"name it for the run, not in the problem {example.problem.id}"
            )


def outside_agent(grid: Grid) -> Agent | None:
    """What acts in the environment, if it is a program. Raises `MissingExtra`."""
    return None if grid.agent is None else resolve_name(OUTSIDE_AGENT)(grid.agent)


@dataclass(frozen=True)
class RowRunner:
    """Runs single rows: what an executor needs, in this process or in another."""

    grid: Grid
    models: Models
    store: AnswerStore
    resources: Resources
    progress: Progress
    folder: Path
    turns: Turns | None = None

    @property
    def samplers(self) -> list[Sampler]:
        """Each once."""
        return list(dict.fromkeys(sampler for roles in self.models.values() for sampler in roles.values()))

    @property
    def at_once(self) -> float:
        """How many rows go on side by side: as many as requests may be in flight, or all that wait for each other."""
        if self.turns is not None:
            return inf
        return max(4, sum(sampler.connection.pool.capacity for sampler in self.samplers))

    async def run(self, row: GridRow) -> None:
        """Run the strategies of a row one after the other, and store each with its grades."""
        problem, truth, _ = row.example
        samplers = self.models[row.model]
        place = {"resources": self.resources, "folder": self.folder, "environment": self.grid.environment}
        grading = Session(problem, samplers, verifier=truth, **place)
        grades: dict[str, asyncio.Task[Verdict]] = {}  # the same text is graded once

        async def grade(candidate: Candidate) -> Verdict:
            return await grading.verify(candidate)

        shared = shared_sampling(self.grid.strategies, problem, self.grid.verifier)

        for strategy in row.strategies:
            session = open_session(
                problem,
                strategy,
                samplers,
                verifier=self.grid.verifier,
                environment=self.grid.environment,
                agent=outside_agent(self.grid),
                truth=truth,
                budget=self.grid.budget,
                seed=row.seed,
                store=self.store,
                resources=self.resources,
                folder=self.folder,
                shared=shared,
                turn=None if self.turns is None else partial(self.turns.wait, problem.id),
            )
            async with asyncio.TaskGroup() as group:

                def arrived(candidate: Candidate) -> None:
                    if candidate.content not in grades:
                        grades[candidate.content] = group.create_task(grade(candidate))

                stop_early = self.grid.stop_early
                result = await drive(strategy, session, stop_early=stop_early, on_candidate=arrived, keep_crashes=True)
                if self.turns is not None:
                    self.turns.leave(problem.id, session.spent)
            verdicts = {candidate.id: grades[candidate.content].result() for candidate in result.candidates}
            correct = {name: verdict.passed for name, verdict in verdicts.items()}
            told = (replace(one, graded=_told(verdicts[one.id], truth)) for one in result.candidates)
            result = replace(result, candidates=tuple(told))
            if ungraded := grading.ledger.failures:
                result = replace(result, failures=(*result.failures, *(f"grading: {reason}" for reason in ungraded)))
            await self.store.finish(row.cell(strategy), result, correct)
            self.progress.cell(row.cell(strategy), result, correct)


LONGEST_FEEDBACK = 1000
"""Characters of what grading says of a wrong candidate that are stored."""


def _told(verdict: Verdict, truth: Verifier) -> dict[str, Any]:
    """What is stored of a verdict of the truth, for people who look at wrong answers."""
    if verdict.passed:
        return {}
    expected = truth.reference if isinstance(truth, AnswerVerifier) else None
    said = {
        "feedback": verdict.feedback[:LONGEST_FEEDBACK],
        "answer": verdict.details.get("answer"),
        "expected": expected,
    }
    return {name: value for name, value in said.items() if value not in ("", None)}
