"""Cut a node of a real cluster off during a run: `python experiments/scale/partition.py [SECONDS ...]`, as root.

One node is in a network namespace of its own; its only link, over which it reaches the driver, the cluster and the
model server, goes down for so many seconds. A short cut must heal: nothing is lost or paid again. A longer one must
have the node written off in bounded time and its rows run elsewhere, with what one process finds as the result.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

from kill import AT_ONCE, PROBLEMS, SAMPLES, SLOW, experiment, found, stored

from tests.support.double import ModelDouble, solvable
from tests.support.processes import ray_workers
from tts import Experiment
from tts.cluster import RayExecutor
from tts.cluster.fleet import import_ray

HERE, THERE, PORT, SPACE = "10.77.0.1", "10.77.0.2", 6399, "tts-far"
LINES = f"""
ip netns add {SPACE}
ip link add tts-near type veth peer name tts-end netns {SPACE}
ip address add {HERE}/24 dev tts-near
ip link set tts-near up
ip -n {SPACE} address add {THERE}/24 dev tts-end
ip -n {SPACE} link set tts-end up
ip -n {SPACE} link set lo up
"""


def command(words: str) -> None:
    subprocess.run(words.split(), check=True)


def started(*words: str) -> subprocess.Popen[bytes]:
    """A node of one CPU."""
    ray = Path(sys.executable).with_name("ray")
    common = ["--block", "--num-cpus", "1", "--object-store-memory", str(100 << 20)]
    where = words.index("--node-ip-address")
    before = ["ip", "netns", "exec", SPACE] if words[where + 1] == THERE else []
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [*before, ray, "start", *words, *common], start_new_session=True, stdout=quiet, stderr=quiet
    )


class Losses(logging.Handler):
    """When workers were written off."""

    def __init__(self) -> None:
        super().__init__()
        self.at = list[float]()

    def emit(self, record: logging.LogRecord) -> None:
        if "is lost" in record.getMessage():
            self.at.append(monotonic())


async def cut(seconds: float, folder: Path, double: ModelDouble, local: object) -> None:
    """One run, whose far node is cut off as soon as both are at work."""
    double.reset()
    double.latency = SLOW
    losses, out = Losses(), folder / f"cut{seconds:g}"
    logging.getLogger("tts").addHandler(losses)
    run = asyncio.create_task(
        Experiment.parse(experiment(folder, double)).run(out, executor=RayExecutor(address=f"{HERE}:{PORT}"))
    )
    while len(ray_workers()) < 2 or double.stats.received < 2 * AT_ONCE:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await asyncio.sleep(3)
    before, began = stored(out), monotonic()
    command("ip link set tts-near down")
    await asyncio.sleep(seconds)
    command("ip link set tts-near up")
    assert found(await run) == local
    lost = f"written off after {losses.at[0] - began:.1f} s" if losses.at else "not written off"
    again = double.stats.received - PROBLEMS * SAMPLES
    print(
        f"cut off for {seconds:g} s with {before} of {PROBLEMS * SAMPLES} answers stored: {lost}; ended "
        f"{monotonic() - began:.0f} s after the cut; nothing lost or doubled; {again} paid again",
        flush=True,
    )
    logging.getLogger("tts").removeHandler(losses)


async def main() -> None:
    os.environ["RAY_AUTH_MODE"] = "disabled"  # with a token, only processes that are told so would use it
    nodes = [started("--head", "--node-ip-address", HERE, "--port", str(PORT), "--include-dashboard", "false")]
    try:
        await asyncio.sleep(20)
        nodes.append(started("--address", f"{HERE}:{PORT}", "--node-ip-address", THERE))
        answer = solvable({}, otherwise=0.4)
        async with ModelDouble(answer=answer, latency=0.01, host=HERE) as double, RayExecutor(address=f"{HERE}:{PORT}"):
            async with asyncio.timeout(120):
                while len(await asyncio.to_thread(import_ray().nodes)) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(1)
            with tempfile.TemporaryDirectory() as name:
                local = found(await Experiment.parse(experiment(Path(name), double)).run(Path(name) / "local"))
                for seconds in map(float, sys.argv[1:] or ["5", "40"]):
                    await cut(seconds, Path(name), double, local)
    finally:
        for node in nodes:
            os.killpg(node.pid, signal.SIGTERM)


if __name__ == "__main__":
    try:
        for line in LINES.strip().splitlines():
            command(line)
        asyncio.run(main())
    finally:
        command(f"ip netns delete {SPACE}")
