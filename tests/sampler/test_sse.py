"""Server-sent events to the letter of the standard, however the bytes are cut."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.raw_answers import Scripted, answer, delta, response, stream
from tests.support.solving import draw
from tts.accounts import Ledger
from tts.errors import RequestRejected, SamplingFailed
from tts.sampler import Endpoint, Sampler
from tts.sampler.redaction import Redactor
from tts.sampler.sse import EventReader, ServerEvent
from tts.sampler.transport import Reply, Request

DONE = b"data: [DONE]"
HELLO = [delta("Hel"), delta("lo"), delta("", "stop")]


def read(*chunks: bytes, limit: int = 10**9) -> list[ServerEvent]:
    reader = EventReader(limit, Redactor([]))
    return [event for chunk in chunks for event in reader.feed(chunk)]


def datas(*chunks: bytes) -> list[bytes | None]:
    return [event.data for event in read(*chunks)]


def test_lines_end_with_cr_lf_or_both_and_with_nothing_else():
    for end in (b"\n", b"\r", b"\r\n"):
        assert datas(b"data: a" + end + b"data: b" + end + end) == [b"a\nb"]
    inside = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg".encode()
    assert datas(b"data: " + inside + b"\n\n") == [inside]


def test_fields_are_read_as_the_standard_says():
    assert datas(b"\xef\xbb\xbfdata: a\n\n") == [b"a"]
    assert datas(b"data\ndata\n\n") == [b"\n"]
    assert datas(b"data:\n\n") == [b""]
    assert datas(b"data:a\ndata:  b\n\n") == [b"a\n b"]
    assert datas(b": comment\n\nid: 1\nretry: 10\nevent: x\n\ndatum: no\n\n") == [None, None, None]
    assert read(b"event: error\ndata: a\n\n")[0].kind == "error"
    assert datas(b"data: cut off\n") == []


LINES = st.sampled_from(
    [b"data: a", b"data:b", b"data", b": c", b"event: d", b"id: 1", b"", b"", b"x", b"data: \xe2\x80\xa8"]
)


@given(st.lists(st.tuples(LINES, st.sampled_from([b"\r", b"\n", b"\r\n"]))), st.data())
def test_how_the_stream_is_cut_changes_nothing_and_no_byte_is_lost(lines, data):
    # a lone return before a line feed would be one line's end, not two
    text = b"".join(line + end for line, end in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole, cut = read(text), read(*pieces)
    assert [(e.kind, e.data) for e in cut] == [(e.kind, e.data) for e in whole]
    reader = EventReader(10**9, Redactor([]))
    raw = b"".join(event.raw for piece in pieces for event in reader.feed(piece))
    assert raw + reader.rest().raw == text


def test_blank_lines_end_no_event_that_has_not_begun():
    text = b"\n\r\n" * 1000 + b"data: a\n\n" + b"\n" * 1000 + b": c\n\n\n"
    reader = EventReader(10**9, Redactor([]))
    events = list(reader.feed(text))
    assert [event.data for event in events] == [b"a", None]
    assert b"".join(event.raw for event in events) + reader.rest().raw == text


def test_a_large_event_takes_time_in_proportion_to_its_size():
    def seconds(size: int) -> float:
        event = b"data: " + b"x" * size + b"\n\n"
        began = time.process_time()
        (one,) = read(*(event[i : i + 1000] for i in range(0, len(event), 1000)))
        assert one.data is not None
        assert len(one.data) == size
        return time.process_time() - began

    assert seconds(8_000_000) < 2


def test_an_event_without_end_is_refused_once_it_is_too_large():
    with pytest.raises(RequestRejected, match="max_answer_bytes"):
        read(*([b"data: " + b"x" * 1000] * 1000), limit=100_000)
    assert len(read(*([b"data: " + b"x" * 1000 + b"\n\n"] * 1000), limit=100_000)) == 1000


VALID = {
    "plain": stream(*HELLO, DONE),
    "line separators inside": stream(
        b'data: {"choices":[{"delta":{"content":"Hel\xe2\x80\xa8\xe2\x80\xa9\xc2\x85lo"},"finish_reason":"stop"}]}',
        DONE,
    ),
    "no [DONE]": stream(*HELLO),
    "no [DONE] and nothing at the end": stream(*HELLO[:-1], delta("", "stop")),
    "[DONE] without a blank line": stream(*HELLO) + b"data: [DONE]",
    "a comment behind data": stream(b"data: : keepalive", *HELLO, DONE),
    "a word behind data": stream(b"data: ping", *HELLO, DONE),
    "a ping event": stream(b'event: ping\ndata: {"type": "ping"}', *HELLO, DONE),
    "empty data": stream(b"data:", b"data: ", b"data", *HELLO, DONE),
    "comments": stream(b": one", b":", *HELLO, b": two", DONE),
    "error: null": stream(*({**event, "error": None} for event in HELLO), DONE),
    "data: null": stream(b"data: null", *HELLO, b"data: null", DONE),
    "carriage returns": stream(*HELLO, DONE, end=b"\r\r"),
    "both line ends": stream(*HELLO, DONE, end=b"\r\n\r\n"),
    "a byte order mark": response(b"\xef\xbb\xbf" + b"data: " + json.dumps(delta("Hello", "stop")).encode() + b"\n\n"),
    "several data lines": stream(
        b'data: {"choices": [{"index": 0,\ndata: "delta": {"content": "Hello"},\ndata: "finish_reason": "stop"}]}', DONE
    ),
    "id and retry": stream(b"id: 7\nretry: 1000\ndata: " + json.dumps(HELLO[0]).encode(), *HELLO[1:], DONE),
    "no space behind the colon": response(b"data:" + json.dumps(delta("Hello", "stop")).encode() + b"\n\n"),
    "the wrong content type": response(b"data: " + json.dumps(delta("Hello", "stop")).encode() + b"\n\n"),
    "one answer in one piece": response(answer("Hello")),
    "one answer in one piece, said to be a stream": response(answer("Hello"), content_type="text/event-stream"),
    "no choices": stream({"choices": []}, {"choices": None}, *HELLO, {"choices": [], "usage": None}, DONE),
    "nulls": stream(
        {**delta("Hello", "stop", logprobs=None, token_ids=None), "usage": None, "model": None, "id": None}, DONE
    ),
    "all said again at the end": stream(
        *HELLO[:2], {"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]}, DONE
    ),
    "the last event does not end": stream(*HELLO)[:-2],
    "an error behind the finish reason": stream(*HELLO, {"error": {"message": "late", "code": 500}}),
    "error: false": stream(*({**event, "error": False} for event in HELLO), DONE),
    "nothing as data": stream(b'data: ""', b"data: []", b"data: {}", *HELLO, DONE),
    "numbers from one": stream(*({"choices": [{**event["choices"][0], "index": 1}]} for event in HELLO), DONE),
    "no index": stream(*({"choices": [{**event["choices"][0], "index": None}]} for event in HELLO), DONE),
}


@pytest.mark.parametrize("reply", VALID.values(), ids=VALID)
async def test_valid_streams_are_read_at_the_first_attempt(reply):
    ledger = Ledger()
    async with (
        Scripted(lambda body: reply) as server,
        Sampler(Endpoint(model="m", base_url=server.base_url, stream=True, retry_wait=0.001)) as sampler,
    ):
        (sample,) = await draw(sampler, 1, ledger)
    assert sample.text.translate(dict.fromkeys(map(ord, "\u2028\u2029\x85"))) == "Hello"
    assert sample.finish_reason == "stop"
    assert len(server.requests) == 1
    assert not ledger.failures
    assert not ledger.wasted


BROKEN = {
    "cut off": stream(*HELLO[:2]),
    "cut off inside an event": stream(*HELLO[:2]) + b'data: {"choi',
    "an error": stream(HELLO[0], {"error": {"message": "the engine died", "code": 500}}),
    "an error event": stream(HELLO[0], b'event: error\ndata: {"message": "the engine died"}'),
    "an error in words": stream({"error": "the engine died"}),
    "an error in a choice": stream(HELLO[0], delta(None, "error", error={"message": "the engine died"}), DONE),
    "the finish reason error": stream(HELLO[0], delta(None, "error"), DONE),
    "no JSON": stream(b"data: <html>", *HELLO, DONE),
    "half of the JSON": stream(b'data: {"choices": [', *HELLO, DONE),
    "JSON that is no object": stream(b"data: [1, 2]", *HELLO, DONE),
    "a number": stream(b"data: 7", *HELLO, DONE),
    "choices that are none": stream({"choices": {"index": 0}}, DONE),
    "a choice that is none": stream({"choices": ["a"]}, DONE),
    "an index that is none": stream({"choices": [{"index": "first", "delta": {"content": "a"}}]}, DONE),
    "an index beyond all": stream({"choices": [{"index": 10**9, "delta": {"content": "a"}}]}, DONE),
    "a delta that is none": stream({"choices": [{"index": 0, "delta": "a"}]}, DONE),
    "text that is none": stream({"choices": [{"index": 0, "delta": {"content": {"a": 1}}}]}, DONE),
    "reasoning that is none": stream({"choices": [{"index": 0, "delta": {"reasoning": 7}}]}, DONE),
    "a tool call's index beyond all": stream(
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 10**7, "function": {"name": "f"}}]}}]}, DONE
    ),
    "tool calls that are none": stream({"choices": [{"index": 0, "delta": {"tool_calls": "f()"}}]}, DONE),
    "negative usage": stream({**delta("a", "stop"), "usage": {"prompt_tokens": -1, "completion_tokens": 1}}, DONE),
    "usage without end": stream(
        {**delta("a", "stop"), "usage": {"prompt_tokens": 2**70, "completion_tokens": 1}}, DONE
    ),
    "usage that is no number": stream(
        b'data: {"choices": [], "usage": {"prompt_tokens": NaN, "completion_tokens": Infinity}}', DONE
    ),
    "a finish reason that is none": stream({"choices": [{"index": 0, "delta": {}, "finish_reason": {"a": 1}}]}, DONE),
    "nested without end": stream(b"data: " + b"[" * 200_000 + b"]" * 200_000, DONE),
    "nested without end inside": stream(b'data: {"choices": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", DONE),
    "nothing": stream(),
    "only [DONE]": stream(DONE),
    "not compressed": stream(*HELLO, DONE).replace(b"connection", b"content-encoding: gzip\r\nconnection"),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
async def test_a_malformed_stream_is_its_samples_failure_and_no_others(reply):
    ledger = Ledger()

    def reply_to(body):
        return reply if body["seed"] == 1 else stream(*HELLO, DONE)

    async with Scripted(reply_to) as server:
        target = Endpoint(model="m", base_url=server.base_url, stream=True, retry_wait=0.001, max_attempts=2, max_n=1)
        async with Sampler(target) as sampler:
            samples = await draw(sampler, 3, ledger, seed=0)
            with pytest.raises(SamplingFailed):
                await draw(sampler, 1, Ledger(), seed=1)
    assert sorted(sample.index for sample in samples) == [0, 2]
    assert {sample.text for sample in samples} == {"Hello"}
    assert len(ledger.failures) == 1


async def test_a_connection_lost_behind_the_finish_reason_loses_nothing():
    def cut(body):
        head, events = stream(*HELLO).split(b"\r\n\r\n", 1)
        return head + b"\r\ntransfer-encoding: chunked\r\n\r\n" + f"{len(events):x}\r\n".encode() + events + b"\r\n"

    async with (
        Scripted(cut) as server,
        Sampler(Endpoint(model="m", base_url=server.base_url, stream=True, max_attempts=1)) as sampler,
    ):
        (sample,) = await draw(sampler)
    assert sample.text == "Hello"


async def test_what_has_come_when_a_stream_is_left_is_counted_all_the_same():
    counted: list[str] = []

    def count(event):
        counted.append(event["choices"][0]["delta"]["content"])
        return counted[-1]

    words = [f"{number} " * 100 for number in range(30)]
    body = stream(*map(delta, words), DONE).split(b"\r\n\r\n", 1)[1]

    async def at_once(request: Request) -> Reply:
        return Reply.whole(200, body, {"content-type": "text/event-stream"})

    async with Sampler(Endpoint(model="m", base_url="mock://m", transport=at_once)) as sampler:
        async with sampler.connection.http.stream("mock://m", "/chat/completions", {}, count) as events:
            assert not isinstance(events, Mapping)
            assert await anext(events) == words[0]
        assert counted == words
