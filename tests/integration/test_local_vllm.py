"""The local server against real vLLM: it answers, counts, says why it fails, and leaves nothing behind."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.integration.test_main_job import counted
from tests.support.processes import living_processes
from tts import Endpoint, Problem, Sampler, Session
from tts.errors import ConfigError, EndpointError, MissingExtra
from tts.local_vllm import LocalVLLM, LocalVLLMError, serve
from tts.sampler.scoring import tokenize

PATIENCE = 600.0
"""Seconds for what a busy machine may take long to do; only what never happens takes as long."""

pytestmark = pytest.mark.vllm


def engines_of(session: int) -> list[str]:
    return [command for command in living_processes(session).values() if command.startswith("VLLM::")]


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition is true."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.05)


async def chat(server: LocalVLLM, **parameters: object) -> dict:
    """The answer to one chat request."""
    body = {"model": server.name, "messages": [{"role": "user", "content": "Ana has 3 coins. How many?"}]}
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        response = await client.post(f"{server.base_url}/chat/completions", json=body | parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def test_answers_four_samples_of_one_chat_request(vllm_server: LocalVLLM):
    async with Sampler(Endpoint(model=vllm_server.name, base_url=vllm_server.base_url)) as sampler:
        letters = await tokenize(sampler, "abc", special=False)
    reply = await chat(vllm_server, n=4, max_tokens=40, allowed_token_ids=letters)
    assert reply["model"] == vllm_server.name == "tiny"
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert all(re.fullmatch("[abc]{40}", choice["message"]["content"]) for choice in reply["choices"])


async def test_metrics_grow_by_the_usage_of_the_requests(vllm_server: LocalVLLM):
    before = await counted(vllm_server)
    usages = [(await chat(vllm_server, max_tokens=tokens))["usage"] for tokens in (1, 7, 30)]
    grown = [now - then for now, then in zip(await counted(vllm_server), before, strict=True)]
    assert grown == [sum(usage[kind] for usage in usages) for kind in ("prompt_tokens", "completion_tokens")] + [3]


async def test_cached_prompt_tokens_are_told_as_the_metrics_count_them(vllm_server: LocalVLLM):
    """And so are charged as cached: a prefix that is read again would otherwise be charged as computed."""
    question = "Ana has 3 coins. " * 80
    endpoint = Endpoint(model=vllm_server.name, base_url=vllm_server.base_url, params={"max_tokens": 4})
    names = "vllm:prompt_tokens_total", "vllm:prefix_cache_hits_total"
    before = await counted(vllm_server, *names)
    async with Sampler(endpoint) as sampler:
        session = Session(Problem.from_prompt(question), {"policy": sampler})
        for ending in ("One?", "Two?", "Two?"):
            async for _ in session.sample([{"role": "user", "content": question + ending}]):
                pass
    used = session.spent
    grown = [now - then for now, then in zip(await counted(vllm_server, *names), before, strict=True)]
    assert grown == [used.prompt_tokens, used.cached_tokens]
    assert used.cached_tokens > 0.4 * used.prompt_tokens


async def test_metrics_count_the_prompt_once_for_each_of_n_samples(vllm_server: LocalVLLM):
    before = await counted(vllm_server)
    usage = (await chat(vllm_server, n=4, max_tokens=5))["usage"]
    grown = [now - then for now, then in zip(await counted(vllm_server), before, strict=True)]
    assert grown == [4 * usage["prompt_tokens"], usage["completion_tokens"], 4]


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


async def test_a_late_server_is_stopped_and_reported(vllm_python: str, tiny_model: Path, tmp_path: Path):
    server = LocalVLLM(tiny_model, python=vllm_python, startup_timeout=1, log=tmp_path / "log")
    with pytest.raises(LocalVLLMError, match="not ready after 1 s"):
        await server.__aenter__()
    assert living_processes(server.pid) == {}


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


@pytest.mark.parametrize("with_engine", [False, True], ids=["at once", "while the engine is built"])
async def test_cancellation_of_a_start_leaves_nothing(
    vllm_python: str, tiny_model: Path, tmp_path: Path, with_engine: bool
):
    launched = asyncio.Event()
    server = LocalVLLM(tiny_model, python=vllm_python, log=tmp_path / "log", on_progress=lambda *_: launched.set())
    start = asyncio.create_task(server.__aenter__())
    await launched.wait()
    assert living_processes(server.pid)
    if with_engine:
        await until(lambda: engines_of(server.pid) or start.done())
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert living_processes(server.pid) == {}


PARENT = """
import asyncio, sys
from tts.local_vllm import LocalVLLM

