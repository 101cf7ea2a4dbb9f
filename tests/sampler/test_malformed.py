"""Whole answers as servers should not send them: each is the failure of its own samples, within limits of memory."""

from __future__ import annotations

import gzip
import json
import sys
import tracemalloc
import zlib
from typing import Any

import brotli
import pytest

from tests.support.lag import MOST, standstill
from tests.support.raw_answers import Scripted, answer, response
from tests.support.solving import draw
from tts.accounts import Ledger
from tts.errors import SamplingFailed
from tts.sampler import Endpoint, Sampler
from tts.types import total

DEEP = b"[" * 200_000 + b"]" * 200_000
GOOD = answer("Hello")


def choice(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop", **fields}]}


def message(**fields: Any) -> dict[str, Any]:
    return choice(message={"role": "assistant", **fields})


def usage(**counts: Any) -> dict[str, Any]:
    return {**GOOD, "usage": {"prompt_tokens": 1, "completion_tokens": 1, **counts}}


def call(**fields: Any) -> dict[str, Any]:
    return message(tool_calls=[{"id": "1", "type": "function", **fields}])


def logprobs(*content: Any) -> dict[str, Any]:
    return choice(logprobs={"content": list(content)})


MALFORMED: dict[str, Any] = {
    # not JSON
    "nothing": b"",
    "blanks": b" \n ",
    "a page": b"<html>Bad gateway</html>",
    "half": json.dumps(GOOD).encode()[:40],
    "two": json.dumps(GOOD).encode() * 2,
    "no encoding": b'{"choices": "\xff\xfe"}',
    "single quotes": str(GOOD).encode(),
    "nested without end": DEEP,
    "nested without end in a field": b'{"choices": ' + DEEP + b"}",
    "nested objects": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "nested in a tool call": json.dumps(call(function={"name": "f"})).encode().replace(b'"f"', b'"f", "x": ' + DEEP),
    "never closed": b"[" * 100_000,
    "a number of many digits": b'{"choices": ' + b"9" * 10_000 + b"}",
    # not an answer
    "null": None,
    "a number": 7,
    "a word": "Hello",
    "a list": [],
    "a list of words": ["a"],
    "an empty table": {},
    "no choices": {"choices": None},
    "an empty list of choices": {"choices": []},
    "tokens counted for no choice": {**GOOD, "choices": []},
    "choices in a table": {"choices": {"0": choice()}},
    "choices in words": {"choices": "Hello"},
    "a choice in words": {"choices": ["Hello"]},
    "a null choice": {"choices": [None]},
    "an answer of another API": {"output": [{"type": "message", "content": "Hello"}]},
    # an error in a good status
    "an error": {"error": {"message": "the engine died", "code": 500}},
    "an error in words": {"error": "the engine died"},
    "an error beside an answer": {**GOOD, "error": {"message": "the engine died", "code": "500"}},
    "an error in a choice": choice(error={"message": "the engine died"}),
    "the finish reason error": choice(finish_reason="error"),
    "the finish reason abort": choice(finish_reason="abort"),
    # choices
    "an index in words": choice(index="first"),
    "a negative index": choice(index=-1),
    "an index beyond all": choice(index=10**9),
    "an infinite index": choice(index=float("inf")),
    "an index that is true": choice(index=True),
    "a finish reason that is a number": choice(finish_reason=1),
    "a finish reason that is a table": choice(finish_reason={"type": "stop"}),
    "a message in words": choice(message="Hello"),
    "a message that is a list": choice(message=["Hello"]),
    "a message that is a number": choice(message=3),
    "more choices than anyone asks for": {"choices": [{"index": 0, "text": "a"}] * 5000},
    # text
    "a number for text": message(content=7),
    "true for text": message(content=True),
    "a table for text": message(content={"text": "Hello"}),
    "a list of numbers for text": message(content=[1, 2]),
    "a part without text": message(content=[{"type": "text", "text": 7}]),
    "a nested part": message(content=[[["Hello"]]]),
    "a number for reasoning": message(content="a", reasoning_content=1),
    "a table for reasoning": message(content="a", reasoning={"text": "a"}),
    "a number for the text of a completion": {"choices": [{"index": 0, "text": 7, "finish_reason": "stop"}]},
    # tool calls
    "tool calls in words": message(tool_calls="f()"),
    "a tool call in words": message(tool_calls=["f()"]),
    "tool calls in a table": message(tool_calls={"function": {"name": "f"}}),
    "a function in words": call(function="f()"),
    "a name that is a number": call(function={"name": 7}),
    "arguments that are a number": call(function={"name": "f", "arguments": 7}),
    "an id that is a table": call(id={"a": 1}, function={"name": "f"}),
    "too many tool calls": message(tool_calls=[{"function": {"name": "f"}}] * 5000),
    # usage
    "negative prompt tokens": usage(prompt_tokens=-1),
    "negative completion tokens": usage(completion_tokens=-1e9),
    "infinite usage": usage(completion_tokens=float("inf")),
    "usage that is no number": usage(completion_tokens=float("nan")),
    "prompt tokens that are no number": usage(prompt_tokens=float("nan")),
    "usage of 2**53": usage(prompt_tokens=2**53),
    "usage of 2**70": usage(completion_tokens=2**70),
    "usage of 1e400": json.dumps(usage(completion_tokens=0)).replace('_tokens": 0', '_tokens": 1e400').encode(),
    "negative cached tokens": usage(prompt_tokens_details={"cached_tokens": -5}),
    "infinite reasoning tokens": usage(completion_tokens_details={"reasoning_tokens": float("inf")}),
    # token ids and log-probabilities
    "token ids in words": choice(token_ids="12"),
    "a token id in words": choice(token_ids=["1"]),
    "a negative token id": choice(token_ids=[-1]),
    "a token id beyond all": choice(token_ids=[2**80]),
    "log-probabilities in words": choice(logprobs="-0.1"),
    "log-probabilities in a list": choice(logprobs=[-0.1]),
    "a log-probability in words": logprobs({"token": "a", "logprob": "-0.1"}),
    "a log-probability that is a list": logprobs({"token": "a", "logprob": [1]}),
    "a token that is a number": logprobs({"token": 1, "logprob": -0.1}),
    "a token in words": logprobs("a"),
    "likeliest tokens in words": logprobs({"token": "a", "logprob": -0.1, "top_logprobs": "abc"}),
    "a likeliest token in words": logprobs({"token": "a", "logprob": -0.1, "top_logprobs": ["a"]}),
    "log-probabilities of a text in words": choice(logprobs={"token_logprobs": "a"}),
    "log-probabilities of a text in a table": choice(logprobs={"token_logprobs": [{"a": 1}]}),
    "likeliest tokens of a text in words": choice(logprobs={"token_logprobs": [-1], "top_logprobs": ["a"]}),
}


def endpoint_of(server: Scripted, **settings: Any) -> Endpoint:
    return Endpoint(model="m", base_url=server.base_url, **{"retry_wait": 0.001, "max_attempts": 2, **settings})


@pytest.mark.parametrize("given", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_answer_is_its_samples_failure_and_no_others(given):
    ledger = Ledger()

    def reply(body: dict[str, Any]) -> bytes:
        return response(given if body["seed"] == 1 else GOOD)

    async with Scripted(reply) as server, Sampler(endpoint_of(server, max_n=1)) as sampler:
        samples = await draw(sampler, 3, ledger, seed=0)
        with pytest.raises(SamplingFailed):
            await draw(sampler, 1, Ledger(), seed=1)
    assert sorted(sample.index for sample in samples) == [0, 2]
    assert {sample.text for sample in samples} == {"Hello"}
    assert len(ledger.failures) == 1
    assert 0 < len(ledger.failures[0]) < 600
    for spent in (total(ledger.paid), *ledger.wasted.values()):
        assert all(0 <= count < 1e6 for count in spent.as_dict().values())


def test_there_are_enough_kinds():
    assert len(MALFORMED) >= 77


HARMLESS: dict[str, Any] = {
    "nulls everywhere": {
        **choice(logprobs=None, token_ids=None, stop_reason=None, error=None),
        "error": None,
        "usage": None,
        "model": None,
        "id": None,
    },
    "null details": usage(prompt_tokens_details=None, completion_tokens_details=None),
    "null counts": usage(prompt_tokens_details={"cached_tokens": None}, prompt_tokens=None),
    "a null log-probability": logprobs({"token": "a", "logprob": None, "top_logprobs": None}),
    "a null likeliest token": logprobs(
        {"token": "a", "logprob": -1, "top_logprobs": [{"token": "b", "logprob": None}]}
    ),
    "a null token": logprobs({"token": None, "logprob": -1.0}),
    "log-probabilities without content": choice(logprobs={"content": None}),
    "a null text": message(content=None, reasoning="thought", tool_calls=None),
    "a null part": message(content=[{"type": "text", "text": None}, {"type": "text", "text": "a"}]),
    "an infinitely unlikely token": logprobs({"token": "a", "logprob": float("-inf")}),
    "no index": {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]},
    "a null index": choice(index=None),
    "no message": {"choices": [{"index": 0, "finish_reason": "stop"}]},
    "a null finish reason": choice(finish_reason=None),
    "nothing for an error": {**choice(error={}), "error": ""},
    "false for an error": {**choice(error=False), "error": False},
    "a null tool call": message(content="a", tool_calls=[None]),
    "no table of tool calls": message(content="a", tool_calls={}),
    "null log-probabilities": logprobs(None, {"token": "a", "logprob": -1, "top_logprobs": [None]}),
    "usage in words": {**GOOD, "usage": {"prompt_tokens": "5", "completion_tokens": "7"}},
    "usage that is true": {**GOOD, "usage": {"prompt_tokens": True, "completion_tokens": True}},
    "numbers from one": choice(index=1),
    "bytes that are no text": json.dumps(GOOD).encode().replace(b"Hello", b"Hell\xe4o\xe2\x82"),
    "line breaks inside": json.dumps(GOOD).encode().replace(b"Hello", b"Hel\nlo\x00"),
    "arguments as a table": call(function={"name": "f", "arguments": {"x": 1}}),
    "null arguments": call(function={"name": "f", "arguments": None}),
    "half of a surrogate pair": b'{"choices": [{"index": 0, "message": {"content": "\\ud83d"}}]}',
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("given", HARMLESS.values(), ids=HARMLESS)
async def test_what_is_missing_or_null_costs_no_sample(given, stream):
    async with (
        Scripted(lambda body: response(given)) as server,
        Sampler(endpoint_of(server, max_attempts=1, stream=stream)) as sampler,
    ):
        assert len(await draw(sampler)) == 1


@pytest.mark.parametrize("completion", [{}, {"completion_tokens": None}, {"completion_tokens": "7"}])
async def test_tokens_that_nobody_counted_are_estimated(completion):
    given = {**GOOD, "usage": {"prompt_tokens": 5, **completion}}
    async with Scripted(lambda body: response(given)) as server, Sampler(endpoint_of(server)) as sampler:
        (sample,) = await draw(sampler)
    spent = total(sample.charges)
    assert spent.prompt_tokens == 5
    assert spent.completion_tokens == spent.estimated_tokens == 2


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("STOP", "stop"),
        ("eos_token", "stop"),
        ("model_length", "length"),
        ("MAX_TOKENS", "length"),
        ("null", None),
        ("odd", "odd"),
    ],
)
async def test_finish_reasons_of_other_servers_are_understood(said, meant):
    given = choice(finish_reason=said)
    async with Scripted(lambda body: response(given)) as server, Sampler(endpoint_of(server)) as sampler:
        (sample,) = await draw(sampler)
    assert sample.finish_reason == meant


