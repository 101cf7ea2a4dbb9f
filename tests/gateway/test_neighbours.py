"""One client cannot spoil it for another: whatever A sends or is told, B is served as if A were not there."""

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, repeat
from typing import Any

import pytest

from tests.gateway.serving import NUMBERS, serving
from tests.support.double import ModelDouble
from tts.gateway.schemas import SAMPLING
from tts.sampler.transport import Reply, Request

SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
A_MARK, B_MARK = "from A", "from B"
A_ASKS = [{"role": "user", "content": f"{A_MARK}: what is 6 times 7?"}]
B_ASKS = [{"role": "user", "content": f"{B_MARK}: what is 6 times 7?"}]


def otherwise(mark: str) -> dict[str, dict[str, Any]]:
    """How other APIs are asked."""
    asks = [{"role": "user", "content": f"{mark}: what is 6 times 7?"}]
    return {
        "/completions": {"prompt": mark},
        "/messages": {"messages": asks, "max_tokens": 9},
        "/responses": {"input": asks, "store": False},
        "/embeddings": {"input": mark},
        "/score": {"text_1": mark, "text_2": ["one", "two"]},
        "/rerank": {"query": mark, "documents": ["one", "two"]},
        "/tokenize": {"prompt": mark},
    }


B_REQUESTS: list[dict[str, Any]] = [
    {"model": f"self_consistency:n=4,{NUMBERS}@qwen", "response_format": SCHEMA, "temperature": 0.5},
    {"model": f"self_consistency:n=3,{NUMBERS}@qwen", "max_tokens": 50, "seed": 1, "logprobs": True},
    {"model": "qwen", "temperature": 0.1, "n": 2},
]

Words = tuple[int, str, str | None]
REFUSALS: dict[str, Words] = {
    "a schema": (400, "Invalid schema for response_format 'n'", "response_format"),
    "a format": (400, "'json_schema' is not supported", None),
    "greedy": (400, "n must be 1 when using greedy sampling", None),
    "n": (400, "Invalid value for 'n'", "n"),
    "seed": (400, "seed must be positive", "seed"),
    "temperature": (400, "Unsupported value: 'temperature' does not support 9", "temperature"),
    "max_tokens": (400, "Unsupported parameter: 'max_tokens' is too large; use max_completion_tokens", "max_tokens"),
    "stream": (422, "stream_options is not allowed", "stream_options"),
    "logprobs": (400, "logprobs are not allowed", "logprobs"),
    "tools": (501, "tools need a tool parser", "tools"),
    "server": (500, "internal error", None),
    "gone": (404, "no such model", "model"),
    "key": (401, "bad key", None),
    "forbidden": (403, "not for you", None),
    "large": (413, "too large", None),
    "late": (408, "too late", None),
}
MIXES: dict[str, list[Words]] = {
    "load": [(429, "slow down", None), (503, "overloaded", None), (429, "slow down", None)],
    "faults": [
        (500, "internal error", None),
        (502, "bad gateway", None),
        (503, "engine dead", None),
        (504, "late", None),
    ],
    "routes": [(404, "no such route", None), (405, "not allowed", None), (501, "not implemented", None)],
    "words": [*REFUSALS.values()],
}
"""What A is told in turn."""

VALUES: dict[str, Any] = {
    "temperature": 0, "top_p": 0.2, "top_k": 3, "min_p": 0.1, "seed": 7, "user": "a", "frequency_penalty": 1,
    "presence_penalty": 1, "repetition_penalty": 2, "reasoning_effort": "low", "chat_template_kwargs": {"a": 1},
    "service_tier": "flex", "max_tokens": 5, "max_completion_tokens": 5, "stop": ["x"], "logit_bias": {"1": 1},
    "logprobs": True, "top_logprobs": 2, "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "auto", "parallel_tool_calls": True, "response_format": SCHEMA, "n": 3, "stream": True,
    "stream_options": {"include_usage": True},
}  # fmt: skip
UNKNOWN = (
    "pictures", "images", "role", "ledger", "stop_when", "self", "on_sample", "prompt", "params", "extra_body", "inner",
    "stream_when", "place", "store", "verifier", "form", "quota", "return_token_ids", "add_special_tokens", "transport",
    "", "__class__", "__init__", "__dict__", "model_config", "kwargs", "body", "headers", "n\0", "../n", "N", "%s",
    "{n}", "api_key", "base_url", "max_n", "occurrence", "index", "request", "cls", "tts.n", "limit", "\ud800",
)  # fmt: skip


