"""What one client sends holds up nobody: each request is answered soon, and the event loop never stands still."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from tests.gateway.serving import ASK, serving, settings_for
from tests.support.double import ModelDouble
from tests.support.lag import MOST, standstill
from tts import registry
from tts.errors import ConfigError
from tts.gateway.admission import hashed
from tts.sampler.transport import Reply, Request

RIGHT = lambda request, rng: "Answer: 42"  # noqa: E731
KEY = "tts-" + "k" * 40

NESTED = "best_of_n:verifier=" + "a(b=" * 25_000 + ")" * 25_000
WIDE = {f"p{i}": {"type": "string", "pattern": "^(a+)+$", "description": "x" * 20} for i in range(8_000)}
BOMB = "(?:" * 40 + "a" + "{1,99})" * 40

PANELS: Any = "regex:pattern=4"
for _ in range(3):
    PANELS = {"name": "all_of", "verifiers": [PANELS] * 15}

TEXTS = [{"type": "text", "text": "x"}] * 60_000
RESULTS = [{"type": "tool_result", "tool_use_id": "a", "content": "x"}] * 40_000
CALLING = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {str(i): i for i in range(100_000)}}],
}

ATTACKS: dict[str, dict[str, Any]] = {
    "a long name": {"model": "x" * 400_000},
    "a long name of a strategy": {"model": "best_of_n" * 40_000 + "@qwen"},
    "a name of many parts": {"model": "x@" * 200_000},
    "a nested spec as name": {"model": NESTED + "@qwen"},
    "a nested spec": {"tts": {"strategy": NESTED}},
    "a spec nested a little": {"model": "best_of_n:verifier=" + "a(b=" * 900 + ")" * 900 + "@qwen"},
    "brackets": {"tts": {"strategy": "best_of_n:n=" + "[" * 100_000}},
    "many parameters": {"tts": {"strategy": "best_of_n:" + ",".join(f"p{i}=1" for i in range(50_000))}},
    "a table of many parameters": {"tts": {"strategy": {"name": "best_of_n", **{f"p{i}": 1 for i in range(9_000)}}}},
    "a long answer spec": {"tts": {"strategy": "single", "answer": "x" * 400_000}},
    "a large schema": {"tts": {"strategy": "best_of_n:n=2", "schema": {"properties": WIDE}}},
    "a schema as large as may be": {
        "tts": {"strategy": "best_of_n:n=1", "schema": {"properties": dict([*WIDE.items()][:900])}}
    },
    "a nested schema": {"tts": {"strategy": "best_of_n:n=2", "schema": json.loads('{"not":' * 400 + "{}" + "}" * 400)}},
    "a large tool": {
        "model": "tool_vote:n=2,verifier=tool_call@qwen",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": WIDE}}}],
    },
    "many tools": {"model": "single@qwen", "tools": [{"type": "function", "function": {"name": "f"}}] * 50_000},
    "a pattern that takes all memory": {"tts": {"strategy": "best_of_n:n=1", "format": BOMB}},
    "a long pattern": {"tts": {"strategy": "best_of_n:n=1", "format": "(a|b)?" * 50_000}},
    "a pattern in a table": {"tts": {"strategy": "best_of_n:n=1", "verifier": {"name": "regex", "pattern": BOMB}}},
    "a pattern in a spec": {"model": f'best_of_n:n=1,verifier=regex(pattern="{BOMB}")@qwen'},
    "a pattern that reads answers": {"tts": {"strategy": "self_consistency:n=2", "answer": f'regex:pattern="{BOMB}"'}},
    "many verifiers": {"tts": {"strategy": "best_of_n:n=2", "verifier": PANELS}},
    "many messages": {"model": "single@qwen", "messages": [ASK[0]] * 60_000},
    "many values": {"messages": [[]] * 2_000_000},
    "many keys": {"metadata": {str(i): 1 for i in range(600_000)}},
    "a long message": {"messages": [{"role": "user", "content": '\\"é' * 500_000}]},
    "a long message for a strategy": {"model": "single@qwen", "messages": [{"role": "user", "content": "x" * 2**23}]},
    "a long turn": {"path": "messages", "messages": [{"role": "user", "content": "x" * 2**23}]},
    "a turn of many blocks": {"path": "messages", "messages": [{"role": "user", "content": TEXTS[:60_000]}]},
    "a turn of many results": {"path": "messages", "messages": [{"role": "user", "content": RESULTS[:40_000]}]},
    "many turns": {"path": "messages", "messages": [*ASK, {"role": "assistant", "content": "x"}] * 4_999},
    "a call of many values": {"path": "messages", "messages": [*ASK, CALLING]},
    "many definitions": {"path": "messages", "tools": [{"name": "f", "input_schema": {}}] * 50_000},
    "a large definition": {"path": "messages", "tools": [{"name": "f", "input_schema": {"properties": WIDE}}]},
    "many stop sequences": {"path": "messages", "stop_sequences": ["x"] * 100_000},
    "many blocks of instructions": {"path": "messages", "system": TEXTS[:60_000]},
    "turns to be counted": {"path": "messages/count_tokens", "messages": [{"role": "user", "content": "x" * 2**18}]},
    "turns too long to be counted": {
        "path": "messages/count_tokens",
        "messages": [{"role": "user", "content": "x" * 2**23}],
    },
    "a long input": {"path": "responses", "input": "x" * 2**23},
    "many items": {"path": "responses", "input": [*ASK, {"role": "assistant", "content": "x"}] * 4_999},
    "many parts": {"path": "responses", "input": [{"role": "user", "content": TEXTS[:60_000]}]},
    "many references": {"path": "responses", "input": [{"type": "item_reference", "id": "x"}] * 40_000},
    "many texts": {"path": "embeddings", "input": ["x"] * 200_000},
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_no_request_holds_up_the_loop(name: str):
    async with ModelDouble(answer=RIGHT, log=0, max_model_len=2**25) as double, serving(double) as served:
        fields = dict(ATTACKS[name])
        path = fields.pop("path", "chat/completions")
        body = {"model": "qwen", **({} if "input" in fields else {"messages": ASK}), **fields}
        if path == "messages":
            body["max_tokens"] = 9
        content = await asyncio.to_thread(lambda: json.dumps(body).encode())
        verified = "tts" in fields or "verifier=" in fields.get("model", "")[:1000]
        first = "best_of_n:n=1,verifier=regex(pattern=4)" if verified else "single"
        await served.chat(f"{first}@qwen")  # what starts once has started

        async def attack() -> None:
            async with asyncio.timeout(120):
                answer = await served.http.post(f"/{path}", content=content)
            assert answer.status_code in (200, 400, 404, 413), answer.text[:500]
            assert len(answer.content) < 20_000

        assert await standstill(attack) < MOST


@pytest.mark.parametrize("pattern", ["(a|aa)+$b", "(a{1,50}){1,50}b", "(a|aa)+?b|a"])
async def test_a_pattern_without_end_is_searched_for_a_bounded_time(pattern: str):
    async with ModelDouble(answer=lambda request, rng: "a" * 200) as double, serving(double) as served:
        await served.chat("best_of_n:n=1,verifier=regex(pattern=4)@qwen")

        async def attack() -> None:
            before = time.process_time()
            answer = await served.chat(tts={"strategy": "best_of_n:n=8", "format": pattern})
            assert answer.status_code == 200, answer.text
            assert time.process_time() - before < 5

        assert await standstill(attack) < MOST


@pytest.mark.parametrize(
    "spec",
    ["best_of_n:n=64,verifier=regex(pattern=4)", "tournament:n=8", "self_consistency:n=64,answer=regex(pattern=4)"],
)
async def test_a_long_prompt_that_is_sent_many_times_holds_up_nobody(spec: str):
    """To a server that is asked for one answer at a time."""
    said = {"choices": [{"index": 0, "message": {"content": "A 42"}}], "usage": {"prompt_tokens": 1}}
    content = json.dumps({"model": f"{spec}@qwen", "messages": [{"role": "user", "content": "x" * 2**21}]}).encode()

    async def handle(request: Request) -> Reply:  # what the server makes of it takes no time of the loop
        return Reply.json(said if request.method == "POST" else {"data": [{"id": "m"}]})

    endpoint = {"model": "m", "base_url": "mock://m", "transport": handle, "max_n": 1}
    async with ModelDouble() as double, serving(double, endpoint=endpoint) as served:
        await served.chat("best_of_n:n=1,verifier=regex(pattern=4)@qwen")

        async def attack() -> None:
            answer = await served.http.post("/chat/completions", content=content)
            assert answer.status_code == 200, answer.text[:500]

        assert await standstill(attack) < MOST


async def test_a_spec_as_deep_and_long_as_may_be_is_read_at_once():
    spec = "best_of_n:verifier=" + "cached(verifier=" * 14 + "regex(pattern=" + "x" * 1900 + ")" * 15
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        await served.chat("best_of_n:n=1,verifier=regex(pattern=4)@qwen")

        async def attack() -> None:
            answer = await served.chat(spec + "@qwen")
            assert answer.status_code == 200, answer.text

        assert await standstill(attack) < MOST
    with pytest.raises(ConfigError, match="nested deeper than 16"):
        registry.make("verifiers", "cached:verifier=" + "cached(verifier=" * 17 + "regex(pattern=x)" + ")" * 17)
    assert registry.parse_spec('regex:pattern="((((((((((((((((((a"')[1] == {"pattern": "((((((((((((((((((a"}


async def test_a_key_that_may_use_nothing_makes_nothing_be_made(monkeypatch: pytest.MonkeyPatch):
    made: list[Any] = []
    make = registry.make
    monkeypatch.setattr(registry, "make", lambda *of: made.append(of) or make(*of))
    keys = {"nobody": {"sha256": hashed(KEY), "models": []}}
    async with ModelDouble(answer=RIGHT) as double, serving(double, keys=keys) as served:
        served.http.headers["authorization"] = f"Bearer {KEY}"
        made.clear()
        for tts in ({"format": BOMB}, {"schema": {"type": "x"}}, {"verifier": "regex:pattern=a"}, {"answer": "regex"}):
            answer = await served.chat(tts={"strategy": "best_of_n:n=2", **tts})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_allowed")
        assert made == []
        assert double.stats.received == 0


def in_pieces(body: bytes, status: int = 200, kind: str = "application/json") -> Reply:
    """An answer whose body comes in pieces."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), 2**14):
            yield body[start : start + 2**14]
            await asyncio.sleep(0)

    coming = pieces()
    return Reply(status, coming, {"content-type": kind}, coming.aclose)


