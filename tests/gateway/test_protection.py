"""Who may come in, and what nobody may do."""

import asyncio
import gc
import json
import logging
import os
import random
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import Field

from tests.gateway.serving import ASK, NUMBERS, answered_by, serving, settings_for
from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tts import registry
from tts.base import Strategy, StrategyField
from tts.errors import ConfigError
from tts.gateway import GatewaySettings
from tts.gateway.admission import hashed, new_key
from tts.sampler.transport import Reply, Request
from tts.strategies.single import Single

RIGHT = solvable({}, otherwise=1.0)
KEY, OTHER = "tts-alice", "tts-bob"
NUMBERED = f"self_consistency:n=2,{NUMBERS}@qwen"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("wrong"), bearer(hashed(KEY)), {"authorization": f"Basic {KEY}"}, {"api-key": KEY}],
)
async def test_no_key_or_a_wrong_one_is_refused_before_anything_is_done(headers: dict[str, str]):
    async with ModelDouble(answer=RIGHT) as double, serving(double, keys={"alice": {"sha256": hashed(KEY)}}) as served:
        body = {"model": "qwen", "messages": ASK}
        answer = await served.http.post("/chat/completions", json=body, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["type"] == "authentication_error"
        assert (await served.http.get("/models", headers=headers)).status_code == 401
        assert "alice" not in answer.text
        assert double.stats.received == 0


async def test_a_good_key_lets_in_and_goes_no_further():
    async with ModelDouble(answer=RIGHT, api_key="upstream") as double:
        settings = {"keys": {"alice": {"sha256": hashed(KEY)}}, "endpoint": {"api_key": "upstream"}}
        async with serving(double, **settings) as served:
            for model in ("qwen", "single@qwen"):
                body = {"model": model, "messages": ASK}
                answer = await served.http.post("/chat/completions", json=body, headers=bearer(KEY))
                assert answer.status_code == 200
            seen = [request.headers["authorization"] for request in double.requests]
            assert set(seen) == {"Bearer upstream"}


async def test_keys_are_random_and_only_their_hash_is_configured():
    (one, digest), (other, _) = new_key(), new_key()
    assert one != other
    assert hashed(one) == digest
    assert one not in digest


PRICED = {"prompt_price_per_million": 1000, "completion_price_per_million": 2000}


async def test_money_per_day_binds_in_the_unit_of_the_prices():
    async with ModelDouble(answer=RIGHT) as double:
        keys = {"alice": {"sha256": hashed(KEY), "money_per_day": 0.2}}
        async with serving(double, keys=keys, endpoint={"card": PRICED}) as served:
            served.http.headers.update(bearer(KEY))
            paid = 0.0
            while (answer := await served.chat()).status_code == 200:
                usage = answer.json()["usage"]
                paid += (usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1000
                assert paid < 1
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
            assert paid >= 0.2
            (caller,) = served.gateway.callers
            assert caller.money == pytest.approx(paid)


def test_a_cap_on_money_without_prices_is_refused_at_the_start():
    """Also where a judge or one of several models lacks them; a key that cannot use that model may have one."""

    def settings(**tables: Any) -> GatewaySettings:
        free = {"base_url": "http://127.0.0.1:1/v1"}
        models = {"paid": {**free, "card": PRICED}, "free": free, "judged": {**free, "card": PRICED, "judge": free}}
        presets = {"two": {"strategy": "single", "model": "paid"}, "any": {"strategy": "single"}}
        return GatewaySettings.parse({"models": models, "presets": presets, **tables})

    def key(**fields: Any) -> dict[str, Any]:
        return {"keys": {"alice": {"sha256": hashed(KEY), "money_per_day": 5, **fields}}}

    for tables, named in (
        (key(), "keys.alice.money_per_day needs prices for: models.free.policy, models.judged.judge"),
        (key(models=["paid", "judged"]), "models.judged.judge"),
        (key(models=["any"]), "models.free.policy"),
        ({"budget": {"money": 1}}, "budget.money needs prices"),
        ({"presets": {"x": {"strategy": "single", "model": "free", "budget": {"money": 1}}}}, "presets.x.budget.money"),
    ):
        with pytest.raises(ConfigError, match=re.escape(named)):
            settings(**tables)
    assert settings(**key(models=["paid", "two"])).keys["alice"].money_per_day == 5


async def test_a_spent_day_is_429_and_tells_when_to_come_back():
    async with ModelDouble(answer=RIGHT) as double:
        keys = {"alice": {"sha256": hashed(KEY), "tokens_per_day": 200}}
        async with serving(double, keys=keys) as served:
            served.http.headers.update(bearer(KEY))
            used = 0
            while (answer := await served.chat()).status_code == 200:
                used += answer.json()["usage"]["total_tokens"]
                assert used < 1000
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "insufficient_quota"
            assert 0 < int(answer.headers["retry-after"]) <= 86_400
            assert used >= 200


async def test_a_strategy_stays_within_what_is_left_of_the_day():
    async with ModelDouble(answer=RIGHT) as double:
        keys = {"alice": {"sha256": hashed(KEY), "tokens_per_day": 300}}
        async with serving(double, keys=keys, endpoint={"max_n": 1}) as served:
            served.http.headers.update(bearer(KEY))
            answer = await served.chat(f"self_consistency:n=64,{NUMBERS}", max_tokens=60)
            assert answer.status_code == 200
            assert double.stats.received <= 5  # of 64; their prompts are known by estimate only


async def test_rates_and_concurrency_of_a_key():
    async with ModelDouble(answer=RIGHT) as double:
        keys = {
            "alice": {"sha256": hashed(KEY), "requests_per_minute": 2},
            "bob": {"sha256": hashed(OTHER), "running": 2},
        }
        async with serving(double, keys=keys) as served:
            for key in (KEY, OTHER):
                body, double.holding = {"model": "qwen", "messages": ASK}, True
                asked = [
                    asyncio.create_task(served.http.post("/chat/completions", json=body, headers=bearer(key)))
                    for _ in range(4)
                ]
                while sum(one.done() for one in asked) < 2 or double.stats.running < 2:
                    await asyncio.sleep(0.005)
                double.holding = False
                answers = await asyncio.gather(*asked)
                assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
                assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)


async def test_a_client_over_its_rate_is_refused_before_its_body_is_read():
    keys = {"alice": {"sha256": hashed(KEY), "running": 1}}
    async with ModelDouble(answer=RIGHT) as double, serving(double, keys=keys) as served:
        lines = ("POST /v1/chat/completions HTTP/1.1", "host: x", f"authorization: Bearer {KEY}", "content-length: 500")
        head = "\r\n".join([*lines, "", ""])
        _, first = await served.connect()
        first.write(head.encode())  # and not yet its body
        (caller,) = served.gateway.callers
        while not caller.running:
            await asyncio.sleep(0.005)
        reader, second = await served.connect()
        second.write(head.encode())
        assert b" 429 " in await asyncio.wait_for(reader.readline(), 120)
        for writer in (first, second):
            writer.close()
        async with asyncio.timeout(120):
            while (
                await served.http.post(
                    "/chat/completions", json={"model": "qwen", "messages": ASK}, headers=bearer(KEY)
                )
            ).status_code == 429:
                await asyncio.sleep(0.05)


async def test_a_key_may_be_for_some_models_only():
    keys = {"alice": {"sha256": hashed(KEY), "models": ["coder"]}}
    presets = {"coder": {"strategy": f"self_consistency:n=2,{NUMBERS}"}}
    async with ModelDouble(answer=RIGHT) as double, serving(double, keys=keys, presets=presets) as served:
        served.http.headers.update(bearer(KEY))
        assert (await served.chat("coder")).status_code == 200
        assert (await served.chat("qwen")).status_code == 403
        assert (await served.chat("single@qwen")).status_code == 403
        assert (await served.chat("coder@qwen")).status_code == 403  # chooses the model itself
        assert (await served.chat("coder", tts={"models": {"judge": "qwen"}})).status_code == 403
        assert [one["id"] for one in (await served.http.get("/models")).json()["data"]] == ["coder"]


async def test_too_large_and_too_slow_requests():
    async with ModelDouble(answer=RIGHT) as double, serving(double, limits={"body_bytes": 1000}) as served:
        assert (await served.chat(messages=[{"role": "user", "content": "x" * 2000}])).status_code == 413

        async def pieces():
            for _ in range(30):
                yield b"x" * 100

        assert (await served.http.post("/chat/completions", content=pieces())).status_code == 413
        assert double.stats.received == 0
    async with ModelDouble(answer=RIGHT) as double, serving(double, limits={"body_seconds": 0.2}) as served:
        reader, writer = await served.connect()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{")
        assert b" 408 " in await reader.readline()
        writer.close()
        assert double.stats.received == 0


async def test_large_bodies_are_bounded_together_and_keep_out_no_small_ones():
    keys = {name: {"sha256": hashed(name)} for name in ("greedy", "other")}
    large = {"model": "qwen", "messages": [{"role": "user", "content": "x" * 300_000}]}
    async with (
        ModelDouble(answer=RIGHT, latency=0.5, max_model_len=2**20) as double,
        serving(double, keys=keys, limits={"bodies_bytes": 1_300_000}) as served,
    ):

        async def asked(key: str, body: dict[str, Any]) -> int:
            headers = {"authorization": f"Bearer {key}"}
            return (await served.http.post("/chat/completions", json=body, headers=headers)).status_code

        greedy = asyncio.gather(*(asked("greedy", large) for _ in range(5)))
        while double.stats.running < 2:
            await asyncio.sleep(0.01)
        small = {"model": "qwen", "messages": ASK}
        assert await asyncio.gather(asked("greedy", small), asked("other", small), asked("other", large)) == [200] * 3
        assert sorted(await greedy) == [200, 200, 429, 429, 429]
        assert await asked("greedy", large) == 200
        assert not served.gateway._bodies.taken


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-slow"])
async def test_a_client_that_does_not_send_a_request_is_disconnected(sent: bytes):
    async with ModelDouble() as double, serving(double, limits={"client_seconds": 0.1}) as served:
        reader, writer = await served.connect()
        writer.write(sent)
        async with asyncio.timeout(120):
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


async def test_a_stream_that_nobody_reads_is_given_up():
    ended = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"data: " + b"x" * 65_536 + b"\n\n"
                await asyncio.sleep(0)
        finally:
            ended.set()

    async def answer(request: Request) -> Reply:
        events = endless()
        return Reply(200, events, {"content-type": "text/event-stream"}, events.aclose)

    endpoint = {"base_url": "mock://m", "transport": answer}
    async with (
        ModelDouble() as double,
        serving(double, limits={"client_seconds": 0.2}, endpoint=endpoint) as served,
    ):
        _, writer = await served.connect()
        body = json.dumps({"model": "qwen", "messages": ASK, "stream": True})
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()
        )
        async with asyncio.timeout(120):
            await ended.wait()  # the model server need not go on
        await served.at_rest()
        writer.close()


async def test_what_outlasts_the_drain_is_told_so():
    async with (
        ModelDouble(answer=RIGHT, latency=600.0) as double,
        serving(double, limits={"drain_seconds": 1}) as served,
    ):
        asked = [asyncio.create_task(served.chat(NUMBERED)), asyncio.create_task(served.chat("qwen"))]
        streamed = asyncio.create_task(served.chat(NUMBERED, stream=True))
        while double.stats.running < 3:
            await asyncio.sleep(0.01)
        served.server.should_exit = True
        for answer in await asyncio.gather(*asked):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "stopping"
        assert '"code": "stopping"' in (await streamed).text
        async with asyncio.timeout(120):
            await double.idle()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"model": {"a": 1}}', b'{"model": null}'],
)
async def test_what_is_no_request_is_400(content: bytes):
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        answer = await served.http.post("/chat/completions", content=content)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]


