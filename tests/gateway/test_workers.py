"""Several processes behind one port: what holds for one holds for all together."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.gateway.serving import ASK, NUMBERS
from tests.support import threaded
from tests.support.double import ModelDouble, solvable
from tests.support.processes import living_processes
from tests.support.threaded import settle
from tts.gateway.admission import hashed
from tts.runs import Run

RIGHT = solvable({}, otherwise=1.0)


@asynccontextmanager
async def counting(place: socket.socket) -> AsyncIterator[dict[str, int]]:
    """A model server that counts 11 tokens for each prompt and 9 for each choice, and what it has counted."""
    spent = {"tokens": 0}

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.method == "GET":
            return web.json_response({"data": [{"id": "test-model"}]})
        body = await request.json()
        await asyncio.sleep(0.05)
        n, written = body.get("n") or 1, min(body.get("max_tokens") or 9, 9)
        spent["tokens"] += 11 + written * n
        usage = {"prompt_tokens": 11, "completion_tokens": written * n}
        message = {"role": "assistant", "content": "Answer: 42"}
        choices = [{"index": i, "message": message, "finish_reason": "stop"} for i in range(n)]
        return web.json_response({"choices": choices, "usage": usage})

    server = web.Server(answer)
    async with await asyncio.get_running_loop().create_server(server, sock=place.dup()):
        yield spent
        await server.shutdown(timeout=0.01)


@dataclass
class Several:
    """A gateway of four workers, and the servers behind it."""

    process: subprocess.Popen[str]
    url: str
    double: ModelDouble
    counts: socket.socket
    """Where the model `counted` is asked."""
    folder: Path
    """Where it was started; `trace` in it keeps its requests."""

    def client(self, key: str) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)  # a connection for each request
        headers = {"authorization": f"Bearer {key}"}
        return httpx.AsyncClient(base_url=self.url, timeout=40, limits=limits, headers=headers)

    def workers(self) -> set[int]:
        """Those that are forked by the one that the gateway has for this."""
        return {worker for child in children_of(self.process.pid) for worker in children_of(child)}

    def full(self) -> bool:
        return len(self.workers()) == 4

    async def metrics(self) -> dict[str, float]:
        """Sums over all labels but the status."""
        async with self.client("free") as http:
            text = (await http.get(self.url.removesuffix("/v1") + "/metrics")).text
        found: dict[str, float] = {}
        for line in text.splitlines():
            if match := re.fullmatch(r"(\w+)(?:{(.*)})? (\S+)", line):
                status = re.search(r'status="(\d+)"', match[2] or "")
                name = f"{match[1]} {status[1]}" if status else match[1]
                found[name] = found.get(name, 0.0) + float(match[3])
        return found


def children_of(pid: int) -> list[int]:
    found = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for children in found for child in children]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not true():
            await asyncio.sleep(0.02)


async def asked(http: httpx.AsyncClient, model: str, **fields: Any) -> httpx.Response:
    return await http.post("/chat/completions", json={"messages": ASK, "model": model, **fields})


async def at_once(http: httpx.AsyncClient, count: int, model: str, **fields: Any) -> list[httpx.Response]:
    return await asyncio.gather(*(asked(http, model, **fields) for _ in range(count)))


async def at_most(double: ModelDouble, running: int, asking: Awaitable[list[httpx.Response]]) -> list[httpx.Response]:
    """The answers to those who ask `double`, which it gives once so many of them run; no more do at any time."""
    double.holding, answers = True, asyncio.ensure_future(asking)
    await until(lambda: double.stats.running == running)
    double.holding = False
    found = await answers
    assert double.stats.peak_running == running
    return found


async def until_answered(http: httpx.AsyncClient, model: str, **fields: Any) -> None:
    """Wait until there is room for a request."""
    async with asyncio.timeout(120):
        while (answer := await asked(http, model, **fields)).status_code == 429:
            await asyncio.sleep(0.05)
    assert answer.status_code == 200


@contextmanager
def servers() -> Iterator[tuple[ModelDouble, socket.socket, list[str]]]:
    """The servers behind gateways, and the tables of their two models."""
    with threaded.serving(answer=RIGHT, max_running=64) as double, socket.socket() as counts:
        counts.bind(("127.0.0.1", 0))
        counts.listen(512)
        place = f"http://127.0.0.1:{counts.getsockname()[1]}/v1"
        qwen = f'[models.qwen]\nmodel = "test-model"\nbase_url = "{double.base_url}"\nmax_concurrency = 8\nmax_n = 1'
        yield double, counts, [qwen, f'[models.counted]\nmodel = "test-model"\nbase_url = "{place}"']


@contextmanager
def gateway_process(folder: Path, tables: list[str], workers: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway with these settings, and where it is."""
    (folder / "gateway.toml").write_text("\n".join(tables))
    words = [sys.executable, "-m", "tts", "serve", "gateway.toml", "--port", "0", "--workers", str(workers)]
    process = subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    url = process.stdout.readline().removeprefix("export OPENAI_BASE_URL=").strip()
    try:
        yield process, url
    finally:
        process.terminate()
        _, said = process.communicate(timeout=120)
        patience = monotonic() + 30  # the one that forks ends a moment after
        while living_processes(process.pid):
            assert monotonic() < patience, said
            sleep(0.05)


