"""One zygote and the judge's end of its socket."""

from __future__ import annotations

import array
import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from tts.verifiers.sandbox.jobs import SandboxError
from tts.verifiers.sandbox.process import Handle

ZYGOTE = Path(__file__).with_name("zygote.py")
TMP_MB = 64
START = 60.0  # seconds that a zygote may need on a busy machine
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class WorkerDied(SandboxError):
    """The machinery, not the program, has failed; the job may be tried again."""


class LayerRefused(Exception):
    """A zygote could not set itself up."""

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(reason)
        self.layer = layer


class Worker:
    """A warm interpreter that forks programs, one at a time."""

    def __init__(self, layers: Sequence[str], preload: Sequence[str]) -> None:
        self.preload = tuple(preload)
        self.layers: dict[str, bool] = {}
        self.alive = True
        self.busy = False
        self.core: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
        """What a program that is ready waits for before it may begin."""
        self._wanted = layers
        self._folder = "" if "namespaces" in layers else tempfile.mkdtemp(prefix="tts-sandbox-")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-S", "-X", "utf8", "-B", str(ZYGOTE.resolve()), str(theirs.fileno())],
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
        self._zygote: Handle | None = None
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._started: asyncio.Future[Handle] | None = None
        self._ended: asyncio.Future[dict[str, Any]] | None = None

    async def start(self) -> Worker:
        """Wait until it is warm. Raises `LayerRefused` when a layer cannot be had, `WorkerDied`."""
        config = {
            "layers": list(self._wanted),
            "preload": self.preload,
            "packages": package_folders(),
            "folder": self._folder,
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
        return self

    @property
    def process_id(self) -> int:
        """The process that was started; all others of the worker are in its session."""
        return self._process.pid

    @property
    def isolation(self) -> str:
        """The layers that hold its programs."""
        return "+".join(name for name, held in self.layers.items() if held) or "rlimits"

    async def fork(self, order: dict[str, Any], descriptors: Sequence[int]) -> Handle:
        """Start a program under the limits of `order`; `descriptors` become its own. Raises `WorkerDied`."""
        self.busy = True
        self._started, self._ended = self._loop.create_future(), self._loop.create_future()
        self._ended.add_done_callback(lambda future: future.cancelled() or future.exception())
        try:
            socket.send_fds(self._control, [json.dumps(order).encode() + b"\n"], list(descriptors))
        except OSError as error:
            self.close()
            raise WorkerDied(f"the zygote is gone: {error}") from error
        try:
            return await asyncio.shield(self._started)
        except asyncio.CancelledError:
            self.close()  # it cannot be told which process to end, so end all
            raise

    @property
    def ended(self) -> asyncio.Future[dict[str, Any]]:
        """The end of the program that runs: status, CPU seconds, peak memory in KiB."""
        assert self._ended is not None
        return self._ended

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
            self._zygote = Handle(descriptors.pop()) if descriptors else None
            if not self._hello.done():
                self._hello.set_result(message)
        elif "status" in message:
            self.busy = False
            if self._ended and not self._ended.done():
                self._ended.set_result(message)
        elif self._started and not self._started.done():
            handle = Handle(descriptors.pop() if descriptors else None, message.get("pid"))
            self._started.set_result(handle)

    def close(self) -> None:
        """End the zygote, and with it whatever it has started."""
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._control)
        self._control.close()
        if self._zygote is None:
            self._process.kill()
        else:
            self._zygote.kill()  # the process that waits for it then ends too, when all is over
            self._zygote.close()
        self._process.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        for future in (self._hello, self._started, self._ended):
            if future is not None and not future.done():
                future.set_exception(WorkerDied("the zygote has ended"))
                with suppress(BaseException):
                    future.exception()  # it may be that nobody waits


def package_folders() -> list[str]:
    """Where this interpreter finds installed packages."""
    folders = [os.path.realpath(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return [path for path in dict.fromkeys(folders) if os.path.isdir(path)]
