"""A small task, the server that solves it, and a Ray cluster of two nodes."""

from __future__ import annotations

import gc
import json
import os
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.double import ModelDouble, solvable

PROBABILITIES = {f"p{i}": (i + 1) / 25 for i in range(20)}


@pytest.fixture(scope="module", autouse=True)
def _no_garbage_of_others() -> None:
    """What earlier tests have left open is no fault of these, to some of which every warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def solving() -> ModelDouble:
    """The server."""
    return ModelDouble(answer=solvable(PROBABILITIES), latency=(0.005, 0.03))


def table_in(folder: Path, double: ModelDouble) -> dict[str, Any]:
    """An experiment over 20 problems, whose samples are seeded, and the same wherever the server listens."""
    path = folder / "problems.jsonl"
    lines = [{"id": name, "prompt": f"[[{name}]] six times seven?", "answer": "42"} for name in PROBABILITIES]
    path.write_text("\n".join(map(json.dumps, lines)))
    model = {"model": "test-model", "base_url": double.base_url, "params": {"seed": 7}, "max_n": 3, "identity": "it"}
    return {"task": f'jsonl:path="{path}"', "models": {"m": model}, "strategies": ["single", "self_consistency:n=16"]}


@pytest.fixture
async def double() -> AsyncIterator[ModelDouble]:
    async with solving() as double:
        yield double


@pytest.fixture
def table(tmp_path: Path, double: ModelDouble) -> dict[str, Any]:
    return table_in(tmp_path, double)


@pytest.fixture(scope="session")
def real_ray() -> None:
    """For what starts Ray's own processes."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    if not os.environ.get("TTS_REQUIRE_RAY"):
        pytest.skip("set TTS_REQUIRE_RAY=1: Ray gives its processes 30 seconds to start, too few on a busy machine")


@pytest.fixture(scope="session")
def cluster(real_ray: None) -> Iterator[Any]:
    """Two nodes of two CPUs each, as processes of this machine."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "object_store_memory": 100 << 20, "include_dashboard": False}
    for attempts_left in (2, 1, 0):  # on a busy machine Ray waits too short a time for its own processes
        cluster = Cluster()
        try:
            cluster.add_node(**head)
            cluster.add_node(num_cpus=2, object_store_memory=100 << 20, resources={"namespaces": 1})
            break
        except Exception:
            cluster.shutdown()
            if not attempts_left:
                raise
    try:
        yield cluster
    finally:
        cluster.shutdown()
