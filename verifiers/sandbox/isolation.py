"""Which layers hold programs here: a ladder from namespaces down to resource limits, and the report on it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection, Sequence

from tts.verifiers.sandbox.jobs import Isolation, SandboxError
from tts.verifiers.sandbox.worker import LayerRefused, Worker

GIVES = {
    "namespaces": "no network, no host files, no other processes; everything a program starts ends with it",
    "seccomp": "no system calls that reach beyond the program",
    "landlock": "no files but the interpreter's to read and a private folder to write",
    "rlimits": "CPU, memory, file size, open files",
}
LAYERS = ("namespaces", "seccomp", "landlock")
STRONG = (("namespaces", "seccomp"), ("seccomp", "landlock"))  # either is enough


class Ladder:
    """Starts workers on the highest rung there is, and remembers which that was."""

    def __init__(self, without: Collection[str] = ()) -> None:
        self.reasons = dict.fromkeys(without, "not wanted")
        if sys.platform != "linux":
            self.reasons = dict.fromkeys(LAYERS, f"{sys.platform} has none")

    async def climb(self, preload: Sequence[str]) -> Worker:
        """A warm worker. Raises `SandboxError` when a module cannot be loaded beforehand."""
        while True:
            layers = [name for name in LAYERS if name not in self.reasons]
            try:
                return await Worker(layers, preload).start()
            except LayerRefused as refused:
                if not refused.layer:
                    raise SandboxError(f"no interpreter for programs: {refused}") from refused
                self.reasons[refused.layer] = str(refused)

    def check(self, worker: Worker, wanted: str) -> None:
        """Raise `SandboxError` unless the worker isolates well enough."""
        if wanted == "best_effort" or any(all(worker.layers.get(name) for name in rung) for rung in STRONG):
            return
        why = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        raise SandboxError(
            f"programs cannot be isolated here ({why}). Allow user namespaces or landlock with seccomp, "
            'or accept the risk with isolation="best_effort"'
        )


async def report(without: Collection[str] = ()) -> tuple[Isolation, ...]:
    """Each layer: whether it holds here, and why not."""
    ladder = Ladder(without)
    worker = await ladder.climb(())
    worker.close()
    held = worker.layers | {"rlimits": os.name == "posix"}
    return tuple(Isolation(name, held[name], GIVES[name] if held[name] else ladder.reasons[name]) for name in GIVES)


def isolation_report(without: Collection[str] = ()) -> tuple[Isolation, ...]:
    """As `report`, from code that runs no event loop."""
    return asyncio.run(report(without))
