"""Workers as Ray actors: the cluster that a run joins or starts, and where its workers are placed."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import socket
from collections.abc import Awaitable, Hashable, Sequence
from threading import current_thread, main_thread
from types import ModuleType
from typing import Any, Self, cast

from pydantic import Field, NonNegativeFloat, PositiveInt, PrivateAttr

from tts.cluster.driver import Driver, Gone
from tts.cluster.worker import ClusterWorker
from tts.errors import ConfigError, MissingExtra, log
from tts.runs.runner import GridRow, RowRunner
from tts.settings import Settings

TESTED = ("2.60", "2.60")
"""The first and the last minor version of Ray that this was tested with."""

OBJECT_STORE = 256 << 20
"""Bytes of the object store of a cluster that is started here: messages are small."""


REACHED = 10.0
"""Seconds in which a cluster has to take a connection."""
ANSWER = 60.0
"""Seconds in which a node has to say what it has."""


def import_ray() -> ModuleType:
    """Ray. Raises `MissingExtra` where it is not installed, and says once if its version is not one that was tested."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without GPUs leaves them visible
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("ray", "--executor ray") from error
    told = re.match(r"(\d+)\.(\d+)", ray.__version__)  # what follows may be anything: 2.61.0rc1, 3.0.0.dev0
    first, last = (tuple(map(int, version.split("."))) for version in TESTED)
    if told is None or not first <= tuple(map(int, told.groups())) <= last:
        span = TESTED[0] if first == last else f"{TESTED[0]} to {TESTED[1]}"
        log.warning("Ray %s is outside the tested range, %s; if it misbehaves, try that", ray.__version__, span)
    return ray


def check_reachable(address: str) -> None:
    """Raise `ConfigError` where nothing listens at the address: Ray would try for many minutes, and hear no signal."""
    where = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = where.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED).close()
    except (OSError, OverflowError) as error:
        hint = "is it running? ray start --head starts one"
        raise ConfigError(f"cannot join the Ray cluster at {where}: {error}; {hint}") from error


