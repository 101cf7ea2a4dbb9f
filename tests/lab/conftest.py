"""Small models with random weights, and the engine over them."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.small_llama import write_model
from tts.lab.engine.engine import Delta, Engine, GenerationRequest
from tts.lab.engine.routes import Service
from tts.lab.engine.sampling import SamplingParams


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reward = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    return write_model(tmp_path_factory.mktemp("models") / "reward", **reward)


@pytest.fixture
def engine(folder: Path) -> Engine:
    return Engine(folder, threads=2, rows=8)


@pytest.fixture
def service(engine: Engine) -> Service:
    return Service(engine)


async def generate(engine: Engine, prompt: list[int], n: int = 1, **params: Any) -> list[Delta]:
    """All choices for a prompt, in order."""
    request = GenerationRequest(np.array(prompt), SamplingParams(**{"max_tokens": 16, "seed": 0, **params}), n)
    return sorted([delta async for delta in engine.generate(request)], key=lambda delta: delta.index)


async def until(condition: Any, seconds: float = 20.0) -> None:
    """Wait for a condition that must come true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


class Gate:
    """Holds the computation of an engine up before a step."""

    def __init__(self) -> None:
        self.open, self.reached = threading.Event(), threading.Event()


@contextmanager
def held(engine: Engine, steps: int) -> Iterator[Gate]:
    """Let `steps` forward passes through, hold the next one until the gate is opened or the block ends."""
    gate, left, forward = Gate(), [steps], engine.model.forward

    def guarded(*args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            gate.reached.set()
            gate.open.wait(20)
        return forward(*args)

    engine.model.forward = guarded  # type: ignore[method-assign]
    try:
        yield gate
    finally:
        gate.open.set()
