"""Serves a model on this machine, by what is installed, and checks that it answers sensibly.

    async with served("smollm2-135m") as endpoint:
        ...  # an `Endpoint`

llama.cpp's server (`$TTS_LLAMA_SERVER`, or `llama-server` on the path or in the cache) runs GGUF files as they are;
vLLM (`$TTS_VLLM_PYTHON`) needs their Hugging Face form. Where both are there, llama.cpp serves GGUF files, since it
computes with the quantised weights.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from experiments.models.convert import hugging_face_form
from tts import Endpoint, Problem, Sampler, Session
from tts.errors import ConfigError, TTSError
from tts.lab.public_models import located, models_folder
from tts.local_vllm import LocalVLLM, answers, held_port, loopback_client

Engine = Literal["llama.cpp", "vllm"]
HOST = "127.0.0.1"
READY_SECONDS = 120.0
WAITING = {"OMP_WAIT_POLICY": "passive"}
"""Threads that spin while they wait for each other starve the one that all wait for, where the machine is busy."""


def llama_server() -> str | None:
    """The program, if it is anywhere here."""
    named, cached = os.environ.get("TTS_LLAMA_SERVER"), models_folder().parent / "llama.cpp" / "llama-server"
    return named or shutil.which("llama-server") or (str(cached) if cached.exists() else None)


def engine_for(model: Path) -> Engine:
    """Which of the installed engines serves `model`. Raises `ConfigError` where there is none."""
    if model.suffix == ".gguf" and llama_server():
        return "llama.cpp"
    if os.environ.get("TTS_VLLM_PYTHON"):
        return "vllm"
    raise ConfigError("no engine here can serve it: set TTS_LLAMA_SERVER (for a GGUF file) or TTS_VLLM_PYTHON")


@asynccontextmanager
async def served(
    name: str,
    *,
    engine: Engine | None = None,
    in_flight: int = 16,
    context: int = 1536,
    threads: int | None = None,
    options: Sequence[str] = (),
) -> AsyncIterator[Endpoint]:
    """An endpoint of the model that `located(name)` finds, for as long as the context lasts.

    `in_flight` sequences of up to `context` tokens each have room at once. Raises `ConfigError` where it cannot be
    served, `TTSError` if the server ends or answers nothing sensible.
    """
    model = located(name)
    engine = engine or engine_for(model)
    if engine == "vllm":
        if (python := os.environ.get("TTS_VLLM_PYTHON")) is None:
            raise ConfigError("vLLM is not here: set TTS_VLLM_PYTHON to an interpreter that has it")
        folder = await asyncio.to_thread(hugging_face_form, model, python)
        limits = ("--max-num-seqs", str(in_flight), "--max-model-len", str(context), *options)
        async with LocalVLLM(folder, name=name, python=python, options=limits) as server:
            endpoint = Endpoint(model=name, base_url=server.base_url, max_concurrency=in_flight)
            await check(endpoint)
            yield endpoint
        return
    async with _llama_cpp(model, name, in_flight, context, threads, options) as endpoint:
        await check(endpoint)
        yield endpoint


@asynccontextmanager
async def _llama_cpp(
    model: Path, name: str, in_flight: int, context: int, threads: int | None, options: Sequence[str]
) -> AsyncIterator[Endpoint]:
    program = llama_server()
    if program is None:
        raise ConfigError("llama.cpp's server is not here: set TTS_LLAMA_SERVER to the program")
    cores = threads or os.cpu_count() or 1
    log = models_folder() / "llama-server.log"
    with held_port(0) as held:
        port = held.getsockname()[1]
        room = ("-np", str(in_flight), "-c", str(in_flight * context), "-t", str(cores))
        where = ("-m", str(model), "--alias", name, "--host", HOST, "--port", str(port), "--metrics")
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                program, *where, *room, *options, stdout=output, stderr=output, env={**WAITING, **os.environ}
            )
        try:
            async with asyncio.timeout(READY_SECONDS), loopback_client() as client:
                while not await answers(client, f"http://{HOST}:{port}/health"):
                    if process.returncode is not None:
                        raise TTSError(f"llama-server ended with {process.returncode}; see {log}")
                    await asyncio.sleep(0.2)
            yield Endpoint(model=name, base_url=f"http://{HOST}:{port}/v1", max_concurrency=in_flight)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def check(endpoint: Endpoint) -> str:
    """What the model says to a plain question. Raises `TTSError` if that is no answer."""
    question = Problem.from_prompt("What is the capital of France? Answer in one short sentence.")
    async with Sampler(endpoint) as sampler:
        answer = await Session(question, {"policy": sampler}).one(temperature=0, max_tokens=40)
    text = "" if answer is None else answer.text.strip()
    if "paris" not in text.lower():
        raise TTSError(f"{endpoint.model} was asked for the capital of France and says: {text!r}")
    return text
