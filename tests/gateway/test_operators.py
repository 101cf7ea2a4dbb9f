"""What operators expect: ids and traces that pass through, models that stand in, pages, HTTPS, a new configuration."""

import asyncio
import json
import logging
import re
import shutil
import signal
import ssl
import subprocess
import threading
from collections import Counter
from itertools import count
from pathlib import Path
from time import sleep
from typing import Any

import httpx
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from tests.cli.conftest import start
from tests.gateway.serving import ASK, NUMBERS, answered_by, serving, settings_for
from tests.support import threaded
from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tts.errors import ConfigError
from tts.gateway.admission import Gate, hashed
from tts.gateway.exchange import APIError
from tts.gateway.reloading import reloading
from tts.gateway.settings import GatewaySettings
from tts.gateway.telemetry import TRACEPARENT, origin_of

RIGHT = solvable({}, otherwise=1.0)
VOTE = f"self_consistency:n=3,{NUMBERS}@qwen"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = {"traceparent": PARENT, "tracestate": "one=1,two=2"}
KINDS: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": ASK},
    "/completions": {"prompt": "[[p]] What is 6 times 7?"},
    "/responses": {"input": "[[p]] What is 6 times 7?"},
    "/messages": {"messages": ASK, "max_tokens": 100},
}


# -- ids and trace contexts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("model", ["qwen", VOTE])
@pytest.mark.parametrize("stream", [False, True])
async def test_ids_and_trace_contexts_go_to_the_model_and_back(path: str, model: str, stream: bool):
    body = {"model": model, "stream": stream, **KINDS[path]}
    said = map("Answer: {}".format, count())  # nothing is decided before all have answered
    async with (
        ModelDouble(answer=lambda request, rng: next(said)) as double,
        serving(double, endpoint={"max_n": 1}) as served,
    ):
        answer = await served.http.post(path, json=body, headers={"x-request-id": "order-7", **TRACE})
        unnamed = await served.http.post(path, json=body)
        calls = [one.headers for one in double.requests]
    assert answer.headers["x-request-id"] == "order-7"
    given = [one for one in calls if one["x-request-id"].startswith("order-7")]
    assert [one["traceparent"] for one in given] == [PARENT] * len(given)
    assert {one["tracestate"] for one in given} == {"one=1,two=2"}
    assert all(re.fullmatch(r"order-7-[0-9a-f]{12}(-\d)?", one["x-request-id"]) for one in given)
    made = [one for one in calls if one not in given]
    assert {re.sub(r"-\d$", "", one["x-request-id"]) for one in made} == {unnamed.headers["x-request-id"]}
    assert not any("traceparent" in one for one in made)
    ids = [one["x-request-id"] for one in calls]
    assert len(set(ids)) == len(ids) == (6 if model == VOTE else len(ids))  # servers refuse an id that is at work
    if path == "/messages":
        assert answer.headers["request-id"] == "order-7"


async def test_an_answer_of_any_kind_has_an_id_and_the_log_names_it(caplog: pytest.LogCaptureFixture):
    fault = Fault(FaultKind.SERVER_ERROR)
    async with ModelDouble(faults=lambda number, body: fault) as double, serving(double) as served:
        headers = {"x-request-id": "50%d-off"}
        with caplog.at_level(logging.WARNING, "tts"):
            failed = await served.http.post(
                "/chat/completions", json={"model": "qwen", "messages": ASK}, headers=headers
            )
        assert failed.headers["x-request-id"] == "50%d-off"
        assert any(record.getMessage().startswith("[50%d-off] ") for record in caplog.records)
        for path in ("/models", "/nothing", "/models/nothing"):
            assert (await served.http.get(path, headers=headers)).headers["x-request-id"] == "50%d-off"