@pytest.mark.parametrize("stream", [False, True])
async def test_a_large_answer_does_not_hold_up_the_loop(stream):
    token = {"token": "a", "logprob": -1.5, "top_logprobs": [{"token": "a", "logprob": -1.5}] * 5}
    given = response(choice(logprobs={"content": [token] * 20_000}))
    async with (
        Scripted(lambda body: given) as server,
        Sampler(endpoint_of(server, stream=stream, api_key="sk-a-key-of-ours")) as sampler,
    ):

        async def read() -> None:
            (sample,) = await draw(sampler)
            assert len(sample.logprobs or ()) == 20_000

        assert await standstill(read, 0.7) < 0.7  # read on the loop, it takes well over a second


@pytest.mark.parametrize("event", [b": \n\n", b"data: null\r\r", b'data: {"choices": [], "id": "a"}\n\n'])
async def test_thousands_of_events_at_once_do_not_hold_up_the_loop(event):
    given = response(event * (2_000_000 // len(event)) + b"data: [DONE]\n\n", content_type="text/event-stream")
    async with (
        Scripted(lambda _: given) as server,
        Sampler(endpoint_of(server, stream=True, max_attempts=1)) as sampler,
    ):

        async def read() -> None:
            with pytest.raises(SamplingFailed):
                await draw(sampler)

        assert await standstill(read) < MOST


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("index", [{}, {"index": None}, {"index": 0}])
async def test_choices_that_are_not_numbered_are_all_kept(stream, index):
    ledger = Ledger()

    def reply(body: dict[str, Any]) -> bytes:
        texts = [
            {"message": {"content": f"text {i}"}, "finish_reason": "stop", **index} for i in range(body.get("n", 1))
        ]
        return response({"choices": texts, "usage": {"prompt_tokens": 1, "completion_tokens": 8}})

    async with Scripted(reply) as server, Sampler(endpoint_of(server, stream=stream)) as sampler:
        samples = await draw(sampler, 24, ledger)
    assert sorted(sample.index for sample in samples) == list(range(24))
    assert len(server.requests) == 3
    assert not ledger.wasted


def compressed(data: bytes, name: str) -> bytes:
    if name == "gzip":
        return gzip.compress(data)
    if name == "br":
        return brotli.compress(data)
    if name == "raw deflate":
        engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return engine.compress(data) + engine.flush()
    return zlib.compress(data)


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "deflate", "raw deflate", "br"])
@pytest.mark.parametrize("size", [5, 1_000_000])
async def test_an_answer_compressed_unasked_is_read(name, size):
    text = "Hello" * (size // 5)
    body = compressed(json.dumps(answer(text)).encode(), "gzip" if "gzip" in name else name)
    packed = response(body, content_encoding=name.rpartition(" ")[2])
    pieces = [packed[i : i + 1000] for i in range(0, len(packed), 1000)]
    async with Scripted(lambda _: pieces) as server, Sampler(endpoint_of(server, max_attempts=1)) as sampler:
        (sample,) = await draw(sampler)
    assert sample.text == text


async def test_an_error_that_is_compressed_is_read_too():
    packed = gzip.compress(b'{"error": {"message": "too many words"}}')
    refusal = response(packed, "400 Bad Request", content_encoding="gzip")
    async with Scripted(lambda _: refusal) as server, Sampler(endpoint_of(server)) as sampler:
        with pytest.raises(SamplingFailed, match="too many words"):
            await draw(sampler)


async def test_without_its_library_a_compression_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "brotli", None)
    odd = response(compressed(b"{}", "br"), content_encoding="br")
    async with Scripted(lambda _: odd) as server, Sampler(endpoint_of(server, max_attempts=1)) as sampler:
        with pytest.raises(SamplingFailed, match=r"pip install 'ttscale\[brotli\]'"):
            await draw(sampler)


