"""Programs at work: orders go in, answers come out, limits are enforced, and what became of the program is decided."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import stat
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

from tts.concurrency import LARGE, aside
from tts.text import size_of
from tts.verifiers.sandbox.child import codec
from tts.verifiers.sandbox.types import CaseResult, Invocation, Job, ProgramLimits, Status
from tts.verifiers.sandbox.worker import TMP_MB, Worker

READY = b"[]"
SLICE = 0.005  # seconds between two looks at the clock, at least
CHUNK = 1 << 16
AROUND = 32 << 10  # bytes of an answer beside its values
QUOTA = (TMP_MB + TMP_MB // 4) << 20  # bytes on disk, where the folder is the host's
DISK_SLICE = 0.02  # seconds between two looks at the disk
TURN = 0.005  # seconds of comparing after which others get their turn
PATIENCE = 0.5  # seconds that a program has its core to itself while others wait
UNHEARD = 0.02  # seconds in which a program answers unheard, where nobody waits for each answer


class RunningProgram:
    """One process of one program. Nothing it says decides anything but the values of its calls."""

    def __init__(
        self,
        worker: Worker,
        limits: ProgramLimits,
        *,
        scripted: bool = False,
        speaks: bool = True,
        remote: int | None = None,
    ) -> None:
        """A `scripted` program has a standard output of its own; one that `speaks` answers in lines.

        `remote` is a descriptor to hand to the program: another program listens at its other end.
        """
        self.limits: ProgramLimits = limits
        self.isolation: str = worker.isolation
        self.loaded: CaseResult = CaseResult("infra")
        """What became of `load`."""
        self.stdout: bytearray = bytearray()
        self.words: bytearray = bytearray()
        """Received but not yet a whole line; for another language, what the toolchain complained of."""
        self.fate: CaseResult | None = None
        """How it ended, once it has."""
        self._worker, self._scripted, self._speaks, self._remote = worker, scripted, speaks, remote
        self._cpu_seconds = 0.0
        self._answers: deque[CaseResult] = deque()
        self._hearing: asyncio.TimerHandle | None = None
        self._news: asyncio.Future[None] | None = None
        self._ready = False
        self._left = limits.output_kb * 1024
        self._longest = limits.answer_kb * 1024 + AROUND

    @asynccontextmanager
    async def running(
        self,
        *,
        starting: str = "threads",
        fresh: bool = True,
        memory: int | None = None,
        file: int = 0,
        core: bool = True,
        patient: bool = False,
    ) -> AsyncIterator[RunningProgram]:
        """Fork it and wait for a `core`, if it is to have one; on leaving, kill it and wait for its end.

        Who is `patient` hears a program that soon ends all at once, and not answer by answer.
        """
        ours, theirs = socket.socketpair()
        outputs = os.pipe() if self._scripted else ()
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
                self._handle = Handle(*await self._worker.fork(order, [theirs.fileno(), *passed]))
            finally:
                theirs.close()
                for descriptor in outputs[1:]:
                    os.close(descriptor)
            self._watch = Watch(self._handle, self.limits)
            self._worker.ended.add_done_callback(self._over)
            try:
                async with self._worker.core() if core else nullcontext():
                    self._watch.start()
                    self._listen(UNHEARD if patient else 0.0)
                    async with self._within_quota():
                        yield self
            finally:
                try:
                    await self._killed()
                finally:
                    self._handle.close()
        finally:
            if self._hearing:
                self._hearing.cancel()
            self._data.close()
            if self._output:
                self._output.close()

    def _listen(self, delay: float = 0.0) -> None:
        """Read what the program says, from now on or after a `delay` in seconds."""
        if delay:
            self._hearing = asyncio.get_running_loop().call_later(delay, self._listen)
            return
        self._data.listen()
        if self._output:
            self._output.listen()

    @asynccontextmanager
    async def _within_quota(self) -> AsyncIterator[None]:
        """Inside, the program is ended when it fills the disk, where it has no file system of its own."""
        if not self._worker.folder:
            yield
            return
        watching = asyncio.create_task(self._watch_disk())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _watch_disk(self) -> None:
        used = 0
        while used <= QUOTA:
            await asyncio.sleep(DISK_SLICE)
            used = await asyncio.to_thread(disk_use, self._worker.folder, self._handle.process_id())
        self._watch.end("output")

    async def _killed(self) -> None:
        self._watch.stop()
        if self.fate is None:
            self._handle.kill()
        try:
            await self.over()
        except asyncio.CancelledError:
            self._worker.close()  # cancelled again: there is no time to wait for this program's end
            raise

    # -- orders and answers ----------------------------------------------------------------------------------------

    async def send(self, *orders: Any, last: bool = False) -> None:
        """Give orders; several may be pending. After the `last` ones the program ends."""

        def written() -> bytes:
            return "".join(f"{json.dumps(order)}\n" for order in orders).encode()

        self._data.write(await aside(size_of(orders, LARGE), written), last=last)

    async def answer(self) -> CaseResult:
        """The next answer, or how the program ended instead."""
        while not self._answers and self.fate is None:
            await self._next()
        if not self._answers:
            assert self.fate is not None
            return self.fate
        result = self._answers.popleft()
        if result.status in ("crashed", "output"):
            await self.over()
            self.fate = result
            self._answers.clear()
        return result

    async def over(self) -> CaseResult:
        """Wait for its end: how it ended."""
        while self.fate is None:
            await self._next()
        return self.fate

    async def _next(self) -> None:
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    # -- a program kept open: each call goes out alone, so that its CPU time and its limit are its own -------------

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the whole program up to now."""
        return self._cpu_seconds or self._handle.cpu_seconds()

    async def load(self, source: str) -> None:
        """Execute the module's body."""
        limits = self.limits
        most = limits.case_cpu_seconds if limits.load_cpu_seconds is None else limits.load_cpu_seconds
        self.loaded = await self._timed(self.loading(source), most)

    def loading(self, source: str, cases: Iterable[Sequence[Invocation]] = ()) -> dict[str, Any]:
        """The order to execute the module's body, and then these cases."""
        sizes = {"output": self.limits.output_kb * 1024, "large": self.limits.answer_kb * 1024}
        return {"load": source, "cases": [order_of(case) for case in cases], **sizes}

    async def call(self, *calls: Invocation) -> CaseResult:
        """Calls that make up one case. After the program's end, every further one returns that end again."""
        if self.fate is not None:
            return self.fate
        return await self._timed(order_of(calls), self.limits.case_cpu_seconds)

    def hand_over(self) -> int:
        """The judge's end of the channel, for another program: nothing is said or heard here any more."""
        return self._data.hand_over()

    @contextmanager
    def timed(self, most: float | None) -> Iterator[None]:
        """Inside, the program has `most` seconds of CPU time."""
        self._watch.limit_case(most)
        try:
            yield
        finally:
            self._watch.limit_case(None)

    async def _timed(self, order: Any, limit: float | None) -> CaseResult:
        start = self._handle.cpu_seconds()  # read before: it may be done before we are
        await self.send(order)
        with self.timed(limit):
            result = await self.answer()
        used = (self._handle.cpu_seconds() if self.fate is None else self._cpu_seconds) - start
        if limit is not None and used > limit and self.fate is None:
            self._watch.end("cpu")
            result = await self.over()
        return replace(result, cpu_seconds=max(used, 0.0))

    # -- events ----------------------------------------------------------------------------------------------------

    def _heard(self, data: bytes) -> None:
        if not self._has_room(data):
            return
        if b"\n" not in data or (self._ready and not self._speaks):
            self.words += data
            return
        *lines, rest = (bytes(self.words) + data).split(b"\n")
        self.words[:] = rest
        if not self._ready:
            self._ready = lines.pop(0) == READY
            if not self._speaks:
                self.words[:] = b"\n".join([*lines, rest])
                return
        for line in lines:
            try:
                if len(line) > self._longest:
                    raise ValueError("it is too long")
                result = CaseResult(*codec.read_answer(line), objects=b'{"o":' in line)
            except ValueError as problem:  # something else has written there
                result = CaseResult("crashed", error=f"its answer cannot be read: {problem}"[:200])
            self._answers.append(result)
            if result.status in ("crashed", "output"):
                self._watch.end(result.status)
                break
        if lines:
            self._tell()

    def _printed(self, data: bytes) -> None:
        if self._has_room(data):
            self.stdout += data

    def _has_room(self, data: bytes) -> bool:
        self._left -= len(data)
        if self._left < 0:
            self._watch.end("output")
        return self._left >= 0

    def _over(self, end: asyncio.Future[dict[str, Any]]) -> None:
        self._watch.stop()
        if end.cancelled() or end.exception():
            self.fate = CaseResult("infra", error="the zygote has ended")
        else:
            self._data.drain()  # only now is everything there
            if self._output:
                self._output.drain()
            self._cpu_seconds = end.result()["cpu"]
            self.fate = self._fate(**end.result())
        self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _fate(self, status: int, cpu: float, rss: int) -> CaseResult:
        """Why the process has ended, from outside evidence alone."""
        exit = os.waitstatus_to_exitcode(status)
        verdict: Status | None = self._watch.verdict
        if verdict is None and cpu > self.limits.cpu_seconds:
            verdict = "cpu"
        if verdict is not None:
            return CaseResult(verdict)
        if not self._ready:
            words = self.words.decode(errors="replace")[:200]
            return CaseResult("infra", error=f"could not be confined (status {exit}): {words}")
        if exit >= 0:
            return CaseResult("crashed", error=f"exited with status {exit}")
        error = f"killed by {signal.Signals(-exit).name}"  # by itself, by a limit that it lowered, or for its memory
        large = exit == -signal.SIGKILL and rss > self.limits.memory_mb * 512
        return CaseResult("memory" if large else "crashed", error=error)


