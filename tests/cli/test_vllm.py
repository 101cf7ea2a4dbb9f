"""`tts vllm`: the settings on stdout, progress on stderr, gone with Ctrl-C. A stand-in plays the server."""

import asyncio
import signal
import socket
import stat
import sys
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import finished, start
from tts import Endpoint
from tts.errors import EndpointError
from tts.local_vllm import LocalVLLM, LocalVLLMError
from tts.sampler import Sampler

STAND_IN = """#!{python}
import json, sys, time
if sys.argv[1] == "-c":
    print(json.dumps({{"found": {found}, "versions": {versions}, "details": True}}))
    sys.exit()
from http.server import BaseHTTPRequestHandler, HTTPServer
begun = []
class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        begun.append(time.monotonic())
        if "--die-after" in sys.argv and begun[-1] - begun[0] > float(sys.argv[sys.argv.index("--die-after") + 1]):
            print("EngineDeadError: the cache is corrupt", flush=True)
            if "--hang-up" in sys.argv:
                return
            self.send_response(503)
        else:
            self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
print("arguments", sys.argv[1:], flush=True)
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health).serve_forever()
"""


def stand_in(folder: Path, found: bool, **versions: str) -> Path:
    """An interpreter that has vLLM, or has not; by default the build for GPUs."""
    path = folder / "python"
    path.write_text(STAND_IN.format(python=sys.executable, found=found, versions=versions))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_serves_until_ctrl_c_and_prints_the_settings(clean: Path):
    python, log = stand_in(clean, True), clean / "server.log"
    words = ["org/model", "--name", "mine", "--python", python, "--log", log, "--", "--max-model-len", "64"]
    process = start("vllm", *words, cwd=clean)
    assert process.stdout is not None
    url = process.stdout.readline().removeprefix("export OPENAI_BASE_URL=").strip()
    assert process.stdout.readline() == "export OPENAI_MODEL=mine\n"
    health = url.removesuffix("/v1") + "/health"
    assert httpx.get(health).status_code == 200
    process.send_signal(signal.SIGINT)
    ended = finished(process)
    assert ended.code == 0
    assert f"mine is ready at {url}" in ended.err
    assert "Traceback" not in ended.err
    assert "'--max-model-len', '64'" in log.read_text()
    assert "'--enable-prompt-tokens-details'" in log.read_text()
    with pytest.raises(httpx.ConnectError):
        httpx.get(health)


def test_an_interpreter_without_vllm_is_told_with_the_extra(clean: Path):
    ended = finished(start("vllm", "org/model", "--python", stand_in(clean, False), cwd=clean))
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert "ttscale[vllm]" in ended.err


def test_an_interpreter_that_does_not_exist_is_exit_code_2(clean: Path):
    ended = finished(start("vllm", "org/model", "--python", clean / "absent", cwd=clean))
    assert ended.code == 2
    assert "absent" in ended.err


def test_an_engine_that_dies_while_its_server_lives_is_noticed_with_its_last_lines(clean: Path):
    ended = finished(start("vllm", "org/model", "--python", stand_in(clean, True), "--", "--die-after", "1", cwd=clean))
    assert ended.code == 1
    assert "The engine of the vLLM server died" in ended.err
    assert "EngineDeadError: the cache is corrupt" in ended.err
    assert "Traceback" not in ended.err


async def test_nobody_else_gets_the_port_while_the_server_starts(clean: Path):
    refused: list[int] = []

    def steal(*_: object) -> None:
        with socket.socket() as thief, pytest.raises(OSError, match="in use"):
            thief.bind(("127.0.0.1", server.port))
        refused.append(server.port)

    server = LocalVLLM("m", python=str(stand_in(clean, True)), on_progress=steal)
    async with server:
        assert set(refused) == {server.port}


@pytest.mark.parametrize("last_words", [[], ["--hang-up"]], ids=["it says so", "it hangs up"])
async def test_an_error_of_the_endpoint_is_told_as_the_death_that_caused_it(clean: Path, last_words: list[str]):
    async def use_until_it_dies() -> None:
        options = ["--die-after", "1", *last_words]
        async with LocalVLLM("m", python=str(stand_in(clean, True)), options=options) as server:
            endpoint = Endpoint(model="m", base_url=server.base_url, outage_timeout=2, retry_wait=0.1)
            await asyncio.sleep(1)
            async with Sampler(endpoint) as sampler:
                async for _ in sampler.sample("What?", 1):
                    pass

    with pytest.raises(LocalVLLMError, match="the cache is corrupt") as caught:
        await use_until_it_dies()
    assert isinstance(caught.value.__cause__, EndpointError)