def tables_of(keys: dict[str, str]) -> list[str]:
    return [f'[keys.{name}]\nsha256 = "{hashed(name)}"\n{caps}' for name, caps in keys.items()]


@contextmanager
def running_gateway(folder: Path, keys: dict[str, str]) -> Iterator[Several]:
    with (
        servers() as (double, counts, models),
        gateway_process(folder, ['trace = "trace"', *models, *tables_of(keys)], workers=4) as (process, url),
    ):
        yield Several(process, url, double, counts, folder)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    caps = dict.fromkeys(("plain", "cut", "vote"), "tokens_per_day = 100")
    caps |= {
        "left": "tokens_per_day = 1000",
        "rated": "requests_per_minute = 20\nrunning = 8",
        "free": "",
        "held": "tokens_per_day = 5000\nrunning = 8",
    }
    with running_gateway(tmp_path_factory.mktemp("gateway"), caps) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("key", "model", "fields"),
    [
        ("cut", "counted", {"max_tokens": 9}),
        ("plain", "counted", {}),
        ("vote", f"self_consistency:n=4,{NUMBERS}@counted", {"max_tokens": 9}),
    ],
)
async def test_two_hundred_at_once_spend_no_more_than_the_day_has(
    key: str, model: str, fields: dict[str, Any], gateway: Several
):
    async with counting(gateway.counts) as spent, gateway.client(key) as http:
        answers = await at_once(http, 200, model, **fields)
        assert {answer.status_code for answer in answers} <= {200, 429}
        assert 0 < spent["tokens"] <= 100
        while (answer := await asked(http, model, **fields)).status_code == 200:  # what was reserved is free again
            pass
        assert answer.status_code == 429
        assert 60 < spent["tokens"] <= 100


async def test_clients_that_leave_hold_nothing(gateway: Several):
    async with counting(gateway.counts), gateway.client("left") as http:
        for patience in (0.01, 0.02, 0.04, 0.2, 0.8):
            http.timeout = patience
            await asyncio.gather(*(asked(http, "counted") for _ in range(40)), return_exceptions=True)
        http.timeout = 40
        await until_answered(http, "counted", max_tokens=20)


async def test_a_keys_rate_and_concurrency_hold_for_all_workers(gateway: Several):
    settle(gateway.double)
    gateway.double.reset()
    gateway.double.latency, began = 1.0, monotonic()
    async with gateway.client("rated") as http:
        answers = await at_once(http, 60, "qwen")
    served = sum(answer.status_code == 200 for answer in answers)
    assert gateway.double.stats.peak_running <= 8
    assert 8 <= served <= 20 + (monotonic() - began) / 3
    codes = {answer.json()["error"]["code"] for answer in answers if answer.status_code == 429}
    assert codes <= {"concurrency", "rate_limit_exceeded"}


