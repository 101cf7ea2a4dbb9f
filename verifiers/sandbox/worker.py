"""Warm interpreters that fork programs, and the isolation they can be started with."""

from __future__ import annotations

import array
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from tts.verifiers.sandbox.child.folders import empty
from tts.verifiers.sandbox.types import Isolation, SandboxError

ZYGOTE = Path(__file__).parent / "child" / "zygote.py"
TMP_MB = 64
START = 300.0  # seconds that a zygote may need on a busy machine, for libraries whose bytecode is not kept too
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "LD_BIND_NOW": "1",  # else each fork looks up anew what it calls
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}

GIVES = {
    "namespaces": "no network, no host files, no other processes; everything a program starts ends with it",
    "seccomp": "no system calls that reach beyond the program",
    "landlock": "no files but the interpreter's to read and a private folder to write",
    "rlimits": "CPU, memory, file size, open files",
}
LAYERS = ("namespaces", "seccomp", "landlock")
STRONG = (("namespaces", "seccomp"), ("seccomp", "landlock"))  # either is enough


class WorkerDied(SandboxError):
    """The machinery failed, not the program; the job may be tried again."""


class LayerRefused(Exception):
    """A zygote could not set itself up."""

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(reason)
        self.layer = layer


class Worker:
    """A warm interpreter (a zygote) that forks programs, one at a time, and the judge's end of its socket."""

    def __init__(self, layers: Sequence[str], preload: Sequence[str], warm_up: str) -> None:
        self.preload: tuple[str, ...] = tuple(preload)
        self.warm_up: str = warm_up
        self.layers: dict[str, bool] = {}
        self.strong: bool = False
        """Whether they are enough for untrusted programs."""
        self.isolation: str = ""
        """The layers that contain its programs."""
        self.alive: bool = True
        self.busy: bool = False
        self.core: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
        """What a program that is ready waits for before it starts."""
        self._wanted = layers
        self.folder: str = "" if "namespaces" in layers else tempfile.mkdtemp(prefix="tts-sandbox-")
        """Where its programs write, if they have no file system of their own."""
        flags = ["-s", "-P", "-S", "-X", "utf8", *(["-B"] if sys.dont_write_bytecode else [])]
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._process = subprocess.Popen(
                [sys.executable, *flags, str(ZYGOTE.resolve()), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        finally:
            theirs.close()
        self._text = b""
        self._zygote: int | None = None  # a pidfd
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._started: asyncio.Future[tuple[int | None, int | None]] | None = None
        self.ended: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        """How the current program ends: status, CPU seconds, peak memory in KiB."""

    async def start(self) -> Worker:
        """Wait until it is warm. Raises `LayerRefused` where a layer is unavailable, and `WorkerDied`."""
        config = {
            "layers": list(self._wanted),
            "preload": self.preload,
            "warm_up": self.warm_up,
            "packages": package_folders(),
            "folder": self.folder,
            "tmp_mb": TMP_MB,
        }
        try:
            self._control.sendall(json.dumps(config).encode() + b"\n")
            self._control.setblocking(False)
            self._loop.add_reader(self._control, self._receive)
            async with asyncio.timeout(START):
                hello = await self._hello
        except (OSError, TimeoutError) as error:
            self.close()
            raise WorkerDied(f"no zygote: {error}") from error
        except BaseException:
            self.close()
            raise
        if "failed" in hello:
            self.close()
            if hello["failed"] == "preload":
                raise SandboxError(f"cannot preload {', '.join(self.preload)}: {hello['reason']}; install it")
            named = [name for name in self._wanted if f" {name}: " in hello["reason"]]
            raise LayerRefused([*named, *self._wanted, ""][0], hello["reason"])
        self.layers = hello["layers"]
        self.strong = any(all(self.layers[name] for name in rung) for rung in STRONG)
        self.isolation = "+".join(name for name, held in self.layers.items() if held) or "rlimits"
        return self

    @property
    def process_id(self) -> int:
        """The process that was started; all others of the worker are in its session."""
        return self._process.pid

    async def fork(self, order: dict[str, Any], descriptors: Sequence[int]) -> tuple[int | None, int | None]:
        """Start a program under the limits of `order`; `descriptors` become its own. Raises `WorkerDied`.

        Returns its pidfd, or where the platform has none its number.
        """
        self.busy = True
        self._started, self.ended = self._loop.create_future(), self._loop.create_future()
        self.ended.add_done_callback(lambda future: future.cancelled() or future.exception())
        try:
            socket.send_fds(self._control, [json.dumps(order).encode() + b"\n"], list(descriptors))
        except OSError as error:
            self.close()
            raise WorkerDied(f"the zygote is gone: {error}") from error
        try:
            return await asyncio.shield(self._started)
        except asyncio.CancelledError:
            self.close()  # which process to end is not known yet, so end all
            raise

    def _receive(self) -> None:
        try:
            # recv_fds without its limit on what a message may carry
            data, ancillary, _, _ = self._control.recvmsg(1 << 16, socket.CMSG_SPACE(4 * 4))
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        if not data:
            self.close()
            return
        descriptors = array.array("i")
        for _, _, payload in ancillary:
            descriptors.frombytes(payload)
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            self._heard(json.loads(line), descriptors)

    def _heard(self, message: dict[str, Any], descriptors: array.array[int]) -> None:
        if "layers" in message or "failed" in message:
            self._zygote = descriptors.pop() if descriptors else None
            if not self._hello.done():
                self._hello.set_result(message)
        elif "status" in message:
            self.busy = False
            if not self.ended.done():
                self.ended.set_result(message)
        elif self._started and not self._started.done():
            self._started.set_result((descriptors.pop() if descriptors else None, message.get("pid")))

    def close(self) -> None:
        """End the zygote, and with it everything it has started."""
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._control)
        self._control.close()
        if self._zygote is None:
            self._process.kill()
        else:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._zygote, signal.SIGKILL)  # the process that waits for it then ends too
            os.close(self._zygote)
        self._process.wait()
        if self.folder:
            with suppress(OSError):
                empty(self.folder)
                os.rmdir(self.folder)
        for future in (self._hello, self._started, self.ended):
            if future is not None and not future.done():
                future.set_exception(WorkerDied("the zygote has ended"))
                with suppress(BaseException):
                    future.exception()  # perhaps nobody waits for it


def package_folders() -> list[str]:
    """Where this interpreter finds installed packages."""
    folders = [os.path.realpath(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return [path for path in dict.fromkeys(folders) if os.path.isdir(path)]


# -- which layers of isolation there are ------------------------------------------------------------------------------


class Ladder:
    """Starts workers with all the layers that the platform has, and remembers why others are missing."""

    def __init__(self, without: Collection[str] = ()) -> None:
        self.reasons: dict[str, str] = dict.fromkeys(without, "not wanted")
        if sys.platform != "linux":
            self.reasons = dict.fromkeys(LAYERS, f"not available on {sys.platform}")

    async def climb(self, preload: Sequence[str], warm_up: str = "") -> Worker:
        """A warm worker. Raises `SandboxError` when a module cannot be preloaded."""
        while True:
            layers = [name for name in LAYERS if name not in self.reasons]
            try:
                return await Worker(layers, preload, warm_up).start()
            except LayerRefused as refused:
                if not refused.layer:
                    raise SandboxError(f"no interpreter for programs can be started: {refused}") from refused
                self.reasons[refused.layer] = str(refused)

    def refusal(self) -> SandboxError:
        """The error for programs that no worker here isolates well enough."""
        why = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
        return SandboxError(
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
    """`report`, for code that runs no event loop."""
    return asyncio.run(report(without))
