"""The same on a Ray cluster: its nodes are processes of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.test_driver import SAMPLES, Alone, local, more, results
from tests.support.double import ModelDouble
from tests.support.killing import stored
from tests.support.processes import ancestors, living_processes, ray_workers
from tts import Experiment, Run
from tts.cluster import RayExecutor
from tts.errors import ConfigError, MissingExtra

__all__ = ["local"]

CHILD = """
import asyncio, json, sys
from tts import Experiment
asyncio.run(Experiment.parse(json.loads(sys.argv[1])).run(sys.argv[2], resume=True, executor=sys.argv[3]))
"""


async def test_a_cluster_finds_what_one_process_finds(
    cluster: Any, table: dict[str, Any], double: ModelDouble, local: Alone, tmp_path: Path
) -> None:
    before = double.stats.choices
    run = await Experiment.parse(table).run(tmp_path / "run", executor=f'ray:address="{cluster.address}"')
    assert results(run) == local.results
    assert stored(tmp_path / "run") == stored(local.folder)
    assert double.stats.choices - before == SAMPLES


async def test_workers_killed_at_random_moments(
    cluster: Any, table: dict[str, Any], double: ModelDouble, local: Alone, tmp_path: Path
) -> None:
    rng, before, killed = random.Random(0), double.stats.choices, 0
    executor = RayExecutor(address=cluster.address, workers=2, num_cpus=1)
    run = asyncio.create_task(Experiment.parse(table).run(tmp_path / "run", executor=executor))
    while not run.done() and killed < 3:
        served = double.stats.served + rng.randint(1, 20)
        while double.stats.served < served and not run.done():
            await asyncio.sleep(0.001)
        if not run.done():
            living = [
                pid for pid in ray_workers() if os.getpid() in ancestors(pid)
            ]  # none may be left, before the next are started
            for pid in living and [rng.choice(living)]:
                os.kill(pid, signal.SIGKILL)
                killed += 1
    assert results(await run) == local.results
    assert killed
    assert double.stats.choices - before <= SAMPLES + killed * 200


async def test_a_total_budget_is_shared_out_though_a_worker_is_killed(
    cluster: Any, table: dict[str, Any], double: ModelDouble, tmp_path: Path
) -> None:
    table |= {"strategies": "self_consistency:n=8,answer=exact_answer", "total_budget": "requests=100"}
    alone = results(await Experiment.parse(table).run(tmp_path / "alone"))
    executor = RayExecutor(address=cluster.address, workers=2, num_cpus=1)
    run = asyncio.create_task(Experiment.parse(table).run(tmp_path / "run", executor=executor))
    await more(double, 50, run)
    os.kill(next(pid for pid in ray_workers() if os.getpid() in ancestors(pid)), signal.SIGKILL)
    assert results(await run) == alone
    assert stored(tmp_path / "run") == stored(tmp_path / "alone")


async def test_a_node_killed_and_a_node_that_joins(
    cluster: Any, table: dict[str, Any], double: ModelDouble, local: Alone, tmp_path: Path
) -> None:
    table["models"]["m"] |= {"max_concurrency": 4}
    double.latency = (0.1, 0.3)
    doomed = cluster.add_node(num_cpus=1, object_store_memory=100 << 20, resources={"brief": 2})
    executor = RayExecutor(address=cluster.address, resources={"brief": 1})
    run = asyncio.create_task(Experiment.parse(table).run(tmp_path / "run", executor=executor))
    await more(double, 20, run)
    later = cluster.add_node(num_cpus=1, object_store_memory=100 << 20, resources={"brief": 2})
    os.kill(doomed.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    assert results(await run) == local.results
    cluster.remove_node(later)


async def test_the_driver_killed_at_random_moments(
    cluster: Any, table: dict[str, Any], double: ModelDouble, local: Alone, tmp_path: Path
) -> None:
    out, rng, survived, before = tmp_path / "run", random.Random(0), {}, double.stats.choices
    where = f'ray:address="{cluster.address}",workers=2,num_cpus=1'
    for _ in range(2):
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, json.dumps(table), str(out), where)
        served = double.stats.served + rng.randint(1, 60)
        while double.stats.served < served and child.returncode is None:
            await asyncio.sleep(0.001)
        if child.returncode is None:
            child.kill()
        await child.wait()
        await double.deserted()  # by the workers, which end when they miss the driver
        await double.idle()
        now = stored(out)
        assert survived.items() <= now.items()
        survived = now
    kept = double.stats.choices
    run = await Experiment.parse(table).run(out, resume=True)
    assert results(run) == local.results
    assert double.stats.choices - kept == SAMPLES - len(survived), "nothing stored is asked for again"
    assert kept - before - len(survived) <= 2 * 3 * 256


def test_doctor_shows_what_the_nodes_have(cluster: Any) -> None:
    command = [sys.executable, "-m", "tts", "doctor", "--json", "--executor", f'ray:address="{cluster.address}"']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    nodes = json.loads(done.stdout)["nodes"]
    nodes = [node for node in nodes if "brief" not in node["resources"]]  # which Ray has not missed yet: another test's
    assert [node["resources"]["CPU"] for node in nodes] == [2, 2]
    assert sum("namespaces" in node["resources"] for node in nodes) == 1
    assert all("seccomp" in node["isolation"] and node["ttscale"] for node in nodes)


async def test_what_no_node_can_hold_is_refused(cluster: Any, table: dict[str, Any], tmp_path: Path) -> None:
    executor = RayExecutor(address=cluster.address, resources={"unobtainium": 1})
    with pytest.raises(ConfigError, match="unobtainium: 1"):
        await Experiment.parse(table).run(tmp_path / "run", executor=executor)


async def test_without_ray_the_error_names_the_extra(
    table: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"ttscale\[ray\]"):
        await Experiment.parse(table).run(tmp_path / "run", executor="ray")


@pytest.mark.parametrize("version", ["9.1.0", "2.9.3", "2.61rc1", "3.0.0.dev0", "nightly", ""])
async def test_an_untested_ray_says_so(
    version: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tts.cluster.fleet import import_ray

    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    monkeypatch.setattr(ray, "__version__", version)
    import_ray()
    assert f"Ray {version} is outside the tested range" in caplog.text


async def test_four_workers_together_keep_to_the_limit(
    cluster: Any, table: dict[str, Any], double: ModelDouble, tmp_path: Path
) -> None:
    table["models"]["m"] |= {"max_concurrency": 32, "max_n": 1}
    double.max_running = 32
    double.holding = True  # so that none is done before the last has begun
    executor = RayExecutor(address=cluster.address, workers=4, num_cpus=1)
    run = asyncio.create_task(Experiment.parse(table).run(tmp_path / "run", executor=executor))
    while double.stats.running <= 16 and not run.done():
        await asyncio.sleep(0.001)
    double.holding = False
    await run
    assert 16 < double.stats.peak_running <= 32
    assert not double.stats.faults


PLUGIN = """
import asyncio, json, sys
from functools import partial
from tts import Experiment, Strategy, registry