def upstream(answer: Any) -> dict[str, Any]:
    """An endpoint in this process whose requests `answer` answers."""

    async def handle(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": "m"}]})
        return answer(request.json())

    return {"model": "m", "base_url": "mock://m", "transport": handle}


async def test_a_stream_is_passed_on_in_time_that_is_linear_in_its_events():
    usage = {"prompt_tokens": 3, "completion_tokens": 5}
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * 2**23}}], "usage": usage})
    whole = f"data: {event}\r\n\r\ndata: [DONE]\n\n".encode()
    events = lambda body: in_pieces(whole, kind="text/event-stream")  # noqa: E731
    async with ModelDouble() as double, serving(double, endpoint=upstream(events)) as served:

        async def attack() -> None:
            began = time.process_time()
            answer = await served.chat(stream=True)
            assert answer.content == whole
            assert time.process_time() - began < 5

        assert await standstill(attack) < MOST


async def test_checking_many_calls_costs_little_more_than_not_checking_them():
    schema = {"properties": {f"p{i}": {"type": "string"} for i in range(20)}, "required": ["p1"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"p1": "x"}'}}
    bad = {**call, "function": {"name": "f", "arguments": '{"p1": 3}'}}

    def answer(body: dict[str, Any]) -> Reply:
        calls = [[call] * 200, [call] * 199 + [bad]]
        choices = [
            {"index": i, "message": {"role": "assistant", "tool_calls": calls[i % 2]}, "finish_reason": "tool_calls"}
            for i in range(body.get("n", 1))
        ]
        return Reply.json({"choices": choices, "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    async with ModelDouble() as double, serving(double, endpoint=upstream(answer)) as served:
        spec = "best_of_n:n=8,verifier=tool_call@qwen"
        await served.chat(spec, tools=tools, n=2)  # the sandbox has started

        async def attack() -> None:
            async with asyncio.timeout(120):
                told = (await served.chat(spec, tools=tools, n=2, tts={"details": True})).json()
            assert sorted(one["passed"] for one in told["tts"]["candidates"]) == [False] * 4 + [True] * 4
            assert "f: $.p1: 3 is not of type 'string'" in [one["feedback"] for one in told["tts"]["candidates"]]

        assert await standstill(attack) < MOST


@pytest.mark.parametrize(
    "tables",
    [
        {"presets": {"coder": {"strategy": "plan_search:codes=2,verifier=generated_tests"}}},
        {
            "presets": {
                "coder": {"strategy": "best_of_n:n=2", "verifier": "all_of:verifiers=[regex(pattern=a),unit_tests]"}
            }
        },
        {"presets": {"coder": {"strategy": "best_of_n", "verifier": "python_expr:expression=answer"}}},
        {"verifier": "cached:verifier=unit_tests"},
    ],
)
async def test_programs_are_off_for_the_operators_own_presets_too(tables: dict[str, Any]):
    async with ModelDouble() as double:
        with pytest.raises(ConfigError, match="run_code = true"):
            settings_for(double, **tables)
        settings_for(double, run_code=True, **tables)


NESTED_ERROR = b'{"error":' * 50_000
MANY_VALUES = b'{"choices":[' + b"[]," * 340_000 + b'[]],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
SAID: dict[str, tuple[int, bytes, int]] = {
    "many values": (200, MANY_VALUES, 200),
    "many values in an error": (400, b'{"error": [' + b"[]," * 2**20 + b"[]]}", 400),
    "a nested error": (400, NESTED_ERROR, 400),
    "a nested error of the server's": (500, NESTED_ERROR, 500),
    "an error without end": (422, b"\\" * 2**22, 422),
    "blank lines": (200, b"\n" * 2**21 + b"data: [DONE]\n\n", 200),
    "comments": (200, b":\n" * 2**20 + b"\ndata: [DONE]\n\n", 200),
    "a first event that is a nested error": (200, b"data: " + NESTED_ERROR + b"\n\ndata: [DONE]\n\n", 200),
    "a first event that is a long error": (
        200,
        b'data: {"error":[' + b"[]," * 2**20 + b"[]]}\n\ndata: [DONE]\n\n",
        200,
    ),
}


@pytest.mark.parametrize("path", ["chat/completions", "messages"])
@pytest.mark.parametrize("name", SAID)
async def test_no_answer_of_a_model_server_holds_up_the_loop(name: str, path: str):
    """What is translated is no answer for its client: most of this is unreadable."""
    status, said, told = SAID[name]
    kind = "application/json" if said.startswith(b"{") or status >= 400 else "text/event-stream"
    say = lambda body: in_pieces(said, status, kind)  # noqa: E731
    async with ModelDouble() as double, serving(double, endpoint={**upstream(say), "max_attempts": 1}) as served:
        await served.chat(model="nobody")  # what starts once has started
        body = {"model": "qwen", "messages": ASK, "max_tokens": 9, "stream": kind == "text/event-stream"}

        async def attack() -> None:
            answer = await served.http.post(f"/{path}", json=body)
            assert answer.status_code == told or (path == "messages" and answer.status_code == 502), answer.text[:300]
            if status < 400 and path != "messages":
                assert answer.content == said

        assert await standstill(attack) < MOST


SIZE = 15 * 2**20
LARGE_TEXTS = {"letters": b"x", "code": b"    x += 1\\n", "umlauts": "é".encode(), "halves": b"\\ud83d"}
LARGE_VALUES = (b"[],", b"{},", b'"",', b"null,", b"1.5,", b'{"a":[]},')


def large(begin: bytes, part: bytes, size: int, end: bytes) -> Callable[[], bytes]:
    """An answer with about `size` bytes of one part, made where it is needed."""
    head = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant",' + begin
    return lambda: head + part * (size // len(part)) + end + b"}}]}"


LARGE_ANSWERS = {
    **{name: large(b'"content":"', text, SIZE, b'"') for name, text in LARGE_TEXTS.items()},
    **{f"{name}, as many as may be": large(b'"content":"', text, 2**22, b'"') for name, text in LARGE_TEXTS.items()},
    **{one.decode(): large(b'"content":"42","x":[', one, SIZE, one[:-1] + b"]") for one in LARGE_VALUES},
    "a few values": large(b'"content":"42","x":[', b"[1.5],", 1_200_000, b"1]"),
}


VOTE = "self_consistency:n=1,answer=numeric_answer@qwen"
WAYS = [
    (VOTE, "chat/completions", False),
    (VOTE, "chat/completions", True),
    (VOTE, "messages", True),
    ("qwen", "messages", False),
]


@pytest.mark.parametrize("name", LARGE_ANSWERS)
@pytest.mark.parametrize(("model", "path", "stream"), WAYS)
async def test_no_large_answer_holds_up_what_is_made_of_it(name: str, model: str, path: str, stream: bool):
    """By a strategy, or a translation."""
    said = LARGE_ANSWERS[name]()
    say = lambda body: in_pieces(said)  # noqa: E731
    async with ModelDouble() as double, serving(double, endpoint={**upstream(say), "max_attempts": 1}) as served:
        body = {"model": model, "messages": ASK, "max_tokens": 9, "stream": stream}
        await served.chat(model="nobody")

        async def attack() -> None:
            answer = await served.http.post(f"/{path}", json=body)
            assert answer.status_code in (200, 502)

        assert await standstill(attack) < MOST
