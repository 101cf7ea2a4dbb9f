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


async def test_an_endless_answer_is_refused_at_the_limit():
    body = response(answer("x" * 1_000_000))
    async with Scripted(lambda _: body) as upstream, gateway(upstream, max_answer_bytes=100_000) as served:
        got = await served.chat()
    assert got.status_code == 502
