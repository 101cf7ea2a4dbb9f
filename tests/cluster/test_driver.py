"""Rows on several workers give what one process gives, whatever happens to the workers."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.conftest import solving, table_in
from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.fleet import FleetExecutor
from tests.support.killing import stored
from tts import Experiment
from tts.cluster import driver, worker
from tts.errors import ConfigError, EndpointLost, StoreError
from tts.runs import Run
from tts.sampler import Sampler

pytestmark = pytest.mark.filterwarnings("error")  # such as what a worker has left open, or never awaited

SAMPLES = 20 * 16


def results(run: Run) -> list[Any]:
    """What a run has found, without when."""
    return [
        (
            track.strategy,
            {
                row.problem: (row.selected, row.ended, flags.tolist())
                for row, flags in zip(track.rows, track.correct, strict=True)
            },
            track.usage().completion_tokens,
        )
        for track in run.tracks
    ]


async def more(double: ModelDouble, requests: int, work: asyncio.Task[Any]) -> None:
    """Wait until so many more are served, to `work`, which goes on for so long."""
    served = double.stats.served + requests
    while double.stats.served < served:
        assert not work.done(), f"it has ended: {work.result()}"
        await asyncio.sleep(0.001)


@dataclass(frozen=True)
class Alone:
    """What one process has found, and where."""

    results: list[Any]
    folder: Path


async def alone_in(folder: Path, **settings: Any) -> Alone:
    """Run the experiment of these tests in this process."""
    async with solving() as double:
        run = await Experiment.parse(table_in(folder, double) | settings).run(folder / "run")
    return Alone(results(run), folder / "run")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The same experiment in one process."""
    return await alone_in(tmp_path_factory.mktemp("local"))


@pytest.mark.parametrize("workers", [1, 2, 4])
async def test_workers_find_what_one_process_finds(
    workers: int, table: dict[str, Any], double: ModelDouble, local: Alone, tmp_path: Path
) -> None:
    before = double.stats.choices
    run = await Experiment.parse(table).run(tmp_path / "run", executor=FleetExecutor(workers))
    assert results(run) == local.results
    assert stored(tmp_path / "run") == stored(local.folder)
    assert double.stats.choices - before == SAMPLES


@pytest.mark.parametrize("workers", [1, 2, 4])
async def test_executors_take_turns_at_one_run(
    workers: int, table: dict[str, Any], double: ModelDouble, local: Alone, tmp_path: Path
) -> None:
    before = double.stats.choices
    for limit, executor in [(5, "local"), (12, FleetExecutor(workers)), (20, "local")]:
        run = await Experiment.parse({**table, "limit": limit}).run(tmp_path / "run", resume=True, executor=executor)
    assert results(run) == local.results
    assert stored(tmp_path / "run") == stored(local.folder)
    assert double.stats.choices - before == SAMPLES


@pytest.mark.parametrize("seed", range(6))
async def test_rows_of_a_worker_that_dies_are_run_elsewhere(
    seed: int,
    table: dict[str, Any],
    double: ModelDouble,
    local: Alone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "CLOSING", 0.05)
    rng, executor, before = random.Random(seed), FleetExecutor(2), double.stats.choices
    run = asyncio.create_task(Experiment.parse(table).run(tmp_path / "run", executor=executor))
    lost = 0
    for _ in range(3):
        served = double.stats.served + rng.randint(1, 40)
        while double.stats.served < served and not run.done():
            await asyncio.sleep(0.001)
        if executor.fleet.living and not run.done():
            hand = rng.choice(executor.fleet.living)
            lost += hand.unacknowledged
            hand.kill()
    assert results(await run) == local.results
    assert stored(tmp_path / "run") == stored(local.folder)
    assert double.stats.choices - before <= SAMPLES + lost, "only what was not acknowledged is paid for again"