class RayExecutor(Settings):
    """Runs rows on a Ray cluster."""

    address: str | None = None
    """Of a running cluster; `auto` finds the one of this machine. Default: one is started here, and ended with the
    run."""
    workers: PositiveInt | None = None
    """How many, wherever there is room for them. Default: one on each node, which gets all its CPUs."""
    num_cpus: NonNegativeFloat | None = None
    """CPUs of each worker, and so the programs that it runs at once. Default: 1, or all of a node's."""
    num_gpus: NonNegativeFloat = 0
    """GPUs of each worker."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom resources that each worker needs, such as `{"namespaces": 0.01}`."""
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    """Ray's runtime environment of the workers, for plug-ins and packages that the nodes lack."""
    nodes: bool = False
    """Show a line for each worker in the progress."""

    _started: bool = PrivateAttr(False)

    async def __aenter__(self) -> Self:
        ray = await asyncio.to_thread(import_ray)
        if not ray.is_initialized():
            await asyncio.to_thread(self._join, ray)
            self._started = True
            if current_thread() is main_thread() and (handler := signal.getsignal(signal.SIGTERM)) is not None:
                signal.signal(signal.SIGTERM, handler)  # Ray's own, below Python, aborts a process after 3 s
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._started:
            await asyncio.to_thread(import_ray().shutdown)

    def _join(self, ray: ModuleType) -> None:
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address is None:
            settings |= {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
        else:
            check_reachable(self.address)
        what = f"join the Ray cluster at {self.address}" if self.address else "start a Ray cluster here"
        for attempts_left in (1, 0):
            try:
                ray.init(address=self.address or "local", **settings)
                return
            except Exception as error:  # Ray has no class of its own for what goes wrong here
                ray.shutdown()
                if self.address is None and attempts_left:  # on a busy machine it waits too short a time for itself
                    continue
                hint = "; is it running? ray start --head starts one" if self.address else ""
                raise ConfigError(f"cannot {what}: {error}{hint}") from error

    async def survey(self) -> list[dict[str, Any]]:
        """What each node has: resources, the library, the layers of isolation; and why a run could not use it."""
        ray, fleet = import_ray(), RayFleet(import_ray(), self)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        async def ask(node: dict[str, Any]) -> dict[str, Any]:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(inspect_node).options(
                num_cpus=0, scheduling_strategy=strategy, runtime_env=self.runtime_env or None
            )
            there = {name: amount for name, amount in node["Resources"].items() if not name.startswith("node:")}
            for name in there.keys() & {"memory", "object_store_memory"}:
                there[name] = round(there[name] / 2**30, 1)  # GiB
            try:
                async with asyncio.timeout(ANSWER):
                    told = await task.remote()
                remark = told.pop("remark") or ("" if fleet.fits(node["Resources"]) else "too small for a worker")
            except TimeoutError:
                told, remark = {"ttscale": None, "isolation": []}, f"no answer within {ANSWER:g} s"
            except ray.exceptions.RayError as error:
                told, remark = {"ttscale": None, "isolation": []}, str(error).strip().splitlines()[-1]
            return {
                "id": node["NodeID"],
                "name": node["NodeManagerAddress"],
                "resources": there,
                **told,
                "remark": remark,
            }

        nodes = await asyncio.to_thread(ray.nodes)
        return await asyncio.gather(*(ask(node) for node in nodes if node["Alive"]))

    async def run(self, runner: RowRunner, rows: Sequence[GridRow]) -> None:
        """See `tts.runs.executors.Executor`."""
        driver = Driver(runner, rows, RayFleet(import_ray(), self))
        if self.nodes:
            runner.progress.nodes = driver.lines
        await driver.run()


def inspect_node() -> dict[str, Any]:
    """The library and the layers of isolation where this runs."""
    from importlib.metadata import version

    from tts.verifiers.sandbox import SandboxError, isolation_report

    try:
        report, remark = isolation_report(), ""
    except SandboxError as error:
        report, remark = [], str(error)
    return {"ttscale": version("ttscale"), "isolation": [one.layer for one in report if one.active], "remark": remark}


class RayFleet:
    """Workers on the nodes of a cluster."""

    def __init__(self, ray: ModuleType, settings: RayExecutor) -> None:
        self._ray, self._settings = ray, settings
        self._cpus: dict[Hashable, float] = {}

    async def places(self) -> Sequence[Hashable]:
        settings = self._settings
        nodes = await asyncio.to_thread(self._ray.nodes)
        fitting = [node for node in nodes if node["Alive"] and self.fits(node["Resources"])]
        if not fitting:
            needs = {"CPU": settings.num_cpus or 1, "GPU": settings.num_gpus, **settings.resources}
            told = ", ".join(f"{name}: {amount:g}" for name, amount in needs.items() if amount)
            raise ConfigError(
                f"no node of the cluster can hold a worker, which needs {told}; see: tts doctor --executor ray"
            )
        if settings.workers is not None:
            return range(settings.workers)
        self._cpus |= {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in fitting}
        return [node["NodeID"] for node in fitting]

    async def lives(self, node_id: str) -> bool:
        nodes = await asyncio.to_thread(self._ray.nodes)
        return any(node["Alive"] and node["NodeID"] == node_id for node in nodes)

    def fits(self, there: dict[str, float]) -> bool:
        """Whether a worker has room on a node that is otherwise empty."""
        settings = self._settings
        needs = {"CPU": 1.0 if settings.num_cpus is None else settings.num_cpus, "GPU": settings.num_gpus}
        return all(there.get(name, 0.0) >= amount for name, amount in (needs | settings.resources).items())

    def _cpus_of(self, place: Hashable) -> float:
        wanted = self._settings.num_cpus
        return self._cpus.get(place, 1.0) if wanted is None else wanted

    def cores(self, place: Hashable) -> int:
        return max(1, int(self._cpus_of(place)))

    def hire(self, place: Hashable) -> RayHand:
        settings, where = self._settings, "SPREAD"
        if settings.workers is None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            where = NodeAffinitySchedulingStrategy(cast(str, place), soft=False)
        actor = self._ray.remote(ClusterWorker).options(
            num_cpus=self._cpus_of(place),
            num_gpus=settings.num_gpus,
            resources=settings.resources,
            runtime_env=settings.runtime_env or None,
            scheduling_strategy=where,
            max_concurrency=1000,
            max_restarts=0,
            max_task_retries=0,
        )
        return RayHand(self._ray, actor.remote())


class RayHand:
    """A worker that is an actor."""

    def __init__(self, ray: ModuleType, actor: Any) -> None:
        self._ray, self._actor = ray, actor

    async def start(self, hello: bytes) -> bytes:
        return await self._answer(self._actor.start.remote(hello))

    async def exchange(self, inbox: bytes) -> bytes:
        return await self._answer(self._actor.exchange.remote(inbox))

    def tell(self, inbox: bytes) -> None:
        self._actor.tell.remote(inbox)

    def kill(self) -> None:
        self._ray.kill(self._actor)

    async def _answer(self, reference: Awaitable[bytes]) -> bytes:
        errors = self._ray.exceptions
        try:
            return await reference
        except (errors.RayActorError, errors.ActorUnschedulableError, errors.ObjectLostError) as error:
            gone = Gone(str(error).strip().splitlines()[0])
            gone.ended = isinstance(error, errors.ActorDiedError)
            raise gone from error
