"""What a key may spend a day: reserved before, settled after, kept through restarts and kills."""

import asyncio
import json
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.serving import ASK, NUMBERS, serving, settings_for
from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tts.errors import ConfigError
from tts.gateway import GatewaySettings
from tts.gateway.admission import hashed
from tts.gateway.service import Gateway
from tts.sampler.transport import Reply, Request

RIGHT = solvable({}, otherwise=1.0)
KEY = "tts-alice"
BEARER = {"authorization": f"Bearer {KEY}"}
VOTE = f"self_consistency:n=8,{NUMBERS}@qwen"


def keys(**caps: Any) -> dict[str, Any]:
    return {"alice": {"sha256": hashed(KEY), **caps}}


def counted(tokens: dict[str, int]) -> Any:
    """An endpoint whose server counts the same `tokens` for each choice, cut at its limit, and what it has counted."""
    spent = {"tokens": 0, "requests": 0, "running": 0, "longest": 0}

    async def answer(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": "m"}]})
        body = request.json()
        await asyncio.sleep(0.05)
        limit = min(body.get(name) or 10**9 for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"))
        written = min(limit, tokens["completion"]) * body.get("n", 1)
        spent["tokens"] += tokens["prompt"] + written
        spent["requests"] += 1
        usage = {"prompt_tokens": tokens["prompt"], "completion_tokens": written}
        message = {"role": "assistant", "content": "Answer: 42"}
        choices = [{"index": i, "message": message, "finish_reason": "stop"} for i in range(body.get("n", 1))]
        return Reply.json({"choices": choices, "usage": usage})

    return {"model": "m", "base_url": "mock://m", "transport": answer}, spent


@pytest.mark.parametrize(
    "fields", [{}, {"max_tokens": 20}, {"max_completion_tokens": 7}, {"n": 3, "max_tokens": 4}, {"model": VOTE}]
)
@pytest.mark.parametrize(("cap", "many"), [(100, 40), (1000, 200)])
async def test_two_hundred_at_once_spend_no_more_than_the_day_has(cap: int, many: int, fields: dict[str, Any]):
    """Each takes 15 tokens or more, so the day has enough for a third of them at most."""
    endpoint, spent = counted({"prompt": 11, "completion": 9})  # the prompt is no longer than it is estimated
    async with ModelDouble() as double, serving(double, endpoint=endpoint, keys=keys(tokens_per_day=cap)) as served:
        served.http.headers.update(BEARER)
        answers = await asyncio.gather(*(served.chat(**fields) for _ in range(many)))
        assert {answer.status_code for answer in answers} <= {200, 429}
        assert spent["requests"] > 0
        assert spent["tokens"] <= cap
        (caller,) = served.gateway.callers
        assert caller.quota is not None
        assert caller.quota.spent[0] == spent["tokens"]
        assert caller.quota.reserved.samples == 0
        while (answer := await served.chat(**fields)).status_code == 200:  # what was reserved is free again
            assert spent["tokens"] <= cap
        assert answer.status_code == 429
        assert spent["tokens"] <= cap


WORDS = "word " * 400
CALLED = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"x": WORDS})}}
WIDE = {
    "type": "function",
    "function": {"name": "f", "parameters": {"properties": {WORDS[:i]: {} for i in range(100)}}},
}