async def test_an_unknown_compression_is_named():
    odd = response(b"?", content_encoding="zip9")
    async with Scripted(lambda _: odd) as server, Sampler(endpoint_of(server)) as sampler:
        with pytest.raises(SamplingFailed, match="zip9"):
            await draw(sampler)


def endless(head: bytes, piece: bytes) -> Any:
    def pieces(_: Any) -> Any:
        yield head
        while True:
            yield piece

    return pieces


def events(*choices: dict[str, Any]) -> Any:
    """A stream of these choices, over and over."""
    lines = b"".join(b"data: " + json.dumps({"choices": [{"index": 0, **one}]}).encode() + b"\n\n" for one in choices)
    return endless(response(b"", content_type="text/event-stream"), lines)


def calls(kind: str, *given: dict[str, Any]) -> list[dict[str, Any]]:
    return [{kind: {"tool_calls": [call]}} for call in given]


TOKEN = {"token": "a", "logprob": -1.5, "top_logprobs": [{"token": "a", "logprob": -1.5}]}

BOMB = {"gzip": gzip.compress(b" " * 30_000_000, 1), "br": brotli.compress(b" " * 30_000_000, quality=1)}

ENDLESS = {
    "a body": endless(response(b'{"choices": "'), b"x" * 65536),
    "blanks": endless(response(b""), b" " * 65536),
    "an error": endless(response(b'{"error": "', "400 Bad Request"), b"x" * 65536),
    "gzip": lambda _: response(BOMB["gzip"], content_encoding="gzip"),
    "br": lambda _: response(BOMB["br"], content_encoding="br"),
    "an event": endless(response(b"data: ", content_type="text/event-stream"), b"x" * 65536),
    "a comment": endless(response(b": ", content_type="text/event-stream"), b"x" * 65536),
    "lines of an event": endless(response(b"", content_type="text/event-stream"), b"data: x\n" * 8192),
    "text in events": events({"delta": {"content": "x" * 65536}}),
    "thoughts in events": events({"delta": {"reasoning": "x" * 65536}}),
    "short texts in events": events(*[{"delta": {"content": "ab"}}] * 1000),
    "token ids in events": events({"delta": {}, "token_ids": [*range(10**6, 10**6 + 4096)]}),
    "log-probabilities in events": events({"delta": {}, "logprobs": {"content": [TOKEN] * 1000}}),
    "names of a call in events": events(
        *calls("delta", *({"index": 0, "function": {"name": x * 65536}} for x in "xy"))
    ),
    "ids of calls in events": events(*calls("delta", *({"index": i, "id": "x" * 65536} for i in range(40)))),
    "whole calls in events": events(*calls("message", {"id": "a", "more": [[]] * 10_000})),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reply", ENDLESS.values(), ids=ENDLESS)
async def test_a_body_without_end_is_refused_at_the_limit(reply, stream):
    limit = 2_000_000
    async with (
        Scripted(reply) as server,
        Sampler(endpoint_of(server, stream=stream, max_answer_bytes=limit, max_attempts=1)) as sampler,
    ):
        tracemalloc.start()
        with pytest.raises(SamplingFailed, match=r"max_answer_bytes|HTTP 400"):
            await draw(sampler)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 6 * limit
