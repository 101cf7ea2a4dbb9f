import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.support.processes import living_processes
from tts.local_vllm import supervise

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="adoption of orphans is Linux's")

STUBBORN_FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(600)
"""
"""A process and its child, both deaf to SIGTERM."""

CALLER = """
import os, subprocess, sys
subprocess.Popen([sys.argv[1], sys.argv[2], str(os.getpid()), *sys.argv[3:]]).wait()
"""


def supervised(grace: float, *command: str, caller: int | None = None) -> list[str]:
    return [sys.executable, supervise.__file__, str(caller or os.getpid()), str(grace), *command]


def until(condition: Callable[[], object], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.parametrize(("command", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 128 + 9)])
def test_ends_with_the_status_of_the_command(command: str, status: int):
    code = f"import os, sys; {command}"
    assert subprocess.run(supervised(1, sys.executable, "-c", code), timeout=120).returncode == status


def test_sigterm_ends_a_family_deaf_to_it_after_the_grace_period():
    command = supervised(0.3, sys.executable, "-c", STUBBORN_FAMILY, STUBBORN_FAMILY)
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as supervisor:
        assert supervisor.stdout
        assert [supervisor.stdout.readline() for _ in range(2)] == [b"up\n"] * 2
        assert len(living_processes(supervisor.pid)) == 3
        supervisor.terminate()
        assert supervisor.wait(30) == 128 + signal.SIGKILL
        assert living_processes(supervisor.pid) == {}


def test_a_child_that_outlives_the_command_is_ended_too():
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN_FAMILY!r}])"
    with subprocess.Popen(supervised(1, sys.executable, "-c", code), start_new_session=True) as supervisor:
        assert supervisor.wait(30) == 0
        assert living_processes(supervisor.pid) == {}


def test_kill_9_of_the_caller_ends_the_family():
    command = [sys.executable, "-c", CALLER, sys.executable, supervise.__file__, "0.3"]
    command += [sys.executable, "-c", STUBBORN_FAMILY, STUBBORN_FAMILY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as caller:
        assert caller.stdout
        assert [caller.stdout.readline() for _ in range(2)] == [b"up\n"] * 2
        assert len(living_processes(caller.pid)) == 4
        caller.kill()
        caller.wait(30)
        assert until(lambda: not living_processes(caller.pid))


def test_a_caller_that_is_gone_already_ends_the_command_at_once():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(30)
    command = supervised(5, sys.executable, "-c", "import time; time.sleep(600)", caller=gone.pid)
    assert subprocess.run(command, timeout=120).returncode == 128 + signal.SIGTERM
