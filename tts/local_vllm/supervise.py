"""Runs a command and ends it, with every process it started, as soon as the caller is gone.

    python supervise.py CALLER_PID GRACE_SECONDS COMMAND...

This small process stands between a caller and a server that may start processes of its own. It stops the server's
whole process group (SIGTERM, then SIGKILL after the grace period) when it receives SIGTERM or when the caller has
died, `kill -9` included. It ends with the command's exit status (128 + signal for a signal) once no process of the
group is left. It needs only the standard library, so that it starts at once.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

INTERVAL = 0.1  # seconds between two checks of the caller and the command
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, to be able to wait for their end (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def signal_group(leader: int, number: int) -> None:
    """Send a signal to a process group, which may be gone already."""
    with suppress(ProcessLookupError):
        os.killpg(leader, number)


def supervise(caller: int, grace: float, command: list[str]) -> int:
    """Run `command` in a process group of its own until it ends, the caller dies or SIGTERM arrives."""
    told_to_stop = False

    def stop(*_: object) -> None:
        nonlocal told_to_stop
        told_to_stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    adopt_orphans()
    server = subprocess.Popen(command, process_group=0)
    while server.poll() is None and os.getppid() == caller and not told_to_stop:
        time.sleep(INTERVAL)
    if server.returncode is None:
        signal_group(server.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(grace)
    signal_group(server.pid, signal.SIGKILL)
    status = server.wait()
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-server.pid, 0)
    return status


if __name__ == "__main__":
    status: int = supervise(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
    sys.exit(status if status >= 0 else 128 - status)