async def test_a_worker_that_is_cut_off_is_written_off_and_ends_itself(
    table: dict[str, Any], double: ModelDouble, local: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (driver, worker):
        monkeypatch.setattr(module, "LEASE", 1.5)
        monkeypatch.setattr(module, "PULSE", 0.2)
    executor = FleetExecutor(2)
    run = asyncio.create_task(Experiment.parse(table).run(tmp_path / "run", executor=executor))
    await more(double, 20, run)
    cut = executor.fleet.hired[0]
    cut.cut = True
    async with asyncio.timeout(120):
        assert results(await run) == local.results
        await cut.worker.gone()
    assert cut.worker.ended


async def test_a_short_cut_heals(table: dict[str, Any], double: ModelDouble, local: Alone, tmp_path: Path) -> None:
    executor, before = FleetExecutor(2), double.stats.choices
    run = asyncio.create_task(Experiment.parse(table).run(tmp_path / "run", executor=executor))
    await more(double, 20, run)
    executor.fleet.hired[0].cut = True
    await asyncio.sleep(1)
    executor.fleet.hired[0].cut = False
    assert results(await run) == local.results
    assert double.stats.choices - before == SAMPLES
    assert len(executor.fleet.hired) == 2


async def test_a_worker_that_comes_later_is_used(
    table: dict[str, Any], double: ModelDouble, local: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LOOK", 0.05)
    double.latency = 0.1
    executor = FleetExecutor(1)
    run = asyncio.create_task(
        Experiment.parse({**table, "models": {"m": {**table["models"]["m"], "max_concurrency": 4}}}).run(
            tmp_path / "run", executor=executor
        )
    )
    await more(double, 20, run)
    executor.fleet.size = 2
    assert results(await run) == local.results
    assert all(hand.messages > 3 for hand in executor.fleet.hired)
    assert len(executor.fleet.hired) == 2


async def test_an_interrupted_run_stores_what_its_workers_have(
    table: dict[str, Any], double: ModelDouble, local: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aclose, closed = Sampler.aclose, list[Sampler]()

    async def slowly(self: Sampler) -> None:
        await asyncio.sleep(0.1)
        await aclose(self)
        closed.append(self)

    monkeypatch.setattr(Sampler, "aclose", slowly)
    before = double.stats.choices
    run = asyncio.create_task(Experiment.parse(table).run(tmp_path / "run", executor=FleetExecutor(2)))
    await more(double, 30, run)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert len(closed) == 1 + 2, "workers are told to stop more than once, and close what they hold all the same"
    await double.idle()
    paid = double.stats.choices - before
    kept = len(stored(tmp_path / "run"))
    assert paid - kept <= 64 * 3, "only what was in flight is lost"
    done = await Experiment.parse(table).run(tmp_path / "run", resume=True)
    assert results(done) == local.results
    assert double.stats.choices - before - paid == SAMPLES - kept


async def test_an_endpoint_that_is_lost_ends_the_run(
    table: dict[str, Any], double: ModelDouble, tmp_path: Path
) -> None:
    double.faults = lambda number, body: Fault(FaultKind.UNAVAILABLE) if number > 40 else None
    double.reset()
    table["models"]["m"] |= {"outage_timeout": 1.0, "connect_timeout": 0.5}
    with pytest.raises(EndpointLost):
        await Experiment.parse(table).run(tmp_path / "run", executor=FleetExecutor(2))
    assert stored(tmp_path / "run")


async def test_a_file_that_cannot_be_written_ends_the_run(
    table: dict[str, Any], double: ModelDouble, tmp_path: Path
) -> None:
    run = asyncio.create_task(Experiment.parse(table).run(tmp_path / "run", executor=FleetExecutor(2)))
    await more(double, 20, run)
    (tmp_path / "run" / "run.sqlite").unlink()
    with pytest.raises(StoreError, match="deleted or replaced"):
        await run


@pytest.mark.parametrize("workers", [1, 4])
async def test_all_workers_together_keep_to_the_limit(
    workers: int, table: dict[str, Any], double: ModelDouble, tmp_path: Path
) -> None:
    table["models"]["m"] |= {"max_concurrency": 32, "max_n": 1}
    double.max_running = 32
    run = await Experiment.parse(table).run(tmp_path / "run", executor=FleetExecutor(workers))
    assert len(run.tracks[1].rows) == 20
    assert double.stats.peak_running <= 32
    assert not double.stats.faults


async def test_a_server_that_takes_less_is_found_out_once(
    table: dict[str, Any], double: ModelDouble, tmp_path: Path
) -> None:
    table["models"]["m"] |= {"max_n": 1}
    double.max_running = 8
    await Experiment.parse(table).run(tmp_path / "alone")
    alone = sum(double.stats.faults.values())
    double.reset()
    await Experiment.parse(table).run(tmp_path / "run", executor=FleetExecutor(4))
    assert sum(double.stats.faults.values()) <= 2 * alone + 64


async def test_batches_are_refused_before_anything_is_sent(
    table: dict[str, Any], double: ModelDouble, tmp_path: Path
) -> None:
    table["models"]["m"]["batch"] = True
    with pytest.raises(ConfigError, match=r"batch = true.*leave --executor out"):
        await Experiment.parse(table).run(tmp_path / "run", executor=FleetExecutor(2))
    assert double.stats.received == 0