@partial(registry.register, "strategies")
class Twice(Strategy):
    async def search(self, problem, session):
        async for candidate in session.propose(n=2):
            yield candidate

asyncio.run(Experiment.parse(json.loads(sys.argv[1])).run(sys.argv[2], executor=sys.argv[3]))
"""


async def test_a_notebooks_own_plugins_and_programs_run_at_workers(
    cluster: Any, double: ModelDouble, tmp_path: Path
) -> None:
    tests = {"id": "one", "prompt": "Write f.", "tests": {"asserts": ["assert f(1) == 2"]}}
    (tmp_path / "t.jsonl").write_text(json.dumps(tests))
    double.answer = lambda *_: "```python\ndef f(x):\n    return x + 1\n```"
    model = {"m": {"model": "test-model", "base_url": double.base_url}}
    table = {"task": f'jsonl:path="{tmp_path}/t.jsonl"', "strategies": "twice", "models": model}
    where = f'ray:address="{cluster.address}",resources={{"namespaces":1}}'
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PLUGIN, json.dumps(table), str(tmp_path / "run"), where
    )
    assert await child.wait() == 0
    track = Run(tmp_path / "run").tracks[0]
    assert track.correct[0].tolist() == [1, 1]


SLOW_TO_END = """
import asyncio, os, signal, sys
from tts.cluster import RayExecutor

async def main():
    async with RayExecutor(address=sys.argv[1]):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(5)

signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
asyncio.run(main())
"""


async def test_a_run_that_is_told_to_end_has_its_time(cluster: Any) -> None:
    """Ray's own handler lets a process 3 seconds."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SLOW_TO_END, cluster.address, stdout=subprocess.PIPE
    )
    said, _ = await child.communicate()
    assert (child.returncode, said) == (0, b"told\n")


@pytest.mark.usefixtures("real_ray")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_command_stores_what_it_has_and_leaves_nothing_behind(
    number: int, table: dict[str, Any], double: ModelDouble, tmp_path: Path
) -> None:
    double.latency = (0.2, 0.5)
    words = ["--task", table["task"], "--strategy", "self_consistency:n=16", "--models.m.base_url", double.base_url]
    words += ["--models.m.model", "test-model", "--models.m.max_concurrency", "8", "--executor", "ray:nodes=true"]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tts", "run", *words, "--out", str(tmp_path / "run")),
        start_new_session=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    ending = asyncio.create_task(child.communicate())
    await more(double, 20, ending)
    child.send_signal(number)
    _, said = await ending
    assert child.returncode == 128 + number, said.decode()
    assert "all answers so far are stored" in said.decode()
    assert len(stored(tmp_path / "run")) >= 20 * 8 - 8 * 8
    async with asyncio.timeout(120):  # a worker that missed the end notices that nobody speaks to it
        while living_processes(child.pid):
            await asyncio.sleep(0.1)