@pytest.mark.parametrize("model", ["qwen", "single@qwen"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"max_tokens": 5, "max_completion_tokens": 10**5}),
        ("chat/completions", {"max_tokens": 10**5, "max_completion_tokens": 5}),
        ("chat/completions", {"max_tokens": -1}),
        ("chat/completions", {"n_predict": 10**5, "max_tokens": 5}),
        ("chat/completions", {"n_predict": -1}),
        ("chat/completions", {"best_of": 50, "max_tokens": 9}),
        ("chat/completions", {"n": 50}),
        ("chat/completions", {"n": 10**400}),
        ("chat/completions", {"max_tokens": 10**400}),
        ("chat/completions", {"N": 50}),
        ("chat/completions", {"max_tokens": 5, "Max_Tokens": 10**5}),
        ("chat/completions", {"max_to\u212aen\u017f": 10**5}),
        ("responses", {"MAX_OUTPUT_TOKENS": 10**5}),
        ("chat/completions", {"n": 50.0}),
        ("chat/completions", {"n": "50"}),
        ("chat/completions", {"max_tokens": "50"}),
        ("chat/completions", {"extra_body": {"max_completion_tokens": 10**5}}),
        ("chat/completions", {"messages": [*ASK, {"role": "assistant", "tool_calls": [CALLED]}], "max_tokens": 5}),
        ("chat/completions", {"tools": [WIDE] * 20, "max_tokens": 5}),
        ("completions", {"prompt": [WORDS] * 3, "max_tokens": 5}),
        ("completions", {"prompt": [[1] * 500] * 3, "max_tokens": 5}),
        ("responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": WORDS}]}),
        ("responses", {"instructions": WORDS, "max_output_tokens": 5}),
        ("messages", {"system": WORDS, "max_tokens": 5}),
        ("embeddings", {"input": [WORDS] * 5}),
    ],
)
async def test_no_field_of_a_request_makes_it_cost_more_than_was_reserved(model: str, path: str, body: dict[str, Any]):
    """With a server that reads numbers as loosely, and lengths by as many names, as any does."""
    spent = 0

    async def answer(request: Request) -> Reply:
        nonlocal spent
        if request.method == "GET":
            return Reply.json({"data": [{"id": "m"}]})
        said = {name.casefold(): value for name, value in request.json().items()}  # as Go's servers do
        lengths = (said.get(name) for name in ("n_predict", "max_completion_tokens", "max_tokens", "max_output_tokens"))
        length = next((int(one) for one in lengths if one), 0)
        choices = max(int(said.get("n") or 1), int(said.get("best_of") or 1))
        read = [said.get(name) for name in ("messages", "prompt", "input", "instructions", "tools")]
        prompt = len(json.dumps([one for one in read if one])) // 8
        written = choices * (length if length > 0 else 10**6)
        spent += prompt + written
        usage = {"prompt_tokens": prompt, "completion_tokens": written}
        choice = {"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "stop"}
        return Reply.json({"choices": [choice], "usage": usage})

    endpoint = {"model": "m", "base_url": "mock://m", "transport": answer}
    given = {"input": "x"} if path == "responses" else {"prompt": "x"} if path == "completions" else {"messages": ASK}
    async with ModelDouble() as double, serving(double, endpoint=endpoint, keys=keys(tokens_per_day=300)) as served:
        asked = {"model": model, **given, **body}
        for _ in range(2):
            posts = (served.http.post(path, json=asked, headers=BEARER) for _ in range(20))
            assert all(answer.status_code < 500 for answer in await asyncio.gather(*posts))
        assert spent <= 300


async def test_what_only_reads_is_held_to_a_cap_on_money():
    async def answer(request: Request) -> Reply:
        usage = {"prompt_tokens": 1000, "total_tokens": 1000}
        return Reply.json({"usage": usage, "data": [{"id": "m", "embedding": []}]})

    card = {"prompt_price_per_million": 1, "completion_price_per_million": 0}
    endpoint = {"model": "m", "base_url": "mock://m", "card": card, "transport": answer}
    async with ModelDouble() as double, serving(double, endpoint=endpoint, keys=keys(money_per_day=0.0025)) as served:
        body = {"model": "qwen", "input": "x" * 4000}
        answers = [served.http.post("embeddings", json=body, headers=BEARER) for _ in range(9)]
        assert sorted(one.status_code for one in await asyncio.gather(*answers)) == [200] * 2 + [429] * 7


async def test_money_is_reserved_like_tokens():
    endpoint, spent = counted({"prompt": 11, "completion": 9})
    card = {"prompt_price_per_million": 1000, "completion_price_per_million": 1000}
    given = keys(money_per_day=0.3)
    async with ModelDouble() as double, serving(double, endpoint={**endpoint, "card": card}, keys=given) as served:
        served.http.headers.update(BEARER)
        await asyncio.gather(*(served.chat(max_tokens=9) for _ in range(100)))
        assert 250 < spent["tokens"] <= 300


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("chat/completions", {"messages": ASK}, "max_tokens"),
        ("chat/completions", {"messages": ASK, "max_completion_tokens": 900}, "max_completion_tokens"),
        ("completions", {"prompt": "What is 6 times 7?"}, "max_tokens"),
        ("responses", {"input": "What is 6 times 7?"}, "max_output_tokens"),
    ],
)
async def test_a_plain_answer_is_cut_where_the_day_ends(path: str, body: dict[str, Any], name: str):
    endpoint, sent = counted({"prompt": 5, "completion": 10**6})[0], list[dict[str, Any]]()

    async def answer(request: Request) -> Reply:
        if request.method == "POST":
            sent.append(request.json())
        return Reply.json({"usage": {"prompt_tokens": 5, "completion_tokens": 10}, "data": [{"id": "m"}]})

    endpoint["transport"] = answer
    async with ModelDouble() as double, serving(double, endpoint=endpoint, keys=keys(tokens_per_day=100)) as served:
        assert (await served.http.post(path, json={"model": "qwen", **body}, headers=BEARER)).status_code == 200
        assert 80 < sent[0][name] < 100
        assert len(sent[0].keys() & {"max_tokens", "max_completion_tokens", "max_output_tokens"}) == 1