model, python, log = sys.argv[1:]

async def main():
    server = LocalVLLM(model, python=python, log=log, on_progress=lambda *_: print(server.pid, flush=True))
    async with server:
        print("ready", flush=True)
        await server.wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("when_ready", [False, True], ids=["while the engine is built", "when ready"])
async def test_kill_9_of_the_parent_leaves_no_server_and_no_engine(
    vllm_python: str, tiny_model: Path, tmp_path: Path, when_ready: bool
):
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PARENT,
        str(tiny_model),
        vllm_python,
        str(tmp_path / "log"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout
    session = int(await parent.stdout.readline())
    try:
        await until(lambda: engines_of(session))
        async with asyncio.timeout(PATIENCE):
            while when_ready and await parent.stdout.readline() != b"ready\n":
                assert not parent.stdout.at_eof()
        assert len(living_processes(session)) >= 3  # supervisor, server, engine
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: not living_processes(session))


def kill_engine(server: LocalVLLM) -> None:
    """`kill -9` of the engine; the process that answers requests is spared."""
    (engine,) = [pid for pid, name in living_processes(server.pid).items() if name.startswith("VLLM::EngineCore")]
    os.kill(engine, signal.SIGKILL)


DEATH = r"The (engine of the )?vLLM server (ended|died)"


async def test_an_engine_that_dies_at_work_is_noticed_by_the_sampler_and_by_its_server(
    vllm_python: str, tiny_model: Path, tmp_path: Path
):
    server = LocalVLLM(tiny_model, name="mortal", python=vllm_python, log=tmp_path / "log")
    said: list[EndpointError] = []

    async def ask_until_it_dies() -> None:
        async with server:
            options = {"max_tokens": 2000, "ignore_eos": True, "min_tokens": 2000}
            where = {"model": "mortal", "base_url": server.base_url, "params": {"extra_body": options}}
            async with Sampler(Endpoint(**where, outage_timeout=5)) as sampler:
                session = Session(Problem.from_prompt("How many?"), {"policy": sampler})
                asking = asyncio.create_task(session.one())
                while not (await server.metrics())["vllm:num_requests_running"]:
                    await asyncio.sleep(0.05)
                kill_engine(server)
                try:
                    await asking
                except EndpointError as error:
                    said.append(error)
                    raise

    with pytest.raises(LocalVLLMError, match=DEATH) as failure:
        await asyncio.wait_for(ask_until_it_dies(), PATIENCE)
    assert failure.value.__cause__ is said[0]
    assert server.base_url in str(said[0])
    assert living_processes(server.pid) == {}


async def test_a_server_that_dies_later_ends_serve_with_its_log(vllm_python: str, tiny_model: Path, tmp_path: Path):
    announced: list[str] = []
    server = LocalVLLM(tiny_model, name="mortal", python=vllm_python, log=tmp_path / "log")

    def announce(line: str) -> None:
        announced.append(line)
        kill_engine(server)

    with pytest.raises(LocalVLLMError, match=DEATH) as failure:
        await asyncio.wait_for(serve(server, announce), PATIENCE)
    assert announced == [f"mortal is ready at {server.base_url}"]
    assert failure.value.log_tail
    assert living_processes(server.pid) == {}
