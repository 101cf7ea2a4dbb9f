"""A gateway on its own machine: web pages, files, signals, and settings that cannot be meant."""

import asyncio
import json
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.conftest import start
from tests.gateway.serving import ASK, NUMBERS, serving, settings_for
from tests.support.double import ModelDouble, solvable
from tts.errors import ConfigError
from tts.gateway.admission import hashed

RIGHT = solvable({}, otherwise=1.0)
BODY = json.dumps({"model": "qwen", "messages": ASK}).encode()

FROM_PAGES: list[tuple[dict[str, str], int]] = [
    ({"origin": "https://evil.example"}, 403),
    ({"origin": "http://evil.example:8080"}, 403),
    ({"origin": "http://localhost.evil.example"}, 403),
    ({"origin": "http://127.0.0.1.evil.example"}, 403),
    ({"origin": "null"}, 403),
    ({"origin": "file://"}, 403),
    ({"host": "evil.example"}, 403),
    ({"host": "evil.example:8080"}, 403),
    ({"host": "127.0.0.1.evil.example"}, 403),
    *(({"host": host}, 403) for host in ("[", "[::1", "a]b", "[x]")),
    *(({"origin": origin}, 403) for origin in ("http://[", "http://[::1", "http://a]b", "//[x]")),
    ({"content-type": "text/plain"}, 415),
    ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ({"content-type": "multipart/form-data; boundary=application/json"}, 415),
    ({"content-type": "text/plain;application/json"}, 415),
]
FROM_HERE: list[dict[str, str]] = [
    {},
    {"origin": "http://localhost:3000"},
    {"origin": "http://127.0.0.1:8080"},
    {"origin": "http://[::1]:8080"},
    {"host": "localhost:8080"},
    {"host": "[::1]:8080"},
    {"host": "app.localhost"},
    {"host": "gateway"},
    {"content-type": "application/json"},
    {"content-type": "Application/JSON; charset=utf-8"},
]


async def test_pages_of_elsewhere_may_not_use_a_gateway_without_keys():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        for headers, status in FROM_PAGES:
            answer = await served.http.post("/chat/completions", content=BODY, headers=headers)
            assert answer.status_code == status, headers
            if "content-type" not in headers:
                assert (await served.http.get("/models", headers=headers)).status_code == status
                metrics = served.base_url.removesuffix("/v1") + "/metrics"
                assert (await served.http.get(metrics, headers=headers)).status_code == status
        assert double.stats.received == 0
        for headers in FROM_HERE:
            assert (await served.http.post("/chat/completions", content=BODY, headers=headers)).status_code == 200
    async with ModelDouble(answer=RIGHT) as double, serving(double, hosts="tts.example") as served:
        headers = {"host": "tts.example", "origin": "https://tts.example"}
        assert (await served.http.post("/chat/completions", content=BODY, headers=headers)).status_code == 200


async def test_where_keys_are_needed_they_are_enough():
    async with ModelDouble(answer=RIGHT) as double, serving(double, keys={"a": {"sha256": hashed("k")}}) as served:
        headers = {"origin": "https://app.example", "host": "tts.example", "authorization": "Bearer k"}
        assert (await served.http.post("/chat/completions", content=BODY, headers=headers)).status_code == 200


@pytest.mark.parametrize("refused", ["too large", "without a key", "too slow"])
async def test_the_connection_of_a_request_that_was_refused_halfway_is_closed(refused: str):
    limits = {"body_bytes": 1000, "body_seconds": 0.2 if refused == "too slow" else 600.0}
    keys = {"a": {"sha256": hashed("k")}} if refused == "without a key" else {}
    async with ModelDouble(answer=RIGHT) as double, serving(double, limits=limits, keys=keys) as served:
        reader, writer = await served.connect()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + (b"" if refused == "too slow" else b"800\r\n" + b"x" * 0x800 + b"\r\n"))
        async with asyncio.timeout(120):
            answer = await reader.read()  # to its end, although the last chunk never comes
        status = {"too large": b"413", "without a key": b"401", "too slow": b"408"}[refused]
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"connection: close" in answer
        writer.close()


async def test_what_is_kept_is_for_its_owner_only(tmp_path: Path):
    async with ModelDouble(answer=RIGHT) as double, serving(double, trace=tmp_path / "trace") as served:
        await served.chat(f"self_consistency:n=2,{NUMBERS}")
        await served.at_rest()
        kept = [file for file in (tmp_path / "trace").iterdir() if file.name != "lock"]
        assert {file.name for file in kept} >= {"run.sqlite", "run.json", "requests.jsonl"}
        for file in kept:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