async def test_model_servers_get_no_more_than_they_take_and_metrics_are_sums(gateway: Several):
    settle(gateway.double)
    gateway.double.reset()
    gateway.double.latency, before = (0.02, 0.1), await gateway.metrics()
    async with gateway.client("free") as http:
        answers = await at_most(gateway.double, 8, at_once(http, 60, "single@qwen"))
    assert [answer.status_code for answer in answers] == [200] * 60
    settle(gateway.double)
    stats, after = gateway.double.stats, await gateway.metrics()

    def more(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert more("tts_requests_total 200") == 60
    assert more("tts_model_requests_total") == stats.served
    assert more("tts_tokens_total") == stats.prompt_tokens + stats.completion_tokens
    assert after["tts_requests_running"] == 0


async def test_workers_keep_every_request_and_result_whole(gateway: Several):
    gateway.double.reset()
    gateway.double.latency = 0.0
    vote = f"self_consistency:n=3,{NUMBERS}@qwen"
    large = [{"role": "user", "content": "[[p]] " + "é" * 2**20}]
    async with gateway.client("free") as http:
        answers = await at_once(http, 40, vote, metadata=json.loads("[" * 90 + "]" * 90))
        answers += await asyncio.gather(*(asked(http, "qwen", messages=large) for _ in range(8)))
    asking = {answer.headers["x-tts-run"]: answer.status_code for answer in answers}
    assert [answer.status_code for answer in answers[:40]] == [200] * 40

    def noted() -> dict[str, int]:
        *whole, _ = (gateway.folder / "trace" / "requests.jsonl").read_text().split("\n")  # one may just be written
        lines = map(json.loads, whole)
        return {line["run"]: line["status"] for line in lines if line["run"] in asking}

    await until(lambda: noted() == asking)
    kept = {row["problem"] for row in Run(gateway.folder / "trace").export()}
    assert set(list(asking)[:40]) <= kept


async def test_every_worker_goes_on_from_a_response_that_one_gave(gateway: Several):
    settle(gateway.double)
    gateway.double.reset()
    gateway.double.latency = 0.0
    async with gateway.client("free") as http:
        first = (await http.post("/responses", json={"model": "qwen", "input": "[[p]] six times seven?"})).json()
        more = {"model": "qwen", "input": "Why?", "previous_response_id": first["id"]}
        answers = await asyncio.gather(*(http.post("/responses", json=more) for _ in range(12)))
    assert [answer.status_code for answer in answers] == [200] * 12, answers[0].text


async def test_a_worker_that_is_killed_is_replaced_and_what_it_held_comes_back(gateway: Several):
    await until(gateway.full)
    gateway.double.latency, before = 60.0, gateway.workers()
    async with gateway.client("held") as http:
        held = asyncio.gather(*(asked(http, "qwen", max_tokens=500) for _ in range(8)), return_exceptions=True)
        await until(lambda: gateway.double.stats.running == 8)
        assert (await asked(http, "qwen")).json()["error"]["code"] == "concurrency"
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert all(isinstance(answer, httpx.TransportError) for answer in await held)
        gateway.double.latency = 0.05
        await until_answered(http, "qwen", max_tokens=4500)
    await until(gateway.full)
    assert len(gateway.workers() - before) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_all_workers_finish_what_they_have(tmp_path: Path, number: signal.Signals):
    with running_gateway(tmp_path, {"free": ""}) as gateway:
        gateway.double.holding = True
        async with gateway.client("free") as http:
            await until(gateway.full)
            asking = asyncio.gather(*(asked(http, "qwen") for _ in range(12)))
            await until(lambda: gateway.double.stats.running == 12)
            os.killpg(gateway.process.pid, number)  # as a terminal does
            gateway.double.holding = False
            assert [answer.status_code for answer in await asking] == [200] * 12
        assert await asyncio.to_thread(gateway.process.wait, 60) == 0
