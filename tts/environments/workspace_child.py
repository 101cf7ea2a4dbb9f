"""Runs one command in a folder and says what it printed and what became of the folder.

Runs in the sandbox, as a program of its own, of which the command cannot get hold: it may kill and trace nothing there,
and what it leaves running ends with this program. Standard library alone.
"""

import base64
import json
import os
import select
import stat
import subprocess
import sys
import time
from contextlib import suppress

DROPPED = ("__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache")
READ = 1 << 16
FLOOD = 1 << 24  # bytes of output after which a command is ended
SEARCHED = 1 << 15  # processes that were started last, among which those are that still run
LINGER = 0.2  # seconds for which output is awaited of what a command has left running


def main() -> None:
    """Read the order from the standard input, and write the answer to the standard output."""
    order = json.load(sys.stdin)
    os.mkdir("workspace")
    os.chdir("workspace")
    given = {path: base64.b64decode(data) for path, data in order["files"].items()}
    for path, data in given.items():
        put(path, data)
    ended, output = run(order["command"], order["seconds"], order["output"])
    found, left_out = collect(order["bytes"], order["count"])
    changed = {path: base64.b64encode(data).decode() for path, data in found.items() if given.get(path) != data}
    answer = {
        "ended": ended,
        "output": base64.b64encode(output).decode(),
        "changed": changed,
        "removed": sorted(given.keys() - found.keys()),
        "left_out": left_out,
    }
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:  # what is waited for is counted
            pass
    except ChildProcessError:
        pass
    print(json.dumps({**answer, "left_running": left_running()}), flush=True)
    os._exit(0)


def put(path: str, data: bytes) -> None:
    """Write a file, or make an empty folder. What is a script can be executed."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    if path.endswith("/"):
        return
    with open(path, "wb") as file:
        file.write(data)
    if data.startswith(b"#!"):
        os.chmod(path, 0o755)


def run(command: str, seconds: float, most: int) -> tuple[str, bytes]:
    """How the command ended, and the beginning and the end of its output."""
    environment = {
        "PATH": "/interpreter/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "PAGER": "cat",
        "PYTHONPATH": ":".join(path for path in sys.path if path.startswith("/packages/")),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    process = subprocess.Popen(
        ["/bin/bash", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    assert process.stdout is not None
    pipe, ends = process.stdout.fileno(), time.monotonic() + seconds
    head, tail, size = bytearray(), bytearray(), 0
    while time.monotonic() < ends:
        if select.select([pipe], [], [], 0.05)[0]:
            data = os.read(pipe, READ)
            if not data:
                break
            room = max(0, most // 2 - len(head))
            head += data[:room]
            tail = (tail + data[room:])[-(most // 2) :]
            size += len(data)
            if size > FLOOD:
                return "it printed too much and was ended", shortened(head, tail, size)
        elif process.poll() is not None:
            ends = min(ends, time.monotonic() + LINGER)
    try:
        status = process.wait(max(0.05, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        return f"it was ended after {seconds:g} seconds", shortened(head, tail, size)
    words = "" if status == 0 else f"exit status {status}"
    return words if status >= 0 else f"ended by signal {-status}", shortened(head, tail, size)


def left_running() -> float:
    """CPU seconds of what the command has left running. It ends with this program, and nobody waits for it."""
    try:
        newest = os.fork()  # numbers are given in order
    except OSError:
        return 0.0
    if newest == 0:
        os._exit(0)
    os.waitpid(newest, 0)
    used = 0.0
    for process in range(max(1, newest - SEARCHED), newest):
        with suppress(OSError):  # there is none of this number
            used += time.clock_gettime((~process << 3) | 2) if process != os.getpid() else 0.0
    return used


def shortened(head: bytearray, tail: bytearray, size: int) -> bytes:
    """The output without its middle."""
    left = size - len(head) - len(tail)
    return bytes(head + (f"\n[... {left} bytes ...]\n".encode() if left else b"") + tail)


def collect(most: int, count: int) -> tuple[dict[str, bytes], list[str]]:
    """The files and empty folders that there are now, up to limits, and what is not among them."""
    found: dict[str, bytes] = {}
    left_out: list[str] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            os.chmod(folder or ".", 0o755)
            entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
        except OSError:
            left_out.append(f"{folder} (cannot be read)")
            continue
        if folder and not entries:
            found[folder + "/"] = b""
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            kind = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(kind.st_mode):
                if entry.name not in DROPPED and path.count("/") < 20:
                    folders.append(path)
            elif not stat.S_ISREG(kind.st_mode):
                left_out.append(f"{path} (no regular file)")
            elif not entry.name.endswith(".pyc"):
                data = content(path, most, readable=bool(kind.st_mode & 0o400))
                if data is None or len(data) > most or len(found) >= count:
                    left_out.append(f"{path} (no room)")
                else:
                    most -= len(data)
                    found[path] = data
    return found, [os.fsencode(path).decode("utf-8", "replace") for path in left_out[:50]]


def content(path: str, most: int, *, readable: bool) -> "bytes | None":
    """What is in a file, as far as one byte beyond `most`."""
    try:
        if not readable:
            os.chmod(path, 0o644)
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return file.read(most + 1)
    except OSError:
        return None


main()