@pytest.mark.parametrize("model", ["qwen", "single@qwen", "best_of_n:n=2,verifier=judge@qwen"])
async def test_a_missing_key_file_is_not_told_to_clients(model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    missing = {"api_key_file": str(tmp_path / "secret-place")}
    async with ModelDouble(answer=RIGHT) as double:
        judge = {"model": "test-model", "base_url": double.base_url, **missing}
        endpoint = {"judge": judge} if "judge" in model else missing
        async with serving(double, endpoint=endpoint) as served:
            for streamed in (False, True):
                answer = await served.chat(model, stream=streamed)
                assert answer.status_code == (200 if "judge" in model else 500)
                assert "secret-place" not in answer.text + str(answer.headers)
    assert "secret-place" in caplog.text


async def test_messages_have_no_ids_and_no_options_of_the_command_line():
    asked: list[dict[str, Any]] = [
        {"model": "self_consistency:n=2@qwen"},
        {"model": "best_of_n:n=2@qwen"},
        {"model": "first_pass@qwen"},
        {"model": "prompt_redesign:images=true@qwen"},
        {"model": "best_of_n:n=2,verifier=outcome_reward@qwen"},
        {"model": "best_of_n:n=2,verifier=embedding_similarity@qwen"},
        {"model": "first_pass:verifier=tour@qwen"},
        {"model": "first_pass:verifier=sat_assignment@qwen"},
        {"model": "first_pass@qwen", "tts": {"tests": {"nonsense": 1}}},
        {"model": "plan_search@qwen", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"model": "deepconf:n=2@qwen"},
    ]
    async with ModelDouble(answer=RIGHT) as double, serving(double, run_code=True) as served:
        for fields in asked:
            answer = await served.http.post("/chat/completions", json={"messages": ASK, **fields})
            if answer.status_code < 400:
                continue
            words = answer.json()["error"]["message"]
            assert answer.headers["x-tts-run"] not in words, words
            assert "--" not in words, words
            assert "[models" not in words, words


TYPOS: list[tuple[dict[str, Any], str]] = [
    ({"keys": {"a": {"sha256": hashed("k"), "models": ["qwne"]}}}, "did you mean 'qwen'"),
    ({"keys": {"a": {"sha256": hashed("k"), "model": ["qwen"]}}}, "keys.a.model"),
    ({"strategies": ["best_of_m"]}, "did you mean 'best_of_n'"),
    ({"strategies": "singel"}, "did you mean 'single'"),
    ({"models": {"b": {"base_url": "http://x/v1", "juge": {"base_url": "http://x/v1"}}}}, "did you mean 'judge'"),
    ({"models": {"b": {"base_url": "http://x/v1", "Reward": {"base_url": "http://x/v1"}}}}, "did you mean 'reward'"),
    ({"verifiers": ["jugde"]}, "did you mean 'judge'"),
    ({"presets": {"p": {"strategy": "best_of_m"}}}, "best_of_n"),
    ({"presets": {"p": {"strategy": "single", "answer": "numeric_anser"}}}, "numeric_answer"),
    ({"presets": {"p": {"strategy": "single", "answer": "judge"}}}, "reads no answers"),
    ({"presets": {"p": {"strategy": "single", "on_unverified": "eror"}}}, "on_unverified"),
    ({"answer": "numeric_anser"}, "numeric_answer"),
]


@pytest.mark.parametrize(("settings", "words"), TYPOS)
def test_what_is_misspelt_is_refused_at_the_start(settings: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        settings_for(ModelDouble(port=1), **settings)


LOOKED_AT = """
import gc, tts.serving
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(gc.get_objects())).encode()})
tts.serving.serve(app, "127.0.0.1", 0, lambda url: print(url, flush=True))
"""


async def test_what_was_there_before_the_first_request_is_not_searched_for_garbage():
    """A full search of a gateway's modules takes longer than its loop may stand still."""
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", LOOKED_AT, stdout=asyncio.subprocess.PIPE)
    try:
        assert server.stdout is not None
        async with httpx.AsyncClient(timeout=120) as client:
            answer = await client.get((await server.stdout.readline()).decode().strip())
        assert int(answer.text) < 5_000
    finally:
        server.terminate()
        await server.wait()


async def test_the_body_of_an_answer_does_not_wait_until_its_head_is_acknowledged():
    """Which takes 40 ms, on a socket that asyncio does not know to be TCP's."""
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        assert (await served.chat()).status_code == 200
        (connection,) = served.server.server_state.connections
        held: socket.socket = connection.transport.get_extra_info("socket")  # pyright: ignore
        assert held.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
async def test_signals_let_open_requests_finish(number: signal.Signals, tmp_path: Path):
    async with ModelDouble(answer=RIGHT, latency=1.0) as double:
        options = ["--base-url", double.base_url, "--model", "test-model", "--port", 0]
        gateway = await asyncio.to_thread(start, "serve", *options, cwd=tmp_path)
        try:
            assert gateway.stdout is not None
            said = await asyncio.to_thread(gateway.stdout.readline)
            base_url = said.removeprefix("export OPENAI_BASE_URL=").strip()
            async with httpx.AsyncClient(timeout=120) as client:
                asking = asyncio.create_task(
                    client.post(f"{base_url}/chat/completions", json={**json.loads(BODY), "model": "test-model"})
                )
                while not double.stats.running:
                    await asyncio.sleep(0.01)
                gateway.send_signal(number)
                assert (await asking).status_code == 200
        finally:
            await asyncio.to_thread(gateway.communicate, timeout=120)


async def test_the_embedded_model_refuses_images():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    content = [{"type": "text", "text": "What is this?"}, image]
    endpoint = {"base_url": "embedded://lab-target", "model": "lab-target"}
    async with ModelDouble() as double, serving(double, endpoint=endpoint) as served:
        for model in ("qwen", "single@qwen"):
            answer = await served.chat(model, [{"role": "user", "content": content}])
            assert answer.status_code == 400
            assert "image_url" in answer.json()["error"]["message"]