@pytest.mark.parametrize("model", ["qwen", VOTE])
async def test_the_id_of_another_client_keeps_nobody_out(model: str):
    """Of a server that refuses an id that is at work, as vLLM does."""
    at_work = Counter[str]()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        body, id = json.loads(await request.read() or b"{}"), request.headers.get("x-request-id", "")
        at_work[id] += 1
        try:
            if at_work[id] > 1 and body:
                return web.json_response({"error": {"message": "this id is at work"}}, status=400)
            await asyncio.sleep(0.05)
        finally:
            at_work[id] -= 1
        choice = {"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    async with answered_by(answer) as upstream, serving(upstream, endpoint={"max_n": 1}) as served:
        asks = [
            served.http.post("/chat/completions", json={"model": model, "messages": ASK}, headers={"x-request-id": id})
            for id in ("order-7", "order-7-1", "order-7-2", "order-7", "order-7") * 2
        ]
        answers = await asyncio.gather(*asks)
    assert {(one.status_code, one.headers.get("x-tts-lost")) for one in answers} == {(200, None)}


@given(st.text(max_size=200), st.text(max_size=80) | st.from_regex(TRACEPARENT.pattern, fullmatch=True), st.text())
@settings(max_examples=200, deadline=None)
def test_whatever_headers_say_only_what_is_well_formed_goes_on(id: str, parent: str, state: str):
    given = {b"x-request-id": id, b"traceparent": parent, b"tracestate": state}
    raw = [(name, value.encode()) for name, value in given.items()]
    sent = origin_of(Headers(raw=raw)).headers()
    assert 0 < len(sent["x-request-id"]) <= 128
    assert all(value.isascii() for value in sent.values())
    assert "\n" not in sent["x-request-id"]
    if "traceparent" not in sent:
        assert "tracestate" not in sent


# -- models that stand in ------------------------------------------------------------------------------------------


OUTAGES: list[tuple[FaultKind | None, bool]] = [
    (None, True),  # the server is down
    (FaultKind.SERVER_ERROR, True),
    (FaultKind.UNAVAILABLE, True),
    (FaultKind.RATE_LIMITED, True),
    (FaultKind.RESET, True),
    (FaultKind.BAD_REQUEST, False),
    (FaultKind.CONTEXT_LENGTH, False),
    (FaultKind.UNAUTHORIZED, False),
]


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize(("kind", "falls"), OUTAGES)
async def test_a_model_stands_in_for_one_whose_server_fails(path: str, kind: FaultKind | None, falls: bool):
    faults = None if kind is None else lambda number, body: Fault(kind)
    async with ModelDouble(answer=RIGHT, faults=faults) as double, ModelDouble(answer=RIGHT) as other:
        second = {"model": "test-model", "base_url": other.base_url, "retry_wait": 0.005}
        down = {"base_url": "http://127.0.0.1:9/v1"} if kind is None else {}
        options = {"endpoint": {"max_attempts": 2, **down}, "fallbacks": {"qwen": ["small"]}}
        async with serving(double, models={"small": second}, **options) as served:
            for model, stream in (("qwen", False), ("qwen", True), (VOTE, False), (VOTE, True)):
                answer = await served.http.post(path, json={"model": model, "stream": stream, **KINDS[path]})
                assert (answer.status_code == 200) == falls
                assert answer.headers.get("x-tts-fallback") == ("small" if falls else None)
            metrics = (await served.http.get(served.base_url[:-3] + "/metrics")).text
        assert ('tts_fallbacks_total{by="small",model="qwen"} 4.0' in metrics) == falls
        assert bool(other.stats.served) == falls


async def test_a_stream_that_has_begun_does_not_fall():
    fault = Fault(FaultKind.STREAM_CUT)
    async with (
        ModelDouble(faults=lambda number, body: fault) as double,
        ModelDouble() as other,
    ):
        second = {"model": "test-model", "base_url": other.base_url}
        async with serving(double, models={"small": second}, fallbacks={"qwen": "small"}) as served:
            answer = await served.chat(stream=True)
            assert answer.status_code == 200
            assert "x-tts-fallback" not in answer.headers
            assert '"error"' in answer.text
            assert other.stats.received == 0


async def test_what_a_key_may_not_use_does_not_stand_in_and_its_day_counts_once():
    fault = Fault(FaultKind.SERVER_ERROR)
    async with ModelDouble(faults=lambda number, body: fault) as double, ModelDouble(answer=RIGHT) as other:
        second = {"model": "test-model", "base_url": other.base_url}
        keys = {
            "one": {"sha256": hashed("one"), "models": ["qwen"], "tokens_per_day": 10_000},
            "all": {"sha256": hashed("all"), "tokens_per_day": 10_000},
        }
        options = {"keys": keys, "fallbacks": {"qwen": "small"}, "endpoint": {"max_attempts": 1}}
        async with serving(double, models={"small": second}, **options) as served:
            for model in ("qwen", VOTE):
                for key, status in (("one", 500), ("all", 200)):
                    served.http.headers["authorization"] = f"Bearer {key}"
                    assert (await served.chat(model)).status_code == status
            await served.at_rest()
            spent = {caller.name: caller.tokens for caller in served.gateway.callers}
            assert spent["all"] == other.stats.prompt_tokens + other.stats.completion_tokens
            metrics = (await served.http.get(served.base_url[:-3] + "/metrics")).text
            assert 'tts_key_requests_total{key="all",status="200"} 2.0' in metrics
            assert (
                f'tts_key_tokens_total{{key="all",kind="completion"}} {float(other.stats.completion_tokens)}' in metrics
            )


@pytest.mark.parametrize(
    "fallbacks", [{"qwen": ["nothing"]}, {"nothing": ["qwen"]}, {"qwen": ["qwen"]}, {"qwen": "set"}]
)
def test_fallbacks_that_cannot_be_are_refused_at_the_start(fallbacks: Any):
    several = {"base_url": "http://x/v1", "policies": {"a": {"model": "a"}, "b": {"model": "b"}}}
    with pytest.raises(ConfigError, match="fallbacks"):
        settings_for(ModelDouble(port=1), fallbacks=fallbacks, models={"set": several})


# -- pages and HTTPS -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyed", [False, True])
async def test_the_pages_that_the_operator_names_may_ask_and_no_others(keyed: bool):
    keys = {"alice": {"sha256": hashed("alice")}} if keyed else {}
    async with (
        ModelDouble(answer=RIGHT) as double,
        serving(double, keys=keys, origins="https://ours.example") as served,
    ):
        served.http.headers["authorization"] = "Bearer alice"
        asked = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        for origin, welcome in (("https://ours.example", True), ("https://theirs.example", False)):
            before = await served.http.options("/chat/completions", headers={"origin": origin, **asked})
            assert (before.status_code == 200) == welcome
            assert before.headers.get("access-control-allow-origin") == (origin if welcome else None)
            body = {"model": "qwen", "messages": ASK}
            answer = await served.http.post("/chat/completions", json=body, headers={"origin": origin})
            assert answer.headers.get("access-control-allow-origin") == (origin if welcome else None)
            assert answer.status_code == (200 if welcome or keyed else 403)  # with keys, the browser withholds it
        wrong = await served.http.post("/chat/completions", json={}, headers={"origin": "https://ours.example"})
        assert (wrong.status_code, wrong.headers["access-control-allow-origin"]) == (400, "https://ours.example")


def test_all_pages_are_let_in_only_where_there_are_keys():
    with pytest.raises(ConfigError, match="origins"):
        settings_for(ModelDouble(port=1), origins="*")
    settings_for(ModelDouble(port=1), origins="*", keys={"alice": {"sha256": hashed("alice")}})


def certificate(folder: Path, number: int) -> None:
    """A self-signed certificate for this machine, as `cert.pem` and `key.pem`."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem"
    names = ["-subj", f"/CN=gateway-{number}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)


# -- a new configuration -------------------------------------------------------------------------------------------


def configuration(double: ModelDouble, *, name: str, caps: str, more: str = "") -> str:
    return (
        f'{more}\n[models.{name}]\nmodel = "test-model"\nbase_url = "{double.base_url}"\n'
        f'[keys.alice]\nsha256 = "{hashed("alice")}"\n{caps}\n'
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_a_new_configuration_drops_nobody(tmp_path: Path, workers: int):
    """Connections that are kept, streams under way, what keys have spent: all goes on."""
    with threaded.serving(answer=RIGHT, latency=0.02) as double:
        file = tmp_path / "gateway.toml"
        certificate(tmp_path, 1)
        tls = '[tls]\ncert = "cert.pem"\nkey = "key.pem"'
        file.write_text(configuration(double, name="old", caps="tokens_per_day = 1_000_000", more=tls))
        process = start("serve", "gateway.toml", "--port", 0, "--workers", workers, cwd=tmp_path)
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("export OPENAI_BASE_URL=").strip()
        assert url.startswith("https://")
        problems, answered, over = list[str](), list[str](), threading.Event()

        def client() -> httpx.Client:
            context = ssl.create_default_context(cafile=tmp_path / "cert.pem")
            return httpx.Client(base_url=url, timeout=120, verify=context, headers={"authorization": "Bearer alice"})

        def ask_on() -> None:
            with httpx.Client(
                base_url=url, timeout=120, verify=False, headers={"authorization": "Bearer alice"}
            ) as http:
                model = "old"
                while not over.is_set():
                    try:
                        answer = http.post("/chat/completions", json={"model": model, "messages": ASK, "stream": True})
                    except httpx.HTTPError as error:
                        problems.append(repr(error))
                        continue
                    if answer.status_code == 404 and model == "old":
                        model = "new"
                    elif answer.status_code == 200 and "[DONE]" in answer.text:
                        answered.append(model)
                    else:
                        problems.append(answer.text)

        asking = [threading.Thread(target=ask_on) for _ in range(6)]
        try:
            with client() as http:
                http.post("/chat/completions", json={"model": "old", "messages": ASK}).raise_for_status()
                for thread in asking:
                    thread.start()
                double.latency = lambda body, index: 2.0 if body.get("user") == "slow" else 0.02
                late: list[int] = []

                def slowly() -> None:
                    body = {"model": "old", "messages": ASK, "user": "slow"}
                    late.append(http.post("/chat/completions", json=body).status_code)

                slow = threading.Thread(target=slowly)
                slow.start()
                while not any(one.body.get("user") == "slow" for one in list(double.requests)):
                    assert process.poll() is None
                certificate(tmp_path, 2)
                file.write_text(configuration(double, name="new", caps="tokens_per_day = 1", more=tls))
                process.send_signal(signal.SIGHUP)
                slow.join(60)
                assert late == [200]
                with client() as another:  # who trusts the new certificate alone
                    answer = another.post("/chat/completions", json={"model": "new", "messages": ASK})
                    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
                    file.write_text(configuration(double, name="new", caps="", more=tls))
                    process.send_signal(signal.SIGHUP)
                    while another.post("/chat/completions", json={"model": "new", "messages": ASK}).status_code != 200:
                        assert process.poll() is None
                    seen = len(answered)
                    file.write_text("[models.broken")
                    process.send_signal(signal.SIGHUP)
                    while len(answered) < seen + 10:
                        assert process.poll() is None
        finally:
            over.set()
            for thread in asking:
                thread.join(60)
            process.terminate()
            _, said = process.communicate(timeout=120)
        problems = [one for one in problems if '"type": "rate_limit_error"' not in one]
        assert not problems, problems[:3]
        assert {"old", "new"} <= set(answered)
        assert "the gateway goes on as it was" in said


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_that_has_said_where_it_is_reads_its_configuration_again(tmp_path: Path, workers: int):
    file = tmp_path / "gateway.toml"
    file.write_text(configuration(ModelDouble(port=1), name="old", caps=""))
    process = start("serve", "gateway.toml", "--port", 0, "--workers", workers, cwd=tmp_path)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("export OPENAI_BASE_URL=").strip()
        file.write_text(configuration(ModelDouble(port=1), name="new", caps=""))
        process.send_signal(signal.SIGHUP)
        with httpx.Client(timeout=120, headers={"authorization": "Bearer alice"}) as http:
            while "new" not in http.get(f"{url}/models").text:
                assert process.poll() is None
                sleep(0.05)
    finally:
        process.terminate()
        process.communicate(timeout=120)
    assert process.returncode == 0


UNUSABLE = {
    "not UTF-8": b"\xff\xfe",
    "nested": b"a = " + b"[" * 20_000,
    "a number of many digits": b"a = " + b"9" * 5000,
    "of nothing": b"",
}


async def test_whatever_the_file_holds_the_next_one_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file, good, taken = tmp_path / "gateway.toml", '[models.m]\nbase_url = "http://127.0.0.1:1/v1"\n', asyncio.Event()

    async def reload(settings: GatewaySettings) -> None:
        taken.set()
        if settings.limits.running == 7:
            raise OSError("the disk is full")

    async def asked_for(content: bytes) -> None:
        file.write_bytes(content)
        signal.raise_signal(signal.SIGHUP)

    async with reloading(lambda: GatewaySettings.read(file), reload), asyncio.timeout(60):
        for content in (*UNUSABLE.values(), f"{good}[limits]\nrunning = 7".encode()):
            said = len(caplog.messages)
            await asked_for(content)
            while not any("the gateway goes on as it was" in one for one in caplog.messages[said:]):
                await asyncio.sleep(0.01)
        taken.clear()
        await asked_for(good.encode())
        await taken.wait()


async def test_what_is_under_way_keeps_its_model_and_old_models_are_closed():
    async with ModelDouble(answer=RIGHT, latency=0.5) as double, serving(double) as served:
        gateway, before = served.gateway, served.gateway.offer.models["qwen"]["policy"]
        asking = asyncio.create_task(served.chat(VOTE))
        while not double.stats.running:
            await asyncio.sleep(0.01)
        await gateway.reload(settings_for(double, endpoint={"max_concurrency": 7}))
        assert gateway.offer.models["qwen"]["policy"] is not before
        assert (await asking).status_code == 200
        kept = gateway.offer.models["qwen"]["policy"]
        await gateway.reload(settings_for(double, endpoint={"max_concurrency": 7}, models={}, budget={"requests": 5}))
        assert gateway.offer.models["qwen"]["policy"] is kept
        assert [one for _, one in gateway._samplers] == [kept]
        assert (await served.chat()).status_code == 200
        for changed in ({"trace": "elsewhere"}, {"tls": {"cert": "c.pem"}}, {"limits": {"drain_seconds": 1}}):
            with pytest.raises(ConfigError, match="restart"):
                await gateway.reload(settings_for(double, **changed))
        assert gateway.offer.models["qwen"]["policy"] is kept


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_a_gate_of_any_history_lets_in_what_it_was_last_told(steps: list[tuple[int, int]]):
    async def work() -> None:
        gate, inside, most = Gate(3, 0), list[Any](), 3
        for leave, most in steps:
            for room in inside[:leave]:
                await room.__aexit__(None, None, None)
            inside = inside[leave:]
            gate.resize(most, 0)
            if gate.running < most:
                inside.append(gate.room())
                await inside[-1].__aenter__()
        for room in inside:
            await room.__aexit__(None, None, None)
        rooms = [gate.room() for _ in range(most)]
        for room in rooms:
            await room.__aenter__()
        with pytest.raises(APIError, match="too many requests"):
            gate.check()
        for room in rooms:
            await room.__aexit__(None, None, None)

    asyncio.run(work())


def test_settings_whose_key_cannot_be_read_take_no_place(tmp_path: Path):
    model = {"model": "m", "base_url": "http://model/v1"}
    old = GatewaySettings.parse({"models": {"m": model}})
    new = GatewaySettings.parse({"models": {"m": model, "n": {**model, "api_key_file": str(tmp_path / "gone")}}})
    with pytest.raises(ConfigError, match="cannot read the API key file"):
        old.check_successor(new)
    old.check_successor(GatewaySettings.parse({"models": {"m": model, "n": model}}))