WRONG = [
    ("nothing", None, 404, "best_of_n"),
    ("nothing@qwen", None, 400, "best_of_n"),
    ("best_of_n@nowhere", None, 404, "qwen"),
    ("best_of_n:m=3@qwen", None, 400, "Parameters: verifier, policies, n, stop"),
    ("best_of_n:n=3@qwen", None, 400, "needs a verifier"),
    ("best_of_n:n=0,verifier=regex@qwen", None, 400, "Parameters"),
    ("self_consistency:n=100000@qwen", None, 400, "at most 256"),
    ("../../etc/passwd@qwen", None, 400, "strategies"),
    ("single@qwen@qwen", None, 400, ""),
    ("qwen", {"strategy": "single", "wish": 1}, 400, "tts has: strategy"),
    ("qwen", {"details": True}, 400, "needs a strategy"),
    ("single@qwen", {"strategy": "single"}, 400, "twice"),
    ("qwen", {"strategy": "single", "models": {"judge": "http://elsewhere/v1"}}, 400, "available: qwen"),
    ("qwen", {"strategy": "single", "base_url": "http://elsewhere/v1"}, 400, "tts has"),
    ("qwen", "first_pass:verifier=unit_tests", 403, "run_code"),
    ("qwen", {"strategy": "first_pass", "tests": {"asserts": ["1"]}}, 403, "run_code"),
    ("qwen", "first_pass:verifier=all_of(verifiers=[unit_tests])", 403, "run_code"),
    (
        "qwen",
        {"strategy": "first_pass", "verifier": "json_schema:definition=/etc/passwd"},
        400,
        "not the name of a file",
    ),
    ("qwen", {"strategy": 'first_pass:verifier="json_schema:definition=/etc/passwd"'}, 400, "not the name of a file"),
    ("qwen", {"strategy": "first_pass", "verifier": "oracle"}, 400, "oracle"),
    ("qwen", {"strategy": "self_consistency", "answer": "python_expr:expression=answer"}, 403, "run_code"),
    ("qwen", {"strategy": "self_consistency", "answer": "behaviour"}, 403, "run_code"),
    ("qwen", "self_consistency:answer=behaviour(mutants=4)", 403, "run_code"),
    ("qwen", {"strategy": "self_consistency", "answer": "judge"}, 400, "reads no answers"),
    ("qwen", {"strategy": "../../etc/passwd"}, 400, "strategies"),
    ("qwen", {"strategy": "best_of_n", "verifier": {"name": "outcome_reward"}}, 400, "needs a model for: reward"),
    ("qwen", 17, 400, "tts"),
]