def disk_use(folder: str, process: int) -> int:
    """Bytes on disk of the files in a folder, and of those that a process still has open although they are removed."""
    sizes: dict[int, int] = {}
    places = [folder, f"/proc/{process}/fd"]
    while places:
        try:
            entries = list(os.scandir(places.pop()))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return QUOTA + 1  # so deep that nothing below can be counted
            continue
        for entry in entries:
            with suppress(OSError):
                found = os.stat(entry.path, follow_symlinks=entry.path.startswith("/proc/"))
                if stat.S_ISDIR(found.st_mode):
                    places += [entry.path] if entry.is_dir(follow_symlinks=False) else []
                elif stat.S_ISREG(found.st_mode) and os.access(entry.path, os.W_OK):
                    sizes[found.st_ino] = found.st_blocks * 512
    return sum(sizes.values())


def order_of(case: Sequence[Invocation]) -> list[list[Any]]:
    """A case as the program's side reads it."""
    return [[call.path, call.args, call.kwargs, call.store] for call in case]


async def run_cases(worker: Worker, job: Job) -> tuple[CaseResult, list[CaseResult], float]:
    """All cases in one process: sent all at once, unless each has a limit of its own."""
    streamed, stop = job.limits.case_cpu_seconds is None, job.stop_at_failure
    cases: list[CaseResult] = []
    async with RunningProgram(worker, job.limits).running(patient=streamed) as program:
        if streamed:
            await program.send(program.loading(job.program, job.cases), last=True)
            loaded = await program.answer()
        else:
            await program.load(job.program)
            loaded = program.loaded
        if loaded.status == "ok":
            turn = time.monotonic()
            for index, case in enumerate(job.cases):
                cases.append(await (program.answer() if streamed else program.call(*case)))
                stopped = stop and stop(index, cases[-1])
                if stop and cases[-1].status == "ok":  # it has been seen, and may be large
                    cases[-1] = replace(cases[-1], values=())
                if stopped or cases[-1].status not in ("ok", "error", "memory", "large"):
                    break
                if time.monotonic() - turn > TURN:
                    await asyncio.sleep(0)
                    turn = time.monotonic()
    cpu = program.cpu_seconds
    late = cpu > job.limits.cpu_seconds
    if late and cases and cases[-1].status == "ok":
        cases[-1] = replace(cases[-1], status="cpu", values=())
    elif late and loaded.status == "ok" and not cases:
        loaded = replace(loaded, status="cpu")
    return loaded, cases, cpu


