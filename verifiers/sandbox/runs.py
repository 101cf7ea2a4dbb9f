"""A program at work in a worker: orders go in, answers come out, limits are kept, and its end is judged."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from tts.verifiers.sandbox import codec
from tts.verifiers.sandbox.jobs import Call, CaseResult, Limits, Status
from tts.verifiers.sandbox.process import Channel, Handle, Watch
from tts.verifiers.sandbox.worker import TMP_MB, Worker

TOLD = ("ok", "error", "memory", "output")  # what a program may say of itself
READY = b"[]"


class Run:
    """One process of one program. Nothing it says decides anything but the values of its calls."""

    def __init__(self, worker: Worker, limits: Limits, *, scripted: bool = False, remote: int | None = None) -> None:
        """`remote` is a descriptor that the program gets, at the other end of which another program listens."""
        self.worker, self.limits, self.scripted, self._remote = worker, limits, scripted, remote
        self.stdout = bytearray()
        self.words = bytearray()
        """What came that is not a line yet; of another language, what it complained of."""
        self.speaks = True
        """Whether it answers in lines."""
        self.cpu_seconds = 0.0
        self.fate: CaseResult | None = None
        """How it ended, once it has."""
        self._answers: deque[bytes] = deque()
        self._news: asyncio.Future[None] | None = None
        self._ready = False
        self._left = limits.output_kb * 1024

    @asynccontextmanager
    async def running(
        self, *, starting: str = "threads", fresh: bool = True, memory: int | None = None, file: int = 0
    ) -> AsyncIterator[Run]:
        """Fork it and wait for its turn; on leaving, kill it and wait for its end."""
        ours, theirs = socket.socketpair()
        outputs = os.pipe() if self.scripted else ()
        order = {
            "cpu": self.limits.cpu_seconds,
            "memory": (self.limits.memory_mb << 20) if memory is None else memory,
            "processes": self.limits.processes,
            "file": max(TMP_MB << 20, file),
            "starting": starting,
            "fresh": fresh,
            "remote": self._remote is not None,
        }
        passed = [*outputs[1:], *([] if self._remote is None else [self._remote])]
        self._data = Channel(ours, self._heard)
        self._output = Channel(outputs[0], self._printed) if outputs else None
        try:
            try:
                handle = await self.worker.fork(order, [theirs.fileno(), *passed])
            finally:
                theirs.close()
                for descriptor in outputs[1:]:
                    os.close(descriptor)
            try:
                async with self._watched(handle), nullcontext() if self._remote else self.worker.core():
                    self.watch.start()
                    yield self
            finally:
                handle.close()
        finally:
            self._data.close()
            if self._output:
                self._output.close()

    @asynccontextmanager
    async def _watched(self, handle: Handle) -> AsyncIterator[None]:
        self.handle = handle
        self.watch = Watch(handle, self.limits.cpu_seconds, self.limits.wall)
        self.worker.ended.add_done_callback(self._over)
        try:
            yield
        finally:
            self.watch.stop()
            handle.kill()
            try:
                await self.over()
            except asyncio.CancelledError:
                self.worker.close()  # cancelled again: no time to wait for the program's end alone
                raise

    # -- talking ---------------------------------------------------------------------------------------------------

    def send(self, *orders: Any) -> None:
        """Give orders; several may be under way."""
        self._data.write("".join(f"{json.dumps(order)}\n" for order in orders).encode())

    def no_more_orders(self) -> None:
        """The program ends by itself after the last answer."""
        self._data.end()

    def hand_over(self) -> int:
        """The judge's end of the talk, for another program: nothing is said or heard here any more."""
        return self._data.hand_over()

    async def answer(self) -> CaseResult:
        """The next answer, or how the program ended instead."""
        while not self._answers and self.fate is None:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        if not self._answers:
            assert self.fate is not None
            return self.fate
        result = read_answer(self._answers.popleft())
        if result.status in ("crashed", "output"):
            self.watch.end(result.status)
            return await self._until_over(result)
        return result

    async def _until_over(self, result: CaseResult) -> CaseResult:
        await self.over()
        self.fate = result
        self._answers.clear()
        return result

    async def over(self) -> CaseResult:
        """Wait for its end."""
        while self.fate is None:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return self.fate

    # -- what happens ----------------------------------------------------------------------------------------------

    def _heard(self, data: bytes) -> None:
        if not self._room_for(data):
            return
        if b"\n" not in data or (self._ready and not self.speaks):
            self.words += data
            return
        *lines, rest = (bytes(self.words) + data).split(b"\n")
        self.words[:] = rest
        if not self._ready:
            self._ready = lines.pop(0) == READY
            if not self.speaks:
                self.words[:] = b"\n".join([*lines, rest])
                return
        if lines:
            self._answers.extend(lines)
            self._tell()

    def _printed(self, data: bytes) -> None:
        if self._room_for(data):
            self.stdout += data

    def _room_for(self, data: bytes) -> bool:
        self._left -= len(data)
        if self._left < 0:
            self.watch.end("output")
        return self._left >= 0

    def _over(self, end: asyncio.Future[dict[str, Any]]) -> None:
        self.watch.stop()
        if end.cancelled() or end.exception():
            self.fate = CaseResult("infra", error="the zygote has ended")
        else:
            self._data.drain()  # only now is all of it there
            if self._output:
                self._output.drain()
            self.cpu_seconds = end.result()["cpu"]
            self.fate = self._judge_end(**end.result())
        self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _judge_end(self, status: int, cpu: float, rss: int) -> CaseResult:
        """Why the process is no more, from outside evidence alone."""
        exit = os.waitstatus_to_exitcode(status)
        name, error = "crashed", f"exited with status {exit}"
        verdict = self.watch.verdict
        if verdict is None and cpu > self.limits.cpu_seconds:
            verdict = "cpu"
        if verdict is not None:
            name, error = verdict, ""
        elif not self._ready:
            name, error = "infra", f"could not be confined (status {exit}): {self.words.decode(errors='replace')[:200]}"
        elif exit < 0:
            error = f"killed by {signal.Signals(-exit).name}"
            if exit == -signal.SIGKILL and self.worker.layers.get("namespaces"):
                name = "memory" if rss > self.limits.memory_mb * 512 else "infra"
        return CaseResult(_status(name), error=error)

    @property
    def exit_zero(self) -> bool:
        """Whether it ended by itself with status 0."""
        return self.fate is not None and self.fate.status == "crashed" and self.fate.error.endswith("status 0")


def _status(name: str) -> Status:
    return name  # type: ignore[return-value]


def order_of(case: tuple[Call, ...]) -> list[list[Any]]:
    """A case as the program's side reads it."""
    return [[call.path, call.args, call.kwargs, call.store] for call in case]


def read_answer(line: bytes) -> CaseResult:
    """An answer, or `crashed` when the line is none: something else has written there."""
    try:
        tree = codec.parse(line.decode("ascii"))
        status, values, stdout, error = tree
        if status not in TOLD or not (type(values) is list and type(stdout) is str and type(error) is str):
            raise ValueError("not an answer")
        return CaseResult(status, tuple(map(codec.unpack, values)), stdout, error[:1000])
    except (ValueError, TypeError) as problem:
        return CaseResult("crashed", error=f"its answer cannot be read: {problem}"[:200])