@pytest.mark.parametrize(("model", "tts", "status", "words"), WRONG)
async def test_what_cannot_be_chosen_is_refused_with_what_exists(model: str, tts: object, status: int, words: str):
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        answer = await served.chat(model, **({} if tts is None else {"tts": tts}))
        assert answer.status_code == status, answer.text
        message = answer.json()["error"]["message"]
        assert words in message
        assert "root:" not in message
        assert "oracle" in words or double.stats.received == 0


class Filing(Strategy):
    """A plug-in of somebody else's whose parameters are files."""

    name = "filing"
    files: tuple[Path, ...] = ()
    by_name: dict[str, Path] = Field(default_factory=dict)
    verifier_file: Path | None = None
    inner: StrategyField = Single()


async def test_no_parameter_of_a_request_names_a_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_registered", registry.registered())
    registry.register("strategies", Filing)
    groups: list[registry.Group] = ["strategies", "verifiers"]
    plugins = {(group, name): registry.load(group, name) for group in groups for name in registry.names(group)}
    of_files = [
        (group, name, field)
        for (group, name), plugin in plugins.items()
        for field, info in plugin.model_fields.items()
        if "Path" in str(info.annotation)
    ]
    assert {name for _, name, _ in of_files} >= {"atts", "atts_best", "atts_sync", "cascade", "route", "filing"}
    async with ModelDouble(answer=RIGHT) as double, serving(double, run_code=True) as served:
        for group, name, field in of_files:
            for value in ("/etc/passwd", ["/etc/passwd"], {"a": "/etc/passwd"}):
                named = {"name": name, field: value}
                outer = {"name": "filing", "inner": named} if group == "strategies" else "best_of_n"
                for one in (named, outer) if group == "strategies" else ({"name": "best_of_n", "verifier": named},):
                    answer = await served.chat(tts={"strategy": one})
                    assert answer.status_code == 400, answer.text
                    assert "a request may not name files" in answer.text or "must be" in answer.text
                    assert "root:" not in answer.text
        answer = await served.chat(tts={"strategy": "first_pass:verifier=unit_tests(preload=[this])"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_allowed")
        assert double.stats.received == 0


async def test_a_misspelt_role_is_refused_with_those_that_are_asked():
    spec = "best_of_n:n=2,verifier=judge"
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        for role in ("juge", "r" * 300, "policy"):
            answer = await served.chat(tts={"strategy": spec, "models": {role: "qwen"}})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tts.models")
            assert "roles: judge" in answer.text
        for role in ("judge", "embed"):
            assert (await served.chat(tts={"strategy": spec, "models": {role: "qwen"}})).status_code == 200


async def test_only_allowed_strategies_and_verifiers_may_be_chosen_and_presets_may_do_more():
    settings = {
        "strategies": "self_consistency",
        "verifiers": ["regex", "numeric_answer"],
        "presets": {"coder": {"strategy": "best_of_n:n=2,verifier=mean_logprob", "budget": {"requests": 3}}},
    }
    async with ModelDouble(answer=RIGHT) as double, serving(double, **settings) as served:
        assert (await served.chat("single@qwen")).status_code == 403
        weighted = f"self_consistency:n=2,{NUMBERS},weighted=true,verifier=mean_logprob@qwen"
        assert (await served.chat(weighted)).status_code == 403
        assert (await served.chat(f"self_consistency:n=2,{NUMBERS}@qwen")).status_code == 200
        assert (await served.chat("coder")).status_code == 200
        assert (await served.chat("coder:n=99")).status_code in (400, 404)


async def test_presets_cap_what_a_request_costs():
    presets = {"frugal": {"strategy": f"self_consistency:n=32,{NUMBERS}", "budget": {"requests": 3}}}
    async with (
        ModelDouble(answer=RIGHT) as double,
        serving(double, presets=presets, endpoint={"max_n": 1}) as served,
    ):
        answer = await served.chat("frugal", tts={"details": True, "budget": {"requests": 30}})
        assert answer.json()["tts"]["ended"] in ("budget", "settled")
        assert double.stats.received <= 3


async def test_the_best_so_far_is_given_at_the_deadline():
    def latency(body: dict, index: int) -> float:
        return 0.01 if double.stats.received <= 2 else 600.0

    async with (
        ModelDouble(answer=RIGHT, latency=latency) as double,
        serving(double, endpoint={"max_n": 1}) as served,
    ):
        tts = {"strategy": f"self_consistency:n=6,{NUMBERS}"}
        for deadline in (0.5, 4.0, 20.0):  # on a busy machine nothing has come by the first
            double.reset()
            answer = await served.chat("qwen", tts={**tts, "deadline": deadline})
            await double.idle()
            if answer.status_code == 200:
                break
        assert answer.headers["x-tts-ended"] == "deadline"
        assert answer.json()["choices"][0]["message"]["content"].endswith("Answer: 42")
        double.latency = 600.0
        assert (await served.chat("qwen", tts={**tts, "deadline": 0.1})).status_code == 504


async def test_a_full_queue_is_429_with_retry_after():
    async with (
        ModelDouble(answer=RIGHT, latency=0.2) as double,
        serving(double, limits={"running": 2, "queue": 3}) as served,
    ):
        answers = await asyncio.gather(*(served.chat(stream=bool(i % 2)) for i in range(8)))
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [429] * 3
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)
        assert double.stats.peak_running == 2


@pytest.mark.parametrize("kind", [FaultKind.UNAUTHORIZED, FaultKind.RESET, FaultKind.NOT_JSON])
@pytest.mark.parametrize("model", ["qwen", "single@qwen"])
async def test_secrets_and_places_are_never_told(kind: FaultKind, model: str):
    endpoint = {"api_key": "upstream-secret", "headers": {"x-k": "more-secret"}}
    async with (
        ModelDouble(answer=RIGHT, faults={Fault(kind): 1.0}) as double,
        serving(double, endpoint=endpoint) as served,
    ):
        answer = await served.chat(model, **({"tts": {"details": True}} if "@" in model else {}))
        assert answer.status_code in (401, 502)
        told = answer.text + str(answer.headers)
        assert "secret" not in told
        assert str(double.port) not in told


@pytest.mark.parametrize("model", ["qwen", NUMBERED])
async def test_secrets_are_not_logged(model: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]):
    caplog.set_level(logging.DEBUG)
    settings = {"endpoint": {"api_key": "upstream-secret"}, "keys": {"alice": {"sha256": hashed(KEY)}}}
    async with ModelDouble(api_key="another", answer=RIGHT) as double, serving(double, **settings) as served:
        for key in (KEY, OTHER):
            body = {"model": model, "messages": ASK}
            answer = await served.http.post("/chat/completions", json=body, headers=bearer(key))
            assert answer.status_code == 401
        served.gateway.gate.check = None  # pyright: ignore[reportAttributeAccessIssue]  # a failure of its own
        caplog.clear()
        answer = await served.http.post("/chat/completions", json=body, headers=bearer(KEY))
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"
        assert "TypeError" not in answer.text
        assert "TypeError" in caplog.text  # for the operator
    said = caplog.text + "".join(capfd.readouterr())
    assert not any(secret in said for secret in ("upstream-secret", KEY, OTHER, hashed(KEY), "6 times 7"))


