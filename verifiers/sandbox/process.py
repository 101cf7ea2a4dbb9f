"""One running program, as its judge sees it: its words, its CPU clock, its end. Linux and macOS."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import suppress
from functools import cached_property
from typing import Any

SLICE = 0.005  # seconds: no finer ticks than these when a limit comes near
CHUNK = 1 << 18


class Handle:
    """The process: a pidfd, or where there is none its number."""

    def __init__(self, descriptor: int | None, pid: int | None = None) -> None:
        self.descriptor, self._pid = descriptor, pid

    @cached_property
    def _clock(self) -> int:
        """The process's CPU clock, see clock_getcpuclockid(3); 0 where there is none."""
        if self.descriptor is None:
            return 0
        with suppress(OSError), open(f"/proc/self/fdinfo/{self.descriptor}") as info:
            pid = next((int(line[4:]) for line in info if line.startswith("Pid:")), 0)
            return (~pid << 3) | 2 if pid > 0 else 0
        return 0

    def cpu_seconds(self) -> float:
        """CPU time up to now; 0 when it has ended or the platform cannot say."""
        try:
            return time.clock_gettime(self._clock) if self._clock else 0.0
        except OSError:
            return 0.0

    def kill(self) -> None:
        """End it; in a process namespace of its own, with everything that it started."""
        with suppress(ProcessLookupError):
            if self.descriptor is not None:
                signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)
            elif self._pid:
                os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """Forget it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class Channel:
    """A descriptor read and written without ever blocking the loop; what comes is bounded by the owner."""

    def __init__(self, descriptor: socket.socket | int, on_data: Any) -> None:
        self._socket = descriptor if isinstance(descriptor, socket.socket) else None
        self._number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        os.set_blocking(self._number, False)
        self._on_data = on_data
        self._loop = asyncio.get_running_loop()
        self._unsent: list[memoryview] = []
        self._last = self._writing = False
        self._loop.add_reader(self._number, self.read)
        self._open = self._ours = True

    def read(self) -> bool:
        """Take what is there. Whether there may be more."""
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
        """After the end of the process: take everything that it has written."""
        while self._open and self.read():
            pass

    def write(self, data: bytes) -> None:
        """Send, now or when there is room."""
        first = not self._unsent
        self._unsent.append(memoryview(data))
        if first:
            self._flush()

    def end(self) -> None:
        """Nothing more will be sent: the other side reads an end after all that was."""
        self._last = True
        if not self._unsent:
            self._flush()

    def hand_over(self) -> int:
        """The descriptor, for somebody else to read and write from now on."""
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
            self._unsent.clear()  # it has ended; its end is told elsewhere
        self._stop_writing()
        if self._last and self._socket:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._number)

    def close(self) -> None:
        """Take nothing more."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._number)
            self._stop_writing()
            self._socket.close() if self._socket else os.close(self._number)


class Watch:
    """Ends a process that exceeds its CPU or wall time. `verdict` then says which."""

    def __init__(self, handle: Handle, cpu: float, wall: float) -> None:
        self.verdict: str | None = None
        self.case_begin = 0.0
        self.case_limit: float | None = None
        self._handle, self._cpu = handle, cpu
        self._loop = asyncio.get_running_loop()
        self._wall, self._deadline = wall, 0.0
        self._cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now on the program uses its time."""
        self._deadline = self._loop.time() + self._wall
        self._come_again(self._cpu, self._wall)

    def check(self) -> None:
        """Look at the clocks, and come again when a limit may have been reached at the earliest."""
        self.stop()
        used = self._handle.cpu_seconds()
        limit = self._cpu if self.case_limit is None else min(self._cpu, self.case_begin + self.case_limit)
        left = self._deadline - self._loop.time()
        if used > limit or left <= 0:
            self.end("cpu" if used > limit else "wall")
            return
        self._come_again(limit - used, left)

    def _come_again(self, cpu_left: float, wall_left: float) -> None:
        soon = min(max(cpu_left / self._cores, SLICE), wall_left)
        self._timer = self._loop.call_later(soon, self.check)

    def end(self, verdict: str) -> None:
        """Kill, for this reason unless there was one before."""
        self.verdict = self.verdict or verdict
        self.stop()
        self._handle.kill()

    def stop(self) -> None:
        """No more looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
