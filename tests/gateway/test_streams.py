"""Streams as clients read them: their beginning, their end, and what stands on which event."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from tests.gateway.serving import ASK, NUMBERS, Served, answered_by, serving
from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tts.sampler.transport import Reply, Request

RIGHT = solvable({}, otherwise=1.0)
VOTE = f"self_consistency:n=3,{NUMBERS}@qwen"


def chunk(index: int = 0, finish: str | None = None, **delta: Any) -> str:
    choices = [{"index": index, "delta": delta, "finish_reason": finish}]
    head = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return f"data: {json.dumps({**head, 'choices': choices})}\n\n"


@asynccontextmanager
async def streaming(events: Sequence[str | float], *, cut: bool = False) -> AsyncIterator[ModelDouble]:
    """A model server that answers every POST with these events; a number is a pause in seconds."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            if isinstance(event, str):
                await response.write(event.encode())
            else:
                await asyncio.sleep(event)
        if cut and request.transport is not None:
            request.transport.abort()
        return response

    async with answered_by(answer) as server:
        yield server


async def streamed(served: Served, **fields: Any) -> Any:
    return await served.chat(stream=True, **fields)


@pytest.mark.parametrize("n", [1, 2])
async def test_a_stream_whose_choices_have_finished_is_complete_without_done(n: int):
    events = [chunk(i, role="assistant", content="42") for i in range(n)] + [chunk(i, "stop") for i in range(n)]
    async with streaming(events) as upstream, serving(upstream) as served:
        answer = await streamed(served, n=n)
        assert answer.text == "".join(events)
    async with streaming(events[:-1]) as upstream, serving(upstream) as served:  # the last has not finished
        assert '"error"' in (await streamed(served, n=n)).text


BROKEN: dict[str, list[str | float]] = {
    "an error": ['data: {"error": {"message": "out of memory", "type": "x", "code": 503}}\n\n'],
    "an error of another shape": ['data: {"error": "out of memory"}\n\n'],
    "an error of its own kind": ['event: error\ndata: {"message": "out of memory", "code": "503"}\n\n'],
    "an error as vLLM once put it": ['data: {"object": "error", "message": "out of memory", "code": 503}\n\n'],
    "an error behind comments": [": at work\n\n", 0.05, 'data: {"error": {"message": "no", "code": 503}}\n\n'],
    "an error behind the role": [
        chunk(role="assistant", content=""),
        0.05,
        'data: {"error": {"message": "no", "code": 503}}\n\n',
    ],
    "a role and no more": [chunk(role="assistant", content=None, tool_calls=[])],
    "nothing": [],
    "half an event": ['data: {"choi'],
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("cut", [False, True])
async def test_a_plain_stream_that_fails_before_its_first_token_has_a_status(kind: str, cut: bool):
    async with streaming(BROKEN[kind], cut=cut) as upstream, serving(upstream) as served:
        answer = await streamed(served)
        said = kind.startswith("an error") and kind != "an error of another shape"
        assert answer.status_code == (503 if said else 502)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["error"]


async def test_an_error_inside_a_stream_is_told_once():
    error = 'data: {"error": {"message": "no", "code": 503}}\n\n'
    async with streaming([chunk(content="4"), 0.05, error]) as upstream, serving(upstream) as served:
        assert (await streamed(served)).text == chunk(content="4") + error


async def test_comments_alone_begin_a_stream_where_they_go_on_for_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tts.gateway.proxy.SAYING_NOTHING", 0.0)
    events = [": at work\n\n", 0.1, 'data: {"error": {"message": "no", "code": 503}}\n\n']
    async with streaming(events) as upstream, serving(upstream) as served:
        answer = await streamed(served)
        assert (answer.status_code, answer.text[:9]) == (200, ": at work")


@pytest.mark.parametrize("event", [": at work\n\n", chunk(role="assistant", content="")])
async def test_events_that_say_nothing_are_not_held_back_when_they_are_many(event: str):
    seen, many = asyncio.Event(), event * (2**17 // len(event) + 1)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(many.encode())
        await seen.wait()
        await response.write((chunk(content="4") + "data: [DONE]\n\n").encode())
        return response

    async with answered_by(answer) as upstream, serving(upstream) as served, asyncio.timeout(60):
        body = {"model": "qwen", "messages": ASK, "stream": True}
        async with served.http.stream("POST", "/chat/completions", json=body) as told:
            assert told.status_code == 200
            seen.set()
            assert await told.aread() == (many + chunk(content="4") + "data: [DONE]\n\n").encode()


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_words_of_an_error_inside_an_answer_reach_the_client_of_a_strategy(streamed: bool):
    error = {"error": {"message": "the engine is loading", "code": 503, "type": "busy", "param": None}}
    endpoint = {"stream": True, "max_attempts": 1}
    async with (
        streaming([f"data: {json.dumps(error)}\n\n"]) as upstream,
        serving(upstream, endpoint=endpoint) as served,
    ):
        answer = await served.chat("single@qwen", stream=streamed)
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "the engine is loading")


TURN: dict[str, Any] = {"messages": ASK, "max_tokens": 9}


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "messages"])
@pytest.mark.parametrize("kind", [FaultKind.BAD_REQUEST, FaultKind.SERVER_ERROR, FaultKind.RESET])
async def test_a_search_that_fails_before_its_first_token_has_a_status(path: str, kind: FaultKind):
    asked = {"completions": {"prompt": "x"}, "responses": {"input": "x"}}.get(path, TURN)
    async with ModelDouble(faults=Fault(kind)) as double, serving(double) as served:
        answer = await served.http.post(f"/{path}", json={"model": VOTE, "stream": True, **asked})
        assert answer.status_code == {"bad_request": 400, "server_error": 500, "reset": 502}[kind.value]


