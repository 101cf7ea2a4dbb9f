"""Kill workers, nodes and drivers of runs on a real cluster, and count what that costs:
`python experiments/scale/kill.py worker|node|driver [MOMENTS]`.

Two nodes, processes of this machine, run a seeded experiment whose server counts. At random moments a process is killed
with SIGKILL: a worker; a node's raylet, which another node then replaces; or the driver, after which the run is
resumed. Every run must end with exactly what one process finds, and pay again for no more than what was in flight or
not yet committed at the moments of its kills.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from tests.support.double import ModelDouble, solvable
from tests.support.processes import ancestors, ray_workers
from tts import Experiment, Run

PROBLEMS, SAMPLES, AT_ONCE = 60, 16, 8
SLOW = (0.2, 1.0)
"""Seconds of an answer, while there are moments to come."""

SMALL: dict[str, Any] = {"object_store_memory": 100 << 20}

CHILD = """
import asyncio, json, sys
from tts import Experiment
asyncio.run(Experiment.parse(json.loads(sys.argv[1])).run(sys.argv[2], resume=True, executor=sys.argv[3]))
"""


@dataclass
class Killing:
    """The moments of one kind, and what they cost."""

    kind: str
    wanted: int
    cluster: Cluster
    double: ModelDouble
    rng: random.Random
    killed: int = 0
    at_stake: int = 0
    """Answers that were asked for and not stored at the moments, summed up: in flight, unacknowledged, or lost before
    and not asked for again yet."""
    in_flight: int = 0
    """Of these, what the server was working on."""
    paid_again: int = 0
    nodes: list[Any] = field(default_factory=list)

    async def run(self, table: dict[str, Any], out: Path) -> Run:
        """One run to its end, with as many moments as fit."""
        self.double.reset()
        staked, where = self.at_stake, f'ray:address="{self.cluster.address}"'
        code = None
        while code != 0:
            words = [sys.executable, "-c", CHILD, json.dumps(table), str(out), where]
            child = await asyncio.create_subprocess_exec(*words)
            while child.returncode is None and self.killed < self.wanted:
                self.double.latency = SLOW
                await self._more(self.rng.randint(1, 40), child)
                if child.returncode is None and (victim := self._victim(child)):
                    await self._kill(victim, out)
            self.double.latency = 0.01
            code = await child.wait()
            assert code in (0, -signal.SIGKILL), f"the driver ended with {code}"
            await self.double.idle()
        again = self.double.stats.received - PROBLEMS * SAMPLES
        print(f"a run has ended: {again} paid again, {self.at_stake - staked} at stake", flush=True)
        assert again <= self.at_stake - staked
        self.paid_again += again
        return Run(out)

    async def _more(self, requests: int, child: asyncio.subprocess.Process) -> None:
        """Wait until the server has so many more."""
        wanted = self.double.stats.received + requests
        while self.double.stats.received < wanted and child.returncode is None:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        await asyncio.sleep(self.rng.random() * 0.2)

    def _victim(self, child: asyncio.subprocess.Process) -> int | None:
        if self.kind == "driver":
            return child.pid
        workers = {worker: ancestors(worker) for worker in ray_workers()}
        raylets = [raylet(node) for node in self.nodes]
        if self.kind == "worker":
            found = [worker for worker, above in workers.items() if set(above) & set(raylets)]
        else:
            found = [one for one in raylets if any(one in above for above in workers.values())]
        return self.rng.choice(found) if found else None

    async def _kill(self, victim: int, out: Path) -> None:
        kept, stats = stored(out), self.double.stats
        in_flight = stats.running - stats.received
        os.kill(victim, signal.SIGKILL)
        await asyncio.sleep(0.02)  # what was on its way has come to the server
        stake = len({json.dumps([one.body["messages"], one.body["seed"]]) for one in self.double.requests}) - kept
        self.killed += 1
        self.at_stake += stake
        self.in_flight += in_flight + stats.received
        print(f"{self.kind} {self.killed} of {self.wanted}: {kept} stored, {stake} at stake", flush=True)
        for node in [one for one in self.nodes if raylet(one) == victim]:
            self.nodes.remove(node)
            self.cluster.remove_node(node, allow_graceful=False)
            self.add_node()

    def add_node(self) -> None:
        """Have one more node. Ray does this in the main thread only: meanwhile the server stands still."""
        for attempts_left in (2, 1, 0):  # on a busy machine Ray waits too short a time for its own processes
            try:
                self.nodes.append(self.cluster.add_node(num_cpus=1, **SMALL))
                return
            except Exception:
                if not attempts_left:
                    raise


def raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def stored(out: Path) -> int:
    """Answers that are committed."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{out}/run.sqlite?mode=ro", uri=True)) as db:
        return db.execute("SELECT COUNT(*) FROM samples").fetchone()[0]
    return 0  # there is no file yet


async def main() -> None:
    kind, wanted = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20
    seed = random.randrange(2**32)
    cluster, runs = Cluster(), 0
    async with ModelDouble(answer=solvable({}, otherwise=0.4), latency=0.01) as double:
        with tempfile.TemporaryDirectory() as folder:
            table = experiment(Path(folder), double)
            local = found(await Experiment.parse(table).run(Path(folder) / "local"))
            try:
                killing = Killing(kind, wanted, cluster, double, random.Random(seed))
                cluster.add_node(num_cpus=0, include_dashboard=False, **SMALL)
                for _ in range(2):
                    killing.add_node()
                while killing.killed < wanted:
                    runs += 1
                    assert found(await killing.run(table, Path(folder) / f"run{runs}")) == local
            finally:
                cluster.shutdown()
    print(
        f"{kind}: killed {killing.killed} times in {runs} runs of {PROBLEMS * SAMPLES} answers (seed {seed}): "
        f"lost 0, doubled 0; paid again {killing.paid_again}; in flight were {killing.in_flight}, "
        f"not stored {killing.at_stake}"
    )


def experiment(folder: Path, double: ModelDouble) -> dict[str, Any]:
    """A seeded one, in which an answer is a request."""
    lines = [
        json.dumps({"id": f"p{i}", "prompt": f"[[p{i}]] six times seven?", "answer": "42"}) for i in range(PROBLEMS)
    ]
    (folder / "problems.jsonl").write_text("\n".join(lines))
    model = {"model": "test-model", "base_url": double.base_url, "params": {"seed": 7}, "max_n": 1}
    model["max_concurrency"] = AT_ONCE
    task = f'jsonl:path="{folder}/problems.jsonl"'
    return {"task": task, "models": {"m": model}, "strategies": f"self_consistency:n={SAMPLES}"}


def found(run: Run) -> list[Any]:
    """Every row of a run with all its answers: what is lost or doubled shows here."""
    (track,) = run.tracks
    return sorted(
        (row.problem, row.selected, row.ended, [candidate.content for candidate in track.candidates(row)])
        for row in track.rows
    )


if __name__ == "__main__":
    asyncio.run(main())
