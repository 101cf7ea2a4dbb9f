"""Models that actors of the cluster serve: what they ask Ray for, and a real engine where there is vLLM."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from tts import Endpoint, Experiment
from tts.cluster.engine import EngineSettings, EngineTransport
from tts.errors import ConfigError
from tts.runs.config import Grid


def test_a_role_names_its_engine(tmp_path: Path) -> None:
    settings = {"num_gpus": 2, "options": ["--max-model-len", "4096"]}
    endpoint = Endpoint.model_validate({"model": "org/reward", "engine": "ray:vllm", "engine_settings": settings})
    assert endpoint.filed_as == "ray-vllm://engine/org/reward/v1"
    assert isinstance(endpoint.transport, EngineTransport)
    assert pickle.loads(pickle.dumps(endpoint)).transport == endpoint.transport
    assert Endpoint.model_validate(endpoint.model_dump()) == endpoint
    with pytest.raises(ValueError, match="no engine 'ray:tgi'"):
        Endpoint(model="m", engine="ray:tgi")


def test_an_engine_asks_for_what_it_needs() -> None:
    settings = EngineSettings(num_gpus=4, num_cpus=8, resources={"a100": 1}, options=["--dtype", "bfloat16"])
    assert settings.requests() == {"num_gpus": 4, "num_cpus": 8, "resources": {"a100": 1}}
    assert settings.command() == ["--tensor-parallel-size", "4", "--dtype", "bfloat16"]
    assert EngineSettings().requests()["num_gpus"] == 1


async def test_without_gpus_an_engine_that_needs_one_is_refused(
    cluster: Any, table: dict[str, Any], tmp_path: Path
) -> None:
    table["models"] = {"m": {"model": "m", "engine": "ray:vllm"}}
    with pytest.raises(ConfigError, match="lacks GPU 1"):
        await Experiment.parse(table).run(tmp_path / "run", executor=f'ray:address="{cluster.address}"')


async def test_without_a_cluster_it_says_what_it_needs(table: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    table["models"] = {"m": {"model": "m", "engine": "ray:vllm"}}
    with pytest.raises(ConfigError, match="--executor ray"):
        await Experiment.parse(table).run(tmp_path / "run")


@pytest.mark.vllm
async def test_a_real_engine_answers(cluster: Any, table: dict[str, Any], tmp_path: Path) -> None:
    python, model = os.environ.get("TTS_VLLM_PYTHON"), os.environ.get("TTS_VLLM_MODEL")
    if not (python and model):
        pytest.skip("set TTS_VLLM_PYTHON to an interpreter that has vLLM and TTS_VLLM_MODEL to a small model's folder")
    settings = {"num_gpus": 0, "python": python, "path": model, "options": ["--max-model-len", "512"]}
    table["models"] = {"m": {"model": "small", "engine": "ray:vllm", "engine_settings": settings}}
    table |= {"strategies": ["self_consistency:n=4"], "limit": 3, "sampling": {"max_tokens": 8}}
    executor = f'ray:address="{cluster.address}",workers=2,num_cpus=1'
    run = await Experiment.parse(table).run(tmp_path / "run", executor=executor)
    assert [row.ended for row in run.tracks[0].rows] == ["complete"] * 3
    assert run.tracks[0].usage().completion_tokens >= 3 * 4
    assert isinstance(Grid.parse(table).endpoints("m")["policy"].transport, EngineTransport)
