"""A run from begin to end: what is asked for, stored, refused, kept."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.scripted import choice
from tests.support.solving import settle
from tts import (
    Budget,
    Candidate,
    Endpoint,
    Experiment,
    MockModel,
    Problem,
    Result,
    Run,
    Sampler,
    Session,
    Strategy,
    Verdict,
    Verifier,
    registry,
)
from tts.errors import ConfigError, EndpointRefused, RunLocked, RunMismatch
from tts.runs.analysis import summary
from tts.runs.database import Lock
from tts.runs.progress import LineProgress, LiveProgress, Progress
from tts.runs.store import Cell, Store
from tts.sampler.transport import Reply, Request
from tts.tables import summary_table


def experiment(task: str, endpoint: Endpoint, *strategies: str, **settings: object) -> Experiment:
    return Experiment.parse({"task": task, "models": endpoint, "strategies": strategies, **settings})


async def test_accounts_of_a_run_equal_what_the_server_counted(
    task: str, endpoint: Endpoint, double: ModelDouble, tmp_path: Path
) -> None:
    grid = experiment(task, endpoint, "single", "self_consistency:n=12", "first_pass:k=5,verifier=oracle")
    run = await grid.run(tmp_path / "run")
    spent = [usage for track in run.tracks for row in track.rows for usage in row.spent.values()]
    assert sum(usage.requests for usage in spent) == double.stats.received == double.stats.served
    assert sum(usage.prompt_tokens for usage in spent) == double.stats.prompt_tokens
    assert sum(usage.completion_tokens for usage in spent) == double.stats.completion_tokens
    assert not any(row.wasted or row.failures for track in run.tracks for row in track.rows)


async def test_strategies_share_the_samples_of_a_prompt_and_are_charged_for_them_alike(
    task: str, endpoint: Endpoint, double: ModelDouble, tmp_path: Path
) -> None:
    run = await experiment(task, endpoint, "self_consistency:n=8", "best_of_n:n=8,verifier=oracle").run(tmp_path / "r")
    vote, best = run.tracks
    assert double.stats.choices == 20 * 8
    assert vote.usage().completion_tokens == best.usage().completion_tokens == double.stats.completion_tokens
    assert all(row.spent.keys() <= {"verifier"} and row.reused["policy"].requests == 1 for row in best.rows)
    assert best.label.endswith("(oracle)")
    assert "oracle" not in vote.label


async def test_a_verifier_that_reads_log_probabilities_makes_no_second_pool_of_samples(
    task: str, endpoint: Endpoint, double: ModelDouble, tmp_path: Path
) -> None:
    best = [f"best_of_n:n=4,verifier={name}" for name in ("self_certainty", "mean_logprob")]
    run = await experiment(task, endpoint, "self_consistency:n=4", *best, limit=5).run(tmp_path / "r")
    assert double.stats.choices == 5 * 4
    assert [row["unrated_candidates"] for row in summary(run)] == [0, 0, 0]


async def test_a_larger_n_pays_only_for_what_is_new(
    task: str, endpoint: Endpoint, double: ModelDouble, tmp_path: Path
) -> None:
    await experiment(task, endpoint, "self_consistency:n=4").run(tmp_path / "run")
    assert double.stats.choices == 20 * 4
    run = await experiment(task, endpoint, "self_consistency:n=10").run(tmp_path / "run", resume=True)
    assert double.stats.choices == 20 * 10
    assert [len(flags) for track in run.tracks for flags in track.correct] == [4] * 20 + [10] * 20


async def test_progress_on_a_resume_counts_on_from_what_is_stored(
    task: str, endpoint: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await experiment(task, endpoint, "single", limit=5).run(tmp_path / "r")
    await experiment(task, endpoint, "single", limit=8).run(tmp_path / "r", resume=True, progress=LiveProgress())
    assert "8/8" in capsys.readouterr().err


@pytest.mark.parametrize("shown", [LineProgress, LiveProgress])
async def test_progress_shows_what_strangers_write_and_acts_on_nothing(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], shown: type[LineProgress | LiveProgress]
) -> None:
    """Names and messages may be markup of the terminal's, or of the library that draws there."""
    hostile, progress = "[/red] [bold]\x1b]0;x\x07 \x9b31m \u202e", shown()
    progress.nodes = lambda: [hostile]
    models = {hostile: MockModel(lambda request: "Answer: 42")}
    grid = Experiment.parse({"task": task, "strategies": ["single"], "models": models, "limit": 2})
    await grid.run(tmp_path / "r", progress=progress)
    told = capsys.readouterr().err
    assert "[/red]" in told
    assert not re.search("\x1b\\]|[\x07\x9b\u202e]", told)


