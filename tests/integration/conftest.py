"""One tiny model and one real vLLM server for all integration tests.

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
