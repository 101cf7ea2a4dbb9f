"""Who is alive, read from /proc (Linux)."""

import os
from contextlib import suppress
from pathlib import Path


def living_processes(session: int) -> dict[int, str]:
    """Command line by pid of the processes of a session, the dead but unburied ones left out.

    A process started with `start_new_session=True` and all its descendants have its pid as their session.
    """
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            if os.getsid(pid) == session and _state(pid) != "Z":
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def ancestors(pid: int) -> list[int]:
    """The process that started `pid`, the one that started that, and so on; none once it has ended."""
    found = []
    with suppress(OSError):
        while pid > 1:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            found.append(pid)
    return found


def ray_workers() -> list[int]:
    """The processes of this machine that run the rows of a run on a Ray cluster."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"ray::ClusterWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found