async def test_a_finished_run_resumes_without_a_request(
    task: str, endpoint: Endpoint, double: ModelDouble, tmp_path: Path
) -> None:
    grid = experiment(task, endpoint, "self_consistency:n=4", seeds=[0, 1])
    first = summary(await grid.run(tmp_path / "run"))
    received = double.stats.received
    assert summary(await grid.run(tmp_path / "run", resume=True)) == first
    assert double.stats.received == received
    assert double.stats.choices == 20 * 4 * 2, "seeds are independent repetitions"


class Unable(Verifier):
    """Rates what is right, and fails at everything else."""

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        right = "42" in candidate.content
        return Verdict(1.0, True) if right else Verdict(None, details={"kind": "infra"})


async def test_candidates_that_could_not_be_graded_or_rated_are_counted_and_shown(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    registry.register("verifiers", Unable)
    file = tmp_path / "open.jsonl"
    file.write_text(
        "".join(json.dumps({"id": f"p{i}", "prompt": f"[[p{i}]] six times seven?"}) + "\n" for i in range(20))
    )
    task = f'jsonl:path="{file}",grader=unable'
    run = await experiment(task, endpoint, "best_of_n:n=4,verifier=unable").run(tmp_path / "run")
    [row], [track] = summary(run), run.tracks
    wrong = sum(int(np.isnan(flags).sum()) for flags in track.correct)
    assert 0 < wrong < 80
    assert (row["ungraded_candidates"], row["unrated_candidates"]) == (wrong, wrong)
    notes = " ".join(summary_table({"": [row]}).notes)
    assert f"candidates not graded because what grades them failed (see their details): {wrong}" in notes
    assert f"candidates not rated: their verifier failed or had no tests (see their details): {wrong}" in notes


async def test_existing_results_are_neither_overwritten_nor_mixed(
    task: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    await experiment(task, endpoint, "single", limit=2, sampling={"temperature": 0.5}).run(tmp_path / "run")
    with pytest.raises(ConfigError, match="--resume"):
        await experiment(task, endpoint, "single", limit=2).run(tmp_path / "run")
    other = experiment(task, endpoint, "single", limit=2, sampling={"temperature": 0.9})
    with pytest.raises(RunMismatch, match=r"temperature was 0\.5, is 0\.9"):
        await other.run(tmp_path / "run", resume=True)


async def test_a_second_writer_is_refused_with_the_first_ones_pid(
    task: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    lock = Lock(tmp_path / "run")
    with pytest.raises(RunLocked, match=str(os.getpid())):
        await experiment(task, endpoint, "single", limit=1).run(tmp_path / "run")
    lock.release()
    await experiment(task, endpoint, "single", limit=1).run(tmp_path / "run")


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind not in (FaultKind.UNAUTHORIZED, FaultKind.HANG)])
async def test_a_tenth_of_each_fault_loses_no_problem(task: str, kind: FaultKind, tmp_path: Path) -> None:
    async with ModelDouble(faults={Fault(kind): 0.1}, latency=0.001) as double:
        endpoint = Endpoint(model="test-model", base_url=double.base_url, retry_wait=0.01, max_n=4)
        run = await experiment(task, endpoint, "self_consistency:n=12").run(tmp_path / "run")
        (track,) = run.tracks
        lost = sum(12 - len(flags) for flags in track.correct)
        assert lost == sum(len(row.failures) for row in track.rows)
        # a rejection stands, and three of them lose a problem; of everything else nothing is lost
        stands = kind in (FaultKind.BAD_REQUEST, FaultKind.CONTEXT_LENGTH)
        rejected = double.stats.faults[kind] if stands else 0
        assert lost <= 4 * rejected
        assert sum(not len(flags) for flags in track.correct) <= rejected // 3
        requests = sum(u.requests for row in track.rows for u in [*row.spent.values(), *row.wasted.values()])
        assert requests == double.stats.received


async def test_hanging_requests_lose_no_problem(task: str, tmp_path: Path) -> None:
    async with ModelDouble(faults={Fault(FaultKind.HANG): 0.1}) as double:
        endpoint = Endpoint(model="test-model", base_url=double.base_url, retry_wait=0.01, attempt_timeout=0.5)
        run = await experiment(task, endpoint, "self_consistency:n=12").run(tmp_path / "run")
        assert [len(flags) for flags in run.tracks[0].correct] == [12] * 20


async def test_lost_samples_are_shown_and_asked_for_again_on_resume(task: str, tmp_path: Path) -> None:
    grid: list[Experiment] = []
    async with ModelDouble(faults=[Fault(FaultKind.BAD_REQUEST)] * 2) as double:
        endpoint = Endpoint(model="test-model", base_url=double.base_url, max_n=1, max_concurrency=1)
        grid.append(experiment(task, endpoint, "self_consistency:n=5", limit=3))
        run = await grid[0].run(tmp_path / "run")
        assert summary(run)[0]["lost_samples"] == 2
        assert sum(len(flags) for flags in run.tracks[0].correct) == 13
        received = double.stats.received
        run = await grid[0].run(tmp_path / "run", resume=True)
        assert double.stats.received == received + 2
        assert summary(run)[0]["lost_samples"] == 0
        assert [len(flags) for flags in run.tracks[0].correct] == [5] * 3


class Turned(Progress):
    """Lets the first problem go on once the second is finished."""

    def __init__(self) -> None:
        self.second = asyncio.Event()

    def cell(self, cell: Cell, result: Result, correct: dict[int, bool | None]) -> None:
        if cell.problem == "p1":
            self.second.set()


async def test_results_are_listed_in_the_order_of_the_task_whichever_is_finished_first(
    task: str, tmp_path: Path
) -> None:
    turned = Turned()

    async def answer(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": "m"}]})
        asked = request.json()["messages"][0]["content"]
        if "[[p0]]" in asked:
            await turned.second.wait()
        return Reply.json({"model": "m", "choices": [choice(asked)], "usage": {"completion_tokens": 5}})

    grid = experiment(task, Endpoint(model="m", base_url="mock://m", transport=answer), "single", limit=2)
    run = await grid.run(tmp_path / "run", progress=turned)
    assert [row.problem for row in run.tracks[0].rows] == ["p0", "p1"]
    assert [(row["problem"], row["content"][:6]) for row in run.export()] == [("p0", "[[p0]]"), ("p1", "[[p1]]")]
    assert [cell for (cell,) in run.db.execute("SELECT problem FROM cells ORDER BY id")] == ["p1", "p0"]


class Fragile(Strategy):
    """Yields one candidate, and crashes on every third problem."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        async for candidate in session.propose(n=1):
            yield candidate
        if int(problem.id[1:]) % 3 == 0:
            raise ZeroDivisionError("a bug in the strategy")


async def test_a_crashing_strategy_loses_its_cell_but_neither_the_run_nor_what_it_found(
    task: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    registry.register("strategies", Fragile)
    run = await experiment(task, endpoint, "fragile", limit=6).run(tmp_path / "run")
    rows = run.tracks[0].rows
    assert [row.ended for row in sorted(rows, key=lambda row: row.problem)] == ["failed", "complete", "complete"] * 2
    assert all(len(flags) == 1 for flags in run.tracks[0].correct)
    assert "ZeroDivisionError: a bug in the strategy" in rows[[row.ended for row in rows].index("failed")].failures[0]


class Endless(Strategy):
    """Finds on p0, once all the others are at work, that it cannot go on; works for ever on every other problem."""

    working: ClassVar[set[str]] = set()
    cancelled: ClassVar[set[str]] = set()

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        if problem.id == "p0":
            while len(self.working) < 5:
                await asyncio.sleep(0.001)
            raise ConfigError("nothing can work")
        self.working.add(problem.id)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.add(problem.id)
            raise
        async for candidate in session.propose(n=1):
            yield candidate


async def test_the_first_error_that_ends_a_run_cancels_all_other_problems(
    task: str, endpoint: Endpoint, tmp_path: Path
) -> None:
    registry.register("strategies", Endless)
    with pytest.raises(ConfigError, match="nothing can work"):
        async with asyncio.timeout(120):
            await experiment(task, endpoint, "endless", limit=6).run(tmp_path / "run")
    assert Endless.cancelled == Endless.working == {f"p{number}" for number in range(1, 6)}


async def test_what_cannot_work_is_refused_before_anything_is_spent(
    task: str, endpoint: Endpoint, double: ModelDouble, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="best_of_n:n=16 needs a verifier"):
        await experiment(task, endpoint, "best_of_n").run(tmp_path / "a")
    with pytest.raises(ConfigError, match="did you mean 'best_of_n'"):
        experiment(task, endpoint, "best_of_m")
    with pytest.raises(ConfigError, match=r"strategy.*n.*greater than 0.*Parameters: verifier, policies, n"):
        experiment(task, endpoint, "best_of_n:n=0")
    dead = Endpoint(model="test-model", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(EndpointRefused, match="Is the server running"):
        await experiment(task, dead, "single").run(tmp_path / "b")
    assert double.stats.received == 0


async def test_a_rejected_key_ends_the_run_at_once(task: str, tmp_path: Path) -> None:
    async with ModelDouble(api_key="right") as double:
        endpoint = Endpoint(model="test-model", base_url=double.base_url, api_key="wrong")  # type: ignore[arg-type]
        with pytest.raises(EndpointRefused, match="API key"):
            await experiment(task, endpoint, "single").run(tmp_path / "run")
        assert "wrong" not in (tmp_path / "run" / "run.json").read_text()


async def test_budgets_bind_for_every_problem(task: str, endpoint: Endpoint, tmp_path: Path) -> None:
    settings = {"budget": Budget(completion_tokens=300), "sampling": {"max_tokens": 100}}
    run = await experiment(task, endpoint, "self_consistency:n=40", **settings).run(tmp_path / "run")
    for row, costs in zip(run.tracks[0].rows, run.tracks[0].cost("completion_tokens"), strict=True):
        assert row.ended == "budget"
        assert 0 < costs[-1] <= 300


async def test_cancelling_a_run_keeps_every_answer_and_leaves_no_task(
    task: str, double: ModelDouble, endpoint: Endpoint, tmp_path: Path
) -> None:
    double.latency = 0.05
    before = asyncio.all_tasks()
    running = asyncio.create_task(experiment(task, endpoint, "self_consistency:n=8").run(tmp_path / "run"))
    while double.stats.served < 3:
        await asyncio.sleep(0.005)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await settle(before, double)
    run = Run(tmp_path / "run")
    (stored,) = run.db.execute("SELECT COUNT(*) FROM samples").fetchone()
    choices = double.stats.choices
    await experiment(task, endpoint, "self_consistency:n=8").run(tmp_path / "run", resume=True)
    assert double.stats.choices == choices + 20 * 8 - stored


async def test_answers_that_nobody_waits_for_any_more_are_stored(endpoint: Endpoint, tmp_path: Path) -> None:
    async with Sampler(endpoint) as sampler, Store(tmp_path / "run.sqlite") as store:
        problem = Problem.from_prompt("[[p9]] six times seven?")
        async with aclosing(Session(problem, {"policy": sampler}, store=store).sample(n=8)) as samples:
            await anext(samples)
        again = Session(problem, {"policy": sampler}, store=store)
        assert len([sample async for sample in again.sample(n=8)]) == 8
        assert (len(again.ledger.reused), len(again.ledger.paid)) == (9, 0)


async def test_the_resolved_configuration_lies_beside_the_data(task: str, endpoint: Endpoint, tmp_path: Path) -> None:
    run = await experiment(task, endpoint, "self_consistency:n=3", limit=1).run(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["strategies"] == [registry.make("strategies", "self_consistency:n=3").config()]
    assert Experiment.parse(record["config"]).essence() == record["essence"]
    rows = list(run.export())
    assert len(rows) == 3
    assert sum(row["requests"] for row in rows) == 1
    assert [row["chosen"] for row in rows].count(1) == 1
