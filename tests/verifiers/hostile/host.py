"""The machine that hostile programs run on, and what they must not touch of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.verifiers.hostile import Hostile

SECRET = "tts-hostile-secret"


@dataclass
class Host:
    """A folder that holds a secret, and a port at which nobody may knock."""

    outside: Path
    port: int

    def fill(self, program: Hostile) -> str:
        """The source of a program that knows where they are."""
        source = program.source.replace("{{outside}}", str(self.outside)).replace("{{secret}}", SECRET)
        return source.replace("{{judge}}", str(os.getpid())).replace("{{port}}", str(self.port))

    def state(self) -> dict[str, object]:
        """Whatever a program may have changed."""
        return {
            "files": {p: (p.stat().st_mode, p.read_bytes()) for p in self.outside.rglob("*") if p.is_file()},
            "mode": self.outside.stat().st_mode,
            "ipc": [Path(f"/proc/sysvipc/{kind}").read_text() for kind in ("shm", "msg", "sem")],
            "shared memory": sorted(p.name for p in Path("/dev/shm").glob("*hostile*")),
            "strays": [p for p in ("/tts-hostile", "/etc/tts-hostile", "/usr/tts-hostile", "/root/tts-hostile",
                                   "/home/tts-hostile", "/var/tmp/tts-hostile") if os.path.exists(p)],
        }  # fmt: skip


@contextmanager
def guarded(outside: Path) -> Iterator[Host]:
    """A host; at the end nobody must have knocked."""
    (outside / "seen").write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield Host(outside, server.getsockname()[1])
        with pytest.raises(BlockingIOError):
            server.accept()