@dataclass
class Server:
    """Refuses what comes from A, and answers B."""

    refusals: Iterator[Words] | None = None
    from_b: list[tuple[str, bytes]] = field(default_factory=list)

    async def __call__(self, request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": "m"}]})
        body = request.json()
        if A_MARK in request.content.decode() and self.refusals is not None:
            status, message, param = next(self.refusals)
            error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
            return Reply.json({"error": error}, status, **{"retry-after": "0"} if status == 429 else {})
        if B_MARK in request.content.decode():
            self.from_b.append((request.url.path, request.content))
        n = body.get("n") if isinstance(body.get("n"), int) else 1
        message = {"role": "assistant", "content": "Answer: 42"}
        choices = [{"index": i, "message": message, "finish_reason": "stop"} for i in range(n or 1)]
        usage = {"prompt_tokens": 5, "completion_tokens": 3 * len(choices)}
        return Reply.json({"id": "1", "model": "m", "choices": choices, "usage": usage})


async def served_b(server: Server, *from_a: dict[str, Any]) -> tuple[list[tuple[str, bytes]], list[Any]]:
    """What reaches the server of B's requests, and their answers, after A's, each sent plainly and to a strategy."""
    endpoint = {"model": "m", "base_url": "mock://m", "transport": server, "max_attempts": 2}
    async with ModelDouble() as double, serving(double, endpoint=endpoint) as served:
        first = await ask(served, B_REQUESTS[0])  # the server is known
        server.from_b.clear()
        for number, fields in enumerate(from_a):
            for model in ("qwen", f"self_consistency:n=4,{NUMBERS}@qwen", f"self_consistency:n=1,{NUMBERS}@qwen"):
                body = {"model": model, "messages": A_ASKS, **fields}
                assert (await served.http.post("/chat/completions", content=json.dumps(body))).status_code < 600
            for path, asked in otherwise(A_MARK).items() if number % 3 == 0 else ():
                body = {"model": "qwen", **asked, **fields}
                assert (await served.http.post(path, content=json.dumps(body))).status_code < 600
        answers = [await ask(served, body) for body in B_REQUESTS]
        for path, asked in otherwise(B_MARK).items():
            for model in ("qwen", f"self_consistency:n=2,{NUMBERS}@qwen"):
                answer = await served.http.post(path, json={"model": model, **asked})
                answers.append(
                    (answer.status_code, re.sub(r'"(\w*id|\w+_at|created)": ?("[^"]*"|\d+)', "", answer.text))
                )
        return server.from_b, [first, *answers]


async def ask(served: Any, body: dict[str, Any]) -> Any:
    answer = await served.http.post("/chat/completions", json={"messages": B_ASKS, **body})
    data = answer.json()
    return answer.status_code, {key: value for key, value in data.items() if key not in ("id", "created")}


async def undisturbed(known: list[Any] = []) -> Any:  # noqa: B006
    """What B gets alone, found out once."""
    if not known:
        known.append(await served_b(Server()))
    return known[0]


def test_every_field_is_tried():
    assert VALUES.keys() >= SAMPLING


@pytest.mark.parametrize("name", VALUES)
async def test_no_field_of_a_client_changes_what_another_gets(name: str):
    """A sends it, and the server takes it."""
    bad: list[Any] = [VALUES[name], None, "p", 0, -1, [], {}, {"a": [1]}]
    assert await served_b(Server(), *({name: value} for value in bad)) == await undisturbed()


async def test_no_unknown_field_of_a_client_changes_what_another_gets():
    sent: list[dict[str, Any]] = [{name: "p"} for name in UNKNOWN] * 3 + [{name: None} for name in UNKNOWN]
    assert await served_b(Server(), *sent) == await undisturbed()


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_no_refusal_of_a_clients_request_changes_what_another_gets(refusal: str):
    """A sends every field, and the server refuses all that is A's in these words."""
    sent = [{name: value} for name, value in VALUES.items()] + [VALUES]
    assert await served_b(Server(repeat(REFUSALS[refusal])), *sent) == await undisturbed()


@pytest.mark.parametrize("mix", MIXES)
async def test_no_mix_of_refusals_changes_what_another_gets(mix: str):
    sent = [{name: value} for name, value in list(VALUES.items())[::3]] + [VALUES]
    assert await served_b(Server(cycle(MIXES[mix])), *sent) == await undisturbed()


async def test_they_are_served_side_by_side_too():
    server = Server(repeat(REFUSALS["a schema"]))
    endpoint = {"model": "m", "base_url": "mock://m", "transport": server}
    async with ModelDouble() as double, serving(double, endpoint=endpoint) as served:
        attack = {"model": f"self_consistency:n=4,{NUMBERS}@qwen", "messages": A_ASKS, "response_format": SCHEMA}
        attacks = [served.http.post("/chat/completions", json=attack) for _ in range(20)]
        answers = [ask(served, B_REQUESTS[0]) for _ in range(20)]
        _, done = await asyncio.gather(asyncio.gather(*attacks), asyncio.gather(*answers))
        assert {status for status, _ in done} == {200}
        assert all(b"response_format" in body for _, body in server.from_b)