@pytest.mark.parametrize("name", ["../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "coder/../../x", "x%00y"])
async def test_names_lead_nowhere(name: str):
    async with (
        ModelDouble(answer=RIGHT) as double,
        serving(double, presets={"coder": {"strategy": "single"}}) as served,
    ):
        assert (await served.chat(name)).status_code == 404
        reader, writer = await served.connect()
        writer.write(f"GET /v1/models/{name} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answered = await reader.read()
        assert b" 404 " in answered.splitlines()[0]
        assert b"root:" not in answered
        writer.close()
        assert (await served.http.get("/models/coder")).json()["id"] == "coder"
        assert double.stats.received == 0


async def test_headers_cannot_be_smuggled_in():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        answer = await served.chat("single@qwen\r\nx-evil: 1")
        assert answer.status_code == 404
        assert "x-evil" not in answer.headers
        reader, writer = await served.connect()
        body = json.dumps({"model": "qwen", "messages": ASK}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-forwarded-host: evil\r\ncontent-length: {len(body)}"
        writer.write(head.encode() + b"\r\nauthorization: Bearer mine\r\nx-upstream: http://evil/v1\r\n\r\n" + body)
        assert b" 200 " in await reader.readline()
        writer.close()
        assert not {"x-forwarded-host", "authorization", "x-upstream"} & set(double.requests[-1].headers)


LINES = "a\r\nx-evil: 1\r\n\r\n<b>\0\x1b[2Jé\u2028" + "x" * 10_000


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["qwen", "single@qwen"])
async def test_what_headers_repeat_of_a_request_ends_none(model: str, stream: bool):
    tools = [{"name": "f", "input_schema": {}, LINES: 1}]
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        body = {"model": model, "messages": ASK, "max_tokens": 9, "tools": tools, "stream": stream}
        answer = await served.http.post("/messages", json=body)
        assert (answer.status_code, "x-evil" in answer.headers) == (200, False)
        assert answer.headers["x-tts-ignored"].startswith("tools.a??x-evil: 1")


@pytest.mark.parametrize("model", ["qwen", "single@qwen"])
async def test_what_the_log_repeats_of_a_request_is_no_line_of_its_own(model: str, caplog: pytest.LogCaptureFixture):
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        told = json.loads(await request.read() or b"{}").get("user")
        return web.json_response({"error": {"message": f"no user {told}"}}, status=400)

    async with answered_by(answer) as upstream, serving(upstream) as served:
        assert (await served.chat(model, user=LINES)).status_code == 400
        said = [record.getMessage() for record in caplog.records if record.name == "tts"]
        assert any("no user a" in one and "x-evil" in one for one in said)
        assert all(one.isprintable() and len(one) < 2000 for one in said)


async def test_labels_of_metrics_come_from_the_configuration_alone():
    presets = {"coder": {"strategy": "single"}}
    async with ModelDouble(answer=RIGHT) as double, serving(double, presets=presets) as served:
        for place in range(20):
            named = f"best_of_n:n={place + 1},verifier=regex(pattern=4)@qwen"
            for model in ("coder", "qwen", f"nobody{place}", named, "single@qwen"):
                await served.chat(model, user=f"u{place}", tts={"models": {f"role{place}": "qwen"}})
                await served.chat(model, user=f"u{place}")
                await served.http.post("/embeddings", json={"model": model, "input": "x"})
            await served.http.get(f"/nothing/{place}")
        told = (await served.gateway.metrics.text()).decode()
    names = {word for line in told.splitlines() for word in re.findall(r'(?:name|role|key)="([^"]*)"', line)}
    assert names == {"none", "coder", "qwen", "single", "best_of_n", "policy", "anybody"}


HEADS = {
    "a long URL": b"GET /",
    "a long name": b"GET / HTTP/1.1\r\nhost: x\r\n",
    "a long value": b"GET / HTTP/1.1\r\nhost: x\r\nx: ",
    "many headers": b"GET / HTTP/1.1\r\nhost: x\r\n",
    "many trailers": b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n",
    "a long trailer": b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nx: ",
}


@pytest.mark.parametrize("name", HEADS)
async def test_a_head_without_end_is_not_read(name: str):
    """Before anybody knows whose it is."""
    piece = b"a: b\r\n" * 2_000 if "many" in name else b"x" * 12_000
    async with ModelDouble() as double, serving(double) as served:
        reader, writer = await served.connect()
        writer.write(HEADS[name])
        sent = 0
        with suppress(ConnectionError):
            while sent < 2**24:
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
                await asyncio.sleep(0)
        assert sent < 2**24, "the connection is closed"
        with suppress(ConnectionError):
            assert b" 431 " in await reader.read() or "trailer" in name
        writer.close()
        assert (await served.chat("qwen", user="x" * 2**19)).status_code == 200, "bodies may be long"


@pytest.mark.parametrize("name", ["../x", "a/b", "a@b", "a:b", "", "é", "x" + chr(0)])
def test_presets_have_plain_names(name: str):
    double = ModelDouble(port=1)
    with pytest.raises(ConfigError, match="presets"):
        settings_for(double, presets={name: {"strategy": "single"}})


def _descriptors() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.mark.parametrize("model", ["qwen", f"self_consistency:n=4,{NUMBERS}@qwen"])
async def test_clients_that_leave_at_any_moment_leave_nothing_behind(model: str):
    chance = random.Random(0)
    async with ModelDouble(answer=RIGHT, latency=(0.0, 0.3)) as double, serving(double) as served:
        await served.chat(model)
        await served.at_rest()
        tasks, files = len(asyncio.all_tasks()), _descriptors()

        async def leave(i: int, latest: float) -> None:
            _, writer = await served.connect()
            body = json.dumps({"model": model, "messages": ASK, "stream": bool(i % 2)})
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write((head + body).encode())
            await asyncio.sleep(chance.random() * latest)
            writer.transport.abort()

        for latest in (0.4, 0.4, 2.0, 10.0):
            if latest > 0.4 and double.stats.cancelled:
                break  # only on a busy machine do all of the first leave before they are heard
            await asyncio.gather(*(leave(i, latest) for i in range(100)))
            await served.at_rest()
            async with asyncio.timeout(120):
                await double.idle()
        assert double.stats.cancelled > 0
        sampler = served.gateway.offer.models["qwen"]["policy"]
        assert [replica.in_flight for replica in sampler.connection.pool.replicas] == [0]
        assert (await served.chat(model)).status_code == 200
        await served.at_rest()
        gc.collect()
        async with asyncio.timeout(120):  # connections are closed a moment later
            while len(asyncio.all_tasks()) > tasks + 3 or _descriptors() > files + 20:
                await asyncio.sleep(0.02)


async def test_a_client_that_leaves_stops_generation_at_once():
    async with ModelDouble(answer=RIGHT, latency=600.0) as double, serving(double) as served:
        for model in ("qwen", "single@qwen", f"self_consistency:n=8,{NUMBERS}@qwen"):
            await served.left(model, double)
            await served.at_rest()
        assert double.stats.served == 0
        metrics = (await served.http.get(served.base_url.removesuffix("/v1") + "/metrics")).text
        assert 'tts_requests_total{name="qwen",status="499"} 1.0' in metrics


async def test_health_readiness_and_metrics():
    async with ModelDouble(answer=RIGHT) as double:
        async with serving(double) as served:
            root = served.base_url.removesuffix("/v1")
            assert (await served.http.get(f"{root}/healthz")).status_code == 200
            assert (await served.http.get(f"{root}/readyz")).status_code == 200
            await served.chat(f"self_consistency:n=4,{NUMBERS}")
            text = (await served.http.get(f"{root}/metrics")).text
            generated = 'tts_tokens_total{kind="completion",name="self_consistency",role="policy"}'
            assert f"{generated} {float(double.stats.completion_tokens)}" in text
        with socket.socket() as closed:  # a port where nobody answers
            closed.bind(("127.0.0.1", 0))
            double.port, before = closed.getsockname()[1], double.port
            async with serving(double, endpoint={"connect_timeout": 1.0}) as served:
                root = served.base_url.removesuffix("/v1")
                assert (await served.http.get(f"{root}/healthz")).status_code == 200
                assert (await served.http.get(f"{root}/readyz")).status_code == 503
                assert (await served.chat()).status_code == 502
            double.port = before


async def test_those_who_ask_at_once_whether_it_is_ready_ask_its_models_once():
    asked, many = 0, asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        await many.wait()
        return web.json_response({"data": []})

    async with answered_by(answer) as upstream, serving(upstream) as served:
        asks = [asyncio.create_task(served.http.get(served.base_url[:-3] + "/readyz")) for _ in range(50)]
        while len(served.server.server_state.tasks) < 50:
            await asyncio.sleep(0.01)
        many.set()
        assert {one.status_code for one in await asyncio.gather(*asks)} == {200}
        before = asked
        assert before <= 2, "not once for each"
        await served.http.get(served.base_url[:-3] + "/readyz")
        assert asked == before + 1, "what was is not remembered"


async def test_the_api_description_has_every_endpoint_and_what_documents_its_fields():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        document = (await served.http.get(served.base_url.removesuffix("/v1") + "/openapi.json")).json()
        paths = {
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/responses",
            "/v1/models",
            "/healthz",
            "/readyz",
            "/metrics",
        }
        assert paths <= set(document["paths"])
        schemas = {name: one["properties"] for name, one in document["components"]["schemas"].items()}
        assert all("description" in one for one in schemas["RequestOptions"].values())
        assert schemas["RequestOptions"]["schema"]["description"] == "A JSON schema that the answer must satisfy."
        for body in ("Chat", "Completion", "CountTokens", "Messages", "Responses"):
            assert schemas[body]["model"]["description"] == "A model, a preset, or STRATEGY@MODEL."


def test_two_keys_may_not_be_the_same(tmp_path: Path):
    keys = {name: {"sha256": hashed(KEY)} for name in ("a", "b")}
    with pytest.raises(ConfigError, match="same key"):
        settings_for(ModelDouble(port=1), keys=keys)
