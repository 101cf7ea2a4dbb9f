"""What passes through to a plain model's clients: every byte, in time linear in its size, but no secret."""

from __future__ import annotations

import json
import time
from typing import Any, cast

import pytest

from tests.gateway.serving import serving
from tests.support.double import ModelDouble
from tests.support.raw_answers import Scripted, answer, delta, response, stream

KEY = "sk-Live/4f9b+Q77"


def gateway(upstream: Scripted, **endpoint: Any) -> Any:
    return serving(cast(ModelDouble, upstream), endpoint={"api_key": KEY, **endpoint})


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
async def test_a_large_event_passes_unchanged_and_quickly(end):
    whole = stream(delta("x" * 8_000_000), delta("", "stop"), b"data: [DONE]", end=end)
    pieces = [whole[i : i + 10_000] for i in range(0, len(whole), 10_000)]
    async with Scripted(lambda body: pieces) as upstream, gateway(upstream) as served:
        began = time.process_time()
        got = await served.chat(stream=True)
        assert time.process_time() - began < 3  # three parties' work
    assert got.status_code == 200
    assert got.content == whole.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("model", ["qwen", "single@qwen"])
@pytest.mark.parametrize(
    "echo",
    [
        response({"error": {"message": f"wrong key {KEY}"}}, "400 Bad Request"),
        response({"error": {"message": "key " + KEY.replace("/", "\\/")}}, "401 Unauthorized"),
        response(answer(f"Your key is {KEY}")),
        response(answer("Your key is " + "".join(f"%{ord(c):02x}" for c in KEY))),
        stream(delta(f"Your key is {KEY}"), delta("", "stop"), b"data: [DONE]"),
        stream({"error": {"message": f"wrong key {KEY}"}}),
        response(answer("Hi"), content_type=KEY),
        response(b"", "307 Temporary Redirect", location=f"http://x/{KEY}"),
    ],
)
async def test_no_client_sees_the_key(model, echo):
    streamed = b"event-stream" in echo
    async with Scripted(lambda body: echo) as upstream, gateway(upstream, max_attempts=1) as served:
        got = await served.chat(model, stream=streamed)
        seen = got.text + repr(got.headers) + json.dumps(got.text) + (await served.http.get("/models")).text
    assert KEY in upstream.heads[-1]
    for form in (KEY, KEY.replace("/", "\\/"), "".join(f"%{ord(c):02x}" for c in KEY)):
        assert form not in seen


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
async def test_no_client_sees_the_key_in_another_encoding_of_unicode(encoding: str, status: str):
    said = json.dumps({**answer(f"Your key is {KEY}"), "error": None if status[0] == "2" else {"message": KEY}})
    async with Scripted(lambda body: response(said.encode(encoding), status)) as upstream, gateway(upstream) as served:
        got = await served.chat()
    assert got.status_code == int(status[:3])
    assert KEY.encode() not in got.content.replace(b"\0", b"")
    assert "[API key]" in got.text
    plain = json.dumps(answer("Your key is safe")).encode(encoding)
    async with Scripted(lambda body: response(plain)) as upstream, gateway(upstream) as served:
        assert (await served.chat()).content == plain


async def test_an_endless_answer_is_refused_at_the_limit():
    body = response(answer("x" * 1_000_000))
    async with Scripted(lambda _: body) as upstream, gateway(upstream, max_answer_bytes=100_000) as served:
        got = await served.chat()
    assert got.status_code == 502
