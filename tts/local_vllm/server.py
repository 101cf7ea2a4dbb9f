"""The life of one local vLLM server: launch, wait until it is ready, tell why it failed, stop."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Self

import httpx

from tts.errors import ConfigError, TTSError
from tts.local_vllm import supervise
from tts.local_vllm.facts import PORT_TAKEN, cpu_settings, hint_for, is_cpu_build, last_words, summed_metrics

HOST = "127.0.0.1"
POLL_SECONDS = 0.25
GRACE_SECONDS = 10.0
"""Between asking the server to stop and killing it."""
SHOWN_LINES = 20
READ_BYTES = 64_000
"""How much of the log's end is searched for a known cause."""


class LocalVLLMError(TTSError):
    """The local server died or did not get ready in time.

    `log_tail` holds the last lines of its log, after the first error in it where that is further up; `hint` says
    what to do about it ("" where the cause is not known).
    """

    def __init__(self, what: str, log_tail: str, hint: str) -> None:
        super().__init__("\n".join(part for part in (what, log_tail, hint) if part))
        self.log_tail = log_tail
        self.hint = hint


class LocalVLLM:
    """Async context manager around a vLLM server process that listens on this machine only.

    `model` is a folder or a name on a model hub, `name` what requests call it (default: the folder's name or
    the hub's). `python` is an interpreter that has vLLM (default: the environment variable TTS_VLLM_PYTHON,
    else this interpreter), GPU package or CPU build. A free `port` is found where none is given. `options` are
    vLLM's own command-line options and `env` adds to the environment; both win over what is set for the CPU
    build. The server has `startup_timeout` seconds to get ready, during which `on_progress(seconds,
    last_log_line)` is called. Its output goes to `log`, or to a temporary file that is kept when it fails.

    Leaving the context, an exception, cancellation and the death of this process in any way all end the
    server and the processes it started. Inside the context: `base_url`, `name`, `model`, `port`, `log`, and
    `pid`, the process that holds the server's processes and ends them all on SIGTERM.

    Raises `MissingExtra` where the interpreter has no vLLM, `ConfigError` where the interpreter or the port
    cannot be used, `LocalVLLMError` when the server dies or is late.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        name: str | None = None,
        python: str | None = None,
        port: int | None = None,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        startup_timeout: float = 600.0,
        log: str | os.PathLike[str] | None = None,
        on_progress: Callable[[float, str], object] | None = None,
    ) -> None:
        folder = Path(model).expanduser()
        self._is_folder = folder.is_dir()
        self.model = str(folder.resolve()) if self._is_folder else os.fspath(model)
        self.name = name or (Path(self.model).name if self._is_folder else self.model)
        self.python = python or os.environ.get("TTS_VLLM_PYTHON") or sys.executable
        self.port = port or 0
        self.log = Path(log) if log else None
        self._log_is_temporary = log is None
        self._options, self._env = tuple(options), dict(env or {})
        self._startup_timeout, self._on_progress = startup_timeout, on_progress
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """Where an OpenAI client points."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def pid(self) -> int:
        """The process that holds the server's processes."""
        return self._started().pid

    async def __aenter__(self) -> Self:
        on_cpu = await asyncio.to_thread(is_cpu_build, self.python)
        self.port = bindable_port(self.port)
        self._process = self._launch(on_cpu)
        try:
            await self._ready()
        except BaseException as error:
            await self._close(error)
            raise
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._close(error)

    async def wait(self) -> NoReturn:
        """Wait for as long as the server lives; then raise `LocalVLLMError`."""
        await self._ended()
        self._fail("The vLLM server ended")

    async def metrics(self) -> dict[str, float]:
        """Return the server's Prometheus values by name, such as "vllm:generation_tokens_total", over all labels."""
        async with loopback_client() as client:
            try:
                response = await client.get(f"http://{HOST}:{self.port}/metrics")
                return summed_metrics(response.raise_for_status().text)
            except httpx.HTTPError:
                self._fail("The vLLM server does not tell its metrics")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server lives inside `async with LocalVLLM(...)` only")
        return self._process

    def _launch(self, on_cpu: bool) -> subprocess.Popen[bytes]:
        """Start the server under its supervisor, in a session of its own: Ctrl-C reaches this process alone.

        `subprocess` rather than asyncio's own, which kills its child outright when the loop is dropped.
        """
        options, env = cpu_settings() if on_cpu else ((), {})
        if self._is_folder:
            env["HF_HUB_OFFLINE"] = "1"
        server = [self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", self.model]
        server += ["--served-model-name", self.name, "--host", HOST, "--port", str(self.port)]
        supervisor = [sys.executable, "-I", "-S", supervise.__file__, str(os.getpid()), str(GRACE_SECONDS)]
        if self.log is None:
            handle, path = tempfile.mkstemp(prefix="tts-vllm-", suffix=".log")
            os.close(handle)
            self.log = Path(path)
        with self.log.open("wb") as output:
            return subprocess.Popen(
                [*supervisor, *server, *options, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"VLLM_NO_USAGE_STATS": "1", **env, **os.environ, **self._env},
                start_new_session=True,
            )

    async def _ready(self) -> None:
        """Return when /health answers 200."""
        begun = time.monotonic()
        async with loopback_client() as client:
            while (elapsed := time.monotonic() - begun) < self._startup_timeout:
                if self._started().poll() is not None:
                    self._fail("The vLLM server died while starting")
                if await answers(client, f"http://{HOST}:{self.port}/health"):
                    return
                if self._on_progress:
                    self._on_progress(elapsed, (self._log_lines() or [""])[-1])
                await asyncio.sleep(POLL_SECONDS)
        self._fail(f"The vLLM server was not ready after {self._startup_timeout:g} s")

    async def _close(self, error: BaseException | None) -> None:
        """Have the supervisor end the server and wait for it; cancelling this ends the waiting only."""
        if self._started().poll() is None:
            self._started().terminate()
        await self._ended()
        if self.log and self._log_is_temporary and not isinstance(error, LocalVLLMError):
            self.log.unlink(missing_ok=True)

    async def _ended(self) -> None:
        """Return when the supervisor has ended, and with it every process of the server."""
        while self._started().poll() is None:  # noqa: ASYNC110 - a process sets no asyncio.Event
            await asyncio.sleep(POLL_SECONDS / 5)

    def _log_lines(self) -> list[str]:
        """The last lines of the log that are not empty."""
        if self.log is None:
            return []
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - READ_BYTES))
            return [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]

    def _fail(self, what: str) -> NoReturn:
        lines, status = self._log_lines(), self._started().poll()
        ending = "" if status is None else f" with exit status {status}"
        raise LocalVLLMError(
            f"{what}{ending} (model {self.model}). Its log, {self.log}, ends:",
            "\n".join(last_words(lines, SHOWN_LINES)),
            hint_for("\n".join(lines), status),
        )


async def serve(server: LocalVLLM, announce: Callable[[str], object]) -> NoReturn:
    """Run a server until it dies (`LocalVLLMError`) or this is cancelled; `announce` a line once it is ready."""
    async with server:
        announce(f"{server.name} is ready at {server.base_url}")
        await server.wait()


def bindable_port(port: int) -> int:
    """Return `port`, or a free one for 0. Taken is a `ConfigError`: whoever has it would answer in our name."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {HOST}:{port} ({error.strerror}). {PORT_TAKEN}") from error
        return probe.getsockname()[1]


def loopback_client() -> httpx.AsyncClient:
    """Return a client for this machine: past any proxy, and without certificates, which take long to load."""
    return httpx.AsyncClient(trust_env=False, verify=False, timeout=10)


async def answers(client: httpx.AsyncClient, url: str) -> bool:
    """Return whether `url` answers 200."""
    try:
        return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False