async def test_a_stream_that_flows_is_not_cut_off_and_one_that_stops_is():
    events: list[str | float] = [chunk(role="assistant", content="4")]
    for _ in range(8):
        events += [0.3, chunk(content="2")]
    patient = {"attempt_timeout": 2.0}
    async with (
        streaming([*events, chunk(finish="stop"), "data: [DONE]\n\n"]) as up,
        serving(up, endpoint=patient) as served,
    ):
        assert (await streamed(served)).text.endswith("[DONE]\n\n")
    async with streaming([*events[:2], 600.0]) as upstream, serving(upstream, endpoint=patient) as served:
        async with asyncio.timeout(120):
            told = json.loads((await streamed(served)).text.splitlines()[-2].removeprefix("data: "))
        assert told["error"]["code"] == "upstream_timeout"


@asynccontextmanager
async def failing_late() -> AsyncIterator[tuple[ModelDouble, asyncio.Event]]:
    """A model server that fails every request once the event is set."""
    late = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await late.wait()
        return web.json_response({"error": {"message": "the engine is dead"}}, status=500)

    async with answered_by(answer) as server:
        yield server, late


@pytest.mark.parametrize("client_api", ["chat", "responses"])
async def test_a_long_search_keeps_its_stream_open_and_fails_inside_it(client_api: str):
    """The official client raises the error it finds there."""
    async with (
        failing_late() as (upstream, late),
        serving(upstream, endpoint={"max_attempts": 1}, limits={"keep_alive": 0.05}) as served,
        served.openai() as client,
    ):
        if client_api == "chat":
            stream = await client.chat.completions.create(model=VOTE, messages=ASK, stream=True)
        else:
            stream = await client.responses.create(model=VOTE, input="x", stream=True)
        late.set()
        with pytest.raises(openai.APIError, match="the engine is dead"):
            _ = [event async for event in stream]
        late.clear()
        path, asked = ("chat/completions", {"messages": ASK}) if client_api == "chat" else ("responses", {"input": "x"})
        body = {"model": VOTE, "stream": True, **asked}
        async with served.http.stream("POST", f"/{path}", json=body) as answer:
            assert answer.status_code == 200
            text = ""
            async for part in answer.aiter_text():
                text += part
                if text.count(": at work\n\n") > 2:
                    late.set()
        assert "the engine is dead" in text


async def test_errors_in_a_responses_stream_have_the_fields_that_clients_look_for():
    """At the top, where the reference has them, and below `error`, where they are sent; all strings are strings."""
    async with (
        failing_late() as (upstream, late),
        serving(upstream, endpoint={"max_attempts": 1}, limits={"keep_alive": 0.05}) as served,
        served.http.stream("POST", "/responses", json={"model": VOTE, "input": "x", "stream": True}) as answer,
    ):
        text = ""
        async for part in answer.aiter_text():
            text += part
            late.set()
    data = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    created, error, failed = data
    assert (created["type"], error["type"], failed["type"]) == ("response.created", "error", "response.failed")
    assert [one["sequence_number"] for one in data] == [0, 1, 2]
    for fields in (error, error["error"]):
        assert isinstance(fields["code"], str)
        assert isinstance(fields["message"], str)
        assert fields["param"] is None
    assert isinstance(error["error"]["type"], str)
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["message"] == error["message"]
    begun = 'event: response.created\ndata: {"type": "response.created", "sequence_number": 0}\n\n'
    async with streaming([begun], cut=True) as upstream, serving(upstream) as served:
        text = (await served.http.post("/responses", json={"model": "qwen", "input": "x", "stream": True})).text
    assert text.startswith(begun)
    told = json.loads(text.splitlines()[-2].removeprefix("data: "))
    assert (told["type"], told["sequence_number"]) == ("error", 1)
    assert told["error"]["message"] == told["message"]


