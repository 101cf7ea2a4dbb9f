"""A total budget is shared out to rows on several workers as in one process, whatever happens to the workers."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.test_driver import Alone, alone_in, more, results
from tests.support.double import ModelDouble
from tests.support.fleet import FleetExecutor
from tests.support.killing import stored
from tts import Experiment
from tts.cluster import driver

pytestmark = pytest.mark.filterwarnings("error")

STRATEGIES = ["best_of_n:n=8,verifier=exact_answer(reference=42)", "self_consistency:n=8,answer=exact_answer"]


SHARED = {"strategies": STRATEGIES, "total_budget": "requests=100,policy=thompson"}


@pytest.fixture
def shared(table: dict[str, Any]) -> dict[str, Any]:
    """An experiment whose 20 problems share 5 samples each."""
    return table | SHARED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The same in one process."""
    return await alone_in(tmp_path_factory.mktemp("alone"), **SHARED)


@pytest.mark.parametrize("workers", [1, 2, 4])
async def test_workers_share_it_out_as_one_process_does(
    workers: int, shared: dict[str, Any], double: ModelDouble, alone: Alone, tmp_path: Path
) -> None:
    executor = FleetExecutor(workers)
    run = await Experiment.parse(shared).run(tmp_path / "run", executor=executor)
    assert results(run) == alone.results
    assert stored(tmp_path / "run") == stored(alone.folder)
    assert double.stats.choices == len(stored(tmp_path / "run")), "nothing is paid for twice"
    assert all(hand.messages > 3 for hand in executor.fleet.hired)


@pytest.mark.parametrize("ends", ["killed", "stopped"])
@pytest.mark.parametrize("seed", range(2))
async def test_workers_that_end_change_nothing(
    seed: int,
    ends: str,
    shared: dict[str, Any],
    double: ModelDouble,
    alone: Alone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "CLOSING", 0.05)
    rng, executor = random.Random(seed), FleetExecutor(2)
    run = asyncio.create_task(Experiment.parse(shared).run(tmp_path / "run", executor=executor))
    for _ in range(4):
        served = double.stats.served + rng.randint(1, 40)
        while double.stats.served < served and not run.done():
            await asyncio.sleep(0.001)
        if executor.fleet.living and not run.done():
            hand = rng.choice(executor.fleet.living)
            hand.kill() if ends == "killed" else hand.worker.stop()  # which says of every row that it is interrupted
    assert results(await run) == alone.results
    assert stored(tmp_path / "run") == stored(alone.folder)


async def test_a_run_goes_on_elsewhere_as_it_would_have(
    shared: dict[str, Any], double: ModelDouble, alone: Alone, tmp_path: Path
) -> None:
    for executor in ("local", FleetExecutor(2), "local", FleetExecutor(3)):
        run = asyncio.create_task(
            Experiment.parse(shared).run(tmp_path / "run", resume=(tmp_path / "run").exists(), executor=executor)
        )
        await more(double, 25, run)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        kept = stored(tmp_path / "run")
        assert kept.items() <= stored(alone.folder).items(), "none is drawn that was not due"
    run = await Experiment.parse(shared).run(tmp_path / "run", resume=True, executor=FleetExecutor(2))
    assert results(run) == alone.results


async def test_a_worker_that_comes_later_takes_over_rows_that_wait(
    shared: dict[str, Any], double: ModelDouble, alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LOOK", 0.05)
    executor = FleetExecutor(1)
    run = asyncio.create_task(Experiment.parse(shared).run(tmp_path / "run", executor=executor))
    await more(double, 30, run)
    double.holding = True  # so that it is not done without the other
    executor.fleet.size = 2
    async with asyncio.timeout(120):
        while len(executor.fleet.hired) < 2 or len(executor.fleet.hired[1].worker._running) < 5:
            assert not run.done()
            await asyncio.sleep(0.001)
    double.holding = False
    assert results(await run) == alone.results
    assert stored(tmp_path / "run") == stored(alone.folder)
    assert double.stats.choices == len(stored(tmp_path / "run"))