# -- its process, its words, its clock ---------------------------------------------------------------------------------


class Handle:
    """A process, by its pidfd, or where the platform has none by its number."""

    def __init__(self, descriptor: int | None, pid: int | None = None) -> None:
        self.descriptor, self._pid = descriptor, pid

    @cached_property
    def _clock(self) -> int:
        """The process's CPU clock, see clock_getcpuclockid(3); 0 where there is none."""
        pid = 0 if self.descriptor is None else self.process_id()
        return (~pid << 3) | 2 if pid > 0 else 0

    def process_id(self) -> int:
        """Its number here; 0 or less where it has none, or has ended."""
        if self.descriptor is None:
            return self._pid or 0
        with suppress(OSError), open(f"/proc/self/fdinfo/{self.descriptor}") as info:
            return next((int(line[4:]) for line in info if line.startswith("Pid:")), 0)
        return 0

    def cpu_seconds(self) -> float:
        """CPU time up to now; 0 once it has ended, or where the platform cannot say."""
        try:
            return time.clock_gettime(self._clock) if self._clock else 0.0
        except OSError:
            return 0.0

    def kill(self) -> None:
        """End it, and in a process namespace of its own everything that it started."""
        with suppress(ProcessLookupError):
            if self.descriptor is not None:
                signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)
            elif self._pid:
                os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class Channel:
    """A descriptor read and written without blocking the event loop; the owner bounds what it takes."""

    def __init__(self, descriptor: socket.socket | int, on_data: Any) -> None:
        self._socket = descriptor if isinstance(descriptor, socket.socket) else None
        self._number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        os.set_blocking(self._number, False)
        self._on_data = on_data
        self._loop = asyncio.get_running_loop()
        self._unsent: list[memoryview] = []
        self._writing = self._last = False
        self._open = self._ours = True

    def listen(self) -> None:
        """From now on, take whatever comes when it comes."""
        if self._open and self._ours:
            self._loop.add_reader(self._number, self.read)

    def read(self) -> bool:
        """Take what is there; False when there is nothing more for now."""
        if not (self._open and self._ours):
            return False
        try:
            data = os.read(self._number, CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._number)
            return False
        self._on_data(data)
        return True

    def drain(self) -> None:
        """Take everything that the process has written, after its end."""
        while self._open and self.read():
            pass

    def write(self, data: bytes, *, last: bool = False) -> None:
        """Send, now or when there is room; what is `last` ends there, for the reader too."""
        first, self._last = not self._unsent, last
        self._unsent.append(memoryview(data))
        if first:
            self._flush()

    def hand_over(self) -> int:
        """Give up the descriptor: from now on somebody else reads and writes it."""
        self._ours = False
        self._loop.remove_reader(self._number)
        os.set_blocking(self._number, True)
        return self._number

    def _flush(self) -> None:
        try:
            while self._unsent:
                sent = os.write(self._number, self._unsent[0])
                rest = self._unsent[0][sent:]
                self._unsent[:1] = [rest] if rest else []
        except BlockingIOError:
            if not self._writing:
                self._loop.add_writer(self._number, self._flush)
                self._writing = True
            return
        except OSError:
            self._unsent.clear()  # the process has ended, which is noticed elsewhere
        self._stop_writing()
        if self._last and self._socket:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._number)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._number)
            self._stop_writing()
            self._socket.close() if self._socket else os.close(self._number)