async def test_an_error_of_a_servers_own_form_is_told_in_openais_inside_a_stream():
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.json_response({"object": "error", "message": "too long", "code": 400}, status=400)

    async with (
        answered_by(answer) as upstream,
        serving(upstream, limits={"keep_alive": 0.05}) as served,
        served.openai() as client,
    ):
        with pytest.raises(openai.APIError, match="too long"):
            _ = [one async for one in await client.chat.completions.create(model=VOTE, messages=ASK, stream=True)]


async def test_logprobs_ride_on_the_event_with_the_text_and_on_no_other():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served, served.openai() as client:
        answer = await streamed(served, model="single@qwen", logprobs=True, top_logprobs=1)
        events = [json.loads(line[6:])["choices"][0] for line in answer.text.splitlines() if "choices" in line]
        first, said, last = events
        assert (first["delta"], first["logprobs"], first["finish_reason"]) == (
            {"role": "assistant", "content": ""},
            None,
            None,
        )
        assert said["logprobs"]["content"]
        assert "role" not in said["delta"]
        assert (last["delta"], last["logprobs"], last["finish_reason"]) == ({}, None, "stop")
        given: Any = {"model": "single@qwen", "messages": ASK, "logprobs": True}
        whole = await client.chat.completions.create(**given)
        async with client.chat.completions.stream(**given) as stream:
            counted = (await stream.get_final_completion()).choices[0]
        for choice in (counted, whole.choices[0]):  # the double has a token for each byte
            assert len(choice.logprobs.content) == len(choice.message.content.encode())


@pytest.mark.parametrize("model", ["qwen", VOTE])
async def test_a_stream_that_outlasts_the_drain_ends_with_an_error(model: str):
    events: list[str | float] = [chunk(role="assistant", content="4"), 60.0]
    limits = {"drain_seconds": 1, "keep_alive": 0.05}
    body = {"model": model, "messages": ASK, "stream": True}
    async with (
        streaming(events) as upstream,
        serving(upstream, limits=limits) as served,
        served.http.stream("POST", "/chat/completions", json=body) as response,
    ):
        lines = response.aiter_lines()
        assert await anext(lines)
        served.server.should_exit = True
        rest = [line async for line in lines if line.startswith("data:")]
    assert json.loads(rest[-1][5:])["error"]["code"] == "stopping"


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "messages"])
async def test_half_a_surrogate_pair_survives_on_every_way(path: str, tmp_path: Path):
    half = r"\ud83d"
    said = {"message": {"role": "assistant", "content": "ok \ud83d"}, "text": "ok \ud83d", "finish_reason": "stop"}
    asked = {
        "chat/completions": f'"messages": [{{"role": "user", "content": "{half} \\ud83d\\ude00"}}]',
        "completions": f'"prompt": "{half}"',
        "responses": f'"input": "{half}"',
        "messages": f'"max_tokens": 9, "messages": [{{"role": "user", "content": "{half} \\ud83d\\ude00"}}]',
    }[path]

    async def respond(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": []})
        seen.append(request.json())
        return Reply.json({"choices": [said]})

    seen: list[Any] = []
    endpoint = {"model": "m", "base_url": "mock://m", "transport": respond}
    async with ModelDouble() as double, serving(double, endpoint=endpoint, trace=tmp_path / "trace") as served:
        for model, more in (("qwen", ""), ("single@qwen", ""), ("single@qwen", ', "stream": true')):
            body = f'{{"model": "{model}", {asked}{more}}}'
            answer = await served.http.post(f"/{path}", content=body.encode())
            assert answer.status_code == 200, answer.text
            assert r"ok \ud83d" in answer.text
        wrong = await served.http.post(f"/{path}", content=b'{"model": "\\ud83d", "messages": []}')
        assert wrong.status_code == 404
    whole = "\ufffd" if path == "messages" else json.loads(f'"{half}"')  # a plain model's, byte for byte
    assert whole in json.dumps(seen[0], ensure_ascii=False)
    assert "\ufffd" in json.dumps(seen[1], ensure_ascii=False)
