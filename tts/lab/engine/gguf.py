"""GGUF files in this process: llama.cpp's own server, from the package `xllamacpp`, on a port of this machine alone.

It speaks the protocol that the sampler knows of llama.cpp anyhow, and ends with the process.
"""

from __future__ import annotations

import functools
import importlib
import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yarl import URL

from tts.errors import ConfigError, MissingExtra
from tts.sampler.transport import Request

IN_FLIGHT = 16
"""Sequences in the batch; more requests wait."""
CONTEXT = 2048
"""Tokens of each, prompt included; fewer where the model was trained on fewer."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server in this process: where it listens, and what opens it."""

    url: str
    key: str
    running: Any
    """The package's own object: the server ends with it."""

    def request(self, asked: Request, path: str) -> Request:
        """`asked` as it is sent to it."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        return Request(asked.method, URL(self.url + path), headers, asked.content)


def check_extra() -> None:
    """Raise `MissingExtra` where the package is not installed."""
    _package()


def _package() -> Any:
    """The package `xllamacpp`.

    Its threads wait for each other after every layer. By default OpenMP has them spin meanwhile, which on a busy
    machine takes the processor from the very thread that all wait for; the setting is read once, by the import.
    """
    own = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = own or "passive"
    try:
        return importlib.import_module("xllamacpp")
    except ImportError:
        raise MissingExtra("gguf", "a GGUF file in this process") from None
    finally:
        if own is None:
            del os.environ["OMP_WAIT_POLICY"]


_loading = threading.Lock()


def load_server(file: Path, name: str) -> RunningServer:
    """The server of the model in `file`, started once in this process, which calls the model `name`; takes seconds.

    What a request does not ask for is not applied: the model's own distribution at temperature 1, as from vLLM, where
    llama.cpp by default cuts it by top_k, top_p and min_p. Raises `MissingExtra` without the package, `ConfigError` if
    it cannot read the file.
    """
    with _loading:
        return _load(file.resolve(), name)


@functools.cache
def _load(file: Path, name: str) -> RunningServer:
    package = _package()
    params, key = package.CommonParams(), secrets.token_urlsafe()
    params.model.path, params.model_alias, params.api_keys = str(file), {name}, [key]
    params.n_parallel, params.n_ctx = IN_FLIGHT, IN_FLIGHT * CONTEXT
    params.endpoint_metrics, params.ui, params.verbosity = True, False, 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = cores or 1
    asked = params.sampling
    asked.temp, asked.top_k, asked.top_p, asked.min_p = 1.0, 0, 1.0, 0.0
    try:
        running = package.Server(params)
    except RuntimeError as error:
        raise ConfigError(f"llama.cpp cannot run {file}: {error}") from None
    return RunningServer(running.listening_address, key, running)