class Watch:
    """Ends a process that exceeds its CPU or wall time; `verdict` then says which."""

    def __init__(self, handle: Handle, limits: ProgramLimits) -> None:
        self.verdict: Status | None = None
        self._handle = handle
        self._cpu = self._limit = limits.cpu_seconds
        self._wall = max(30.0, 10 * self._cpu) if limits.wall_seconds is None else limits.wall_seconds
        self._loop = asyncio.get_running_loop()
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now on the program uses its time."""
        self._deadline = self._loop.time() + self._wall
        self._look_again(self._cpu, self._wall)

    def limit_case(self, seconds: float | None) -> None:
        """End the process, too, when it uses more CPU time than this from now on; None lifts the limit."""
        self._limit = self._cpu
        if seconds is not None:
            self._limit = min(self._cpu, self._handle.cpu_seconds() + seconds)
            self._check()

    def _check(self) -> None:
        """Look at the clocks, and look again at the earliest moment at which a limit may be reached."""
        self.stop()
        cpu_left, wall_left = self._limit - self._handle.cpu_seconds(), self._deadline - self._loop.time()
        if cpu_left < 0 or wall_left <= 0:
            self.end("cpu" if cpu_left < 0 else "wall")
        else:
            self._look_again(cpu_left, wall_left)

    def _look_again(self, cpu_left: float, wall_left: float) -> None:
        soon = min(max(cpu_left / usable_cores(), SLICE), wall_left)  # all its threads may be at work
        self._timer = self._loop.call_later(soon, self._check)

    def end(self, verdict: Status) -> None:
        """Kill the process, for this reason unless there was one before."""
        self.verdict = self.verdict or verdict
        self.stop()
        self._handle.kill()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Cores:
    """The cores that programs may use at once. A slow program shares its own after a while, so that others can run."""

    def __init__(self, number: int) -> None:
        self._number, self._sharing = number, 0
        self._free = asyncio.Semaphore(number)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A core for one program."""
        shared = False

        def share() -> None:
            nonlocal shared
            if self._sharing < self._number:
                shared, self._sharing = True, self._sharing + 1
                self._free.release()

        await self._free.acquire()
        timer = asyncio.get_running_loop().call_later(PATIENCE, share)
        try:
            yield
        finally:
            timer.cancel()
            if shared:
                self._sharing -= 1
            else:
                self._free.release()


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