async def test_failures_and_clients_that_leave_give_back_what_was_reserved():
    faults = [Fault(FaultKind.BAD_REQUEST)]
    async with ModelDouble(answer=RIGHT, faults=faults) as double:
        given = keys(tokens_per_day=10_000)
        async with serving(double, keys=given) as served:
            served.http.headers.update(BEARER)
            assert (await served.chat()).status_code == 400
            double.holding = True
            for model in ("qwen", VOTE):
                await served.left(model, double)
            await served.at_rest()
            (caller,) = served.gateway.callers
            assert caller.quota is not None
            async with asyncio.timeout(120):
                while caller.quota.reserved.samples:
                    await asyncio.sleep(0.01)
            assert caller.quota.reserved.completion_tokens == 0


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_the_file_keeps_it_through_restarts_and_is_for_its_owner_alone(tmp_path: Path):
    file = tmp_path / "gateway.quotas"
    given: dict[str, Any] = {"keys": keys(tokens_per_day=1000), "quotas": file}
    async with ModelDouble(answer=RIGHT) as double:
        used = 0
        for _ in range(3):
            async with serving(double, **given) as served:
                served.http.headers.update(BEARER)
                answer = await served.chat(max_tokens=50)
                used += answer.json()["usage"]["total_tokens"]
                (caller,) = served.gateway.callers
                assert caller.quota is not None
                assert caller.quota.spent[0] == used
                assert modes(tmp_path) == {0o600}
        with closing(sqlite3.connect(file)) as connection:
            row = connection.execute("SELECT key, tokens, reserved_tokens FROM spending").fetchone()
        assert row == ("alice", used, 0)


async def test_two_gateways_may_not_keep_one_file(tmp_path: Path):
    given: dict[str, Any] = {"keys": keys(tokens_per_day=1000), "quotas": tmp_path / "q"}
    async with ModelDouble(answer=RIGHT) as double, serving(double, **given):
        with pytest.raises(ConfigError, match="another gateway"):
            Gateway(settings_for(double, **given))


async def test_yesterday_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given: dict[str, Any] = {"keys": keys(tokens_per_day=100), "quotas": tmp_path / "q"}
    async with ModelDouble(answer=RIGHT) as double, serving(double, **given) as served:
        served.http.headers.update(BEARER)
        while (await served.chat(max_tokens=30)).status_code == 200:
            pass
        monkeypatch.setattr("tts.gateway.quotas.DAY", 1.0)  # another day number
        assert (await served.chat(max_tokens=30)).status_code == 200


def test_the_file_is_beside_the_settings(tmp_path: Path):
    path = tmp_path / "gateway.toml"
    path.write_text('[models.m]\nmodel = "m"\nbase_url = "http://127.0.0.1:1/v1"\n')
    assert GatewaySettings.read(path).quotas == tmp_path / "gateway.quotas"
    assert GatewaySettings.read(path, {"quotas": "elsewhere"}).quotas == Path("elsewhere")
