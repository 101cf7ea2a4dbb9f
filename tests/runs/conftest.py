"""A small task with known solve probabilities, and the server that solves it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.double import ModelDouble, solvable
from tts import Endpoint

PROBABILITIES = {f"p{i}": (i + 1) / 25 for i in range(20)}


def task_in(folder: Path) -> str:
    """The spec of a task of 20 problems, p0 to p19, with the answer 42."""
    path = folder / "problems.jsonl"
    lines = [{"id": name, "prompt": f"[[{name}]] six times seven?", "answer": "42"} for name in PROBABILITIES]
    path.write_text("\n".join(map(json.dumps, lines)))
    return f'jsonl:path="{path}"'


@pytest.fixture
def task(tmp_path: Path) -> str:
    return task_in(tmp_path)


@pytest.fixture
async def double() -> AsyncIterator[ModelDouble]:
    async with ModelDouble(answer=solvable(PROBABILITIES), latency=0.002) as double:
        yield double


@pytest.fixture
def endpoint(double: ModelDouble) -> Endpoint:
    return Endpoint(model="test-model", base_url=double.base_url)
