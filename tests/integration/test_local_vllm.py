"""The local server against real vLLM: it answers, counts, says why it fails, and leaves nothing behind."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tts.errors import ConfigError, MissingExtra
from tts.local_vllm import LocalVLLM, LocalVLLMError, serve

LATEST_STOP = 20.0  # seconds; the supervisor's grace period is 10

pytestmark = pytest.mark.vllm


def processes_of(model: Path) -> dict[int, str]:
    """Command line by pid of the processes that serve `model`, and of their descendants (supervisor, engine, workers).

    An engine process renames itself; its environment, inherited from the launch, still gives it away.
    """
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if marker(model).encode() in environment:
            found[int(folder.name)] = command.replace(b"\0", b" ").decode()
    return found


def marker(model: Path) -> str:
    return f"TTS_TEST_SERVER_OF={model}"


def marked(model: Path) -> dict[str, str]:
    name, _, value = marker(model).partition("=")
    return {name: value}


async def eventually(condition: Callable[[], object], seconds: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


@pytest.fixture
def lone_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model under a path of the test's own, by which its processes are told from others'."""
    link = tmp_path / "model"
    link.symlink_to(tiny_model)
    return link


async def chat(server: LocalVLLM, **parameters: object) -> dict:
    body = {"model": server.name, "messages": [{"role": "user", "content": "Ana has 3 coins. How many?"}]}
    async with httpx.AsyncClient(timeout=120) as client:
        response = await client.post(f"{server.base_url}/chat/completions", json=body | parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def test_answers_four_samples_of_one_chat_request(vllm_server: LocalVLLM):
    reply = await chat(vllm_server, n=4, max_tokens=40)
    assert reply["model"] == vllm_server.name == "tiny"
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert all(choice["message"]["content"] for choice in reply["choices"])


async def test_metrics_grow_by_the_usage_of_the_requests(vllm_server: LocalVLLM):
    before = await vllm_server.metrics()
    usages = [(await chat(vllm_server, max_tokens=tokens))["usage"] for tokens in (1, 7, 30)]
    after = await vllm_server.metrics()

    def growth(name: str) -> float:
        return after[name] - before[name]

    assert growth("vllm:prompt_tokens_total") == sum(usage["prompt_tokens"] for usage in usages)
    assert growth("vllm:generation_tokens_total") == sum(usage["completion_tokens"] for usage in usages)
    assert growth("vllm:request_success_total") == 3
    assert after["vllm:num_requests_running"] == 0


async def test_metrics_count_the_prompt_once_for_each_of_n_samples(vllm_server: LocalVLLM):
    before = await vllm_server.metrics()
    usage = (await chat(vllm_server, n=4, max_tokens=5))["usage"]
    after = await vllm_server.metrics()
    name = "vllm:prompt_tokens_total"
    assert after[name] - before[name] == 4 * usage["prompt_tokens"]


async def test_an_unknown_option_is_an_error_with_the_last_lines_of_the_log(vllm_python: str, tiny_model: Path):
    seen: list[tuple[float, str]] = []
    server = LocalVLLM(
        tiny_model,
        python=vllm_python,
        options=["--no-such-option"],
        on_progress=lambda seconds, line: seen.append((seconds, line)),
    )
    with pytest.raises(LocalVLLMError, match="exit status 2") as failure:
        await server.__aenter__()
    assert failure.value.log_tail.endswith("unrecognized arguments: --no-such-option")
    assert "option" in failure.value.hint
    assert failure.value.log_tail in str(failure.value)
    assert failure.value.hint in str(failure.value)
    assert [seconds for seconds, _ in seen] == sorted(seconds for seconds, _ in seen)
    assert server.log
    assert str(server.log) in str(failure.value)
    assert server.log.read_text().strip().endswith("--no-such-option")
    server.log.unlink()


async def test_a_missing_model_is_named_as_the_cause(vllm_python: str, tmp_path: Path):
    server = LocalVLLM(tmp_path / "nothing", python=vllm_python, log=tmp_path / "log")
    with pytest.raises(LocalVLLMError, match="died while starting") as failure:
        await server.__aenter__()
    assert "The model was not found" in failure.value.hint
    assert str(tmp_path / "nothing") in failure.value.log_tail


async def test_an_engine_that_fails_is_quoted_with_its_own_error(vllm_python: str, tiny_model: Path, tmp_path: Path):
    """The server's log ends with a traceback that does not hold the cause."""
    greedy = {"VLLM_CPU_KVCACHE_SPACE": "100000"}
    with pytest.raises(LocalVLLMError) as failure:
        await LocalVLLM(tiny_model, python=vllm_python, env=greedy, log=tmp_path / "log").__aenter__()
    assert "100000.0 GiB" in failure.value.log_tail.splitlines()[0]
    assert "Not enough memory" in failure.value.hint


async def test_a_late_server_is_stopped_and_reported(vllm_python: str, lone_model: Path):
    server = LocalVLLM(lone_model, python=vllm_python, startup_timeout=3, env=marked(lone_model))
    with pytest.raises(LocalVLLMError, match="not ready after 3 s"):
        await server.__aenter__()
    assert processes_of(lone_model) == {}
    assert server.log
    server.log.unlink()


async def test_an_interpreter_without_vllm_is_refused_before_anything_starts(tmp_path: Path):
    server = LocalVLLM("any/model", python=sys.executable, log=tmp_path / "log")
    with pytest.raises(MissingExtra, match=r"(?s)TTS_VLLM_PYTHON.*pip install 'ttscale\[vllm\]'"):
        await server.__aenter__()
    assert not (tmp_path / "log").exists()


async def test_a_path_that_is_no_interpreter_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="TTS_VLLM_PYTHON"):
        await LocalVLLM("any/model", python=str(tmp_path / "python")).__aenter__()


async def test_a_taken_port_is_refused(vllm_server: LocalVLLM, vllm_python: str, tmp_path: Path):
    """Its health would be answered by whoever has the port."""
    server = LocalVLLM("any/model", python=vllm_python, port=vllm_server.port, log=tmp_path / "log")
    with pytest.raises(ConfigError, match=f":{vllm_server.port} .*taken"):
        await server.__aenter__()
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("moment", ["Worker pid", "EngineCore pid", "usage|vLLM"], ids=["worker", "engine", "early"])
async def test_cancellation_while_starting_leaves_nothing(vllm_python: str, lone_model: Path, tmp_path: Path, moment):
    pass
