"""The Responses API with a memory: each key comes back to its own responses, within their room and time.

In front of servers that have this API, that have not, and of strategies.
"""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from tests.gateway.serving import NUMBERS, Served, answered_by, serving
from tests.support.double import ModelDouble, solvable
from tts.gateway.admission import hashed

RIGHT = solvable({}, otherwise=1.0)
VOTE = f"self_consistency:n=3,{NUMBERS}@qwen"
KEYS = {name: {"sha256": hashed(f"tts-{name}")} for name in ("one", "two")}
ASKED = "[[p]] What is 6 times 7?"


@asynccontextmanager
async def responding(seen: list[Any]) -> AsyncIterator[ModelDouble]:
    """A model server that has the Responses API alone."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": []})
        if not request.path.endswith("/responses"):
            return web.json_response({"error": {"message": "there is no such route"}}, status=404)
        seen.append(json.loads(await request.read()))
        part = {"type": "output_text", "text": "Answer: 42", "annotations": []}
        item = {"id": f"msg_{len(seen)}", "type": "message", "role": "assistant", "content": [part]}
        body = {"id": f"resp_{len(seen)}", "object": "response", "status": "completed", "output": [item]}
        if not seen[-1].get("stream"):
            return web.json_response(body)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        event = {"type": "response.completed", "sequence_number": 0, "response": body}
        await response.write(f"event: response.completed\ndata: {json.dumps(event)}\n\n".encode())
        return response

    async with answered_by(answer) as server:
        yield server


@asynccontextmanager
async def remembering(kind: str, **settings: Any) -> AsyncIterator[tuple[Served, str, Callable[[], Any]]]:
    """A gateway, a model of that kind behind it, and what its server was last told."""
    if kind == "responds":
        seen: list[Any] = []
        async with responding(seen) as upstream, serving(upstream, keys=KEYS, **settings) as served:
            yield served, "qwen", lambda: seen[-1]["input"]
    else:
        async with ModelDouble(answer=RIGHT) as double, serving(double, keys=KEYS, **settings) as served:
            yield served, VOTE if kind == "strategy" else "qwen", lambda: double.requests[-1].body["messages"]


kinds = pytest.mark.parametrize("kind", ["responds", "chats", "strategy"])


@kinds
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_conversation_goes_on_and_can_be_read_and_deleted_by_its_key_alone(kind: str, streamed: bool):
    async with remembering(kind) as (served, model, told), served.openai("tts-one") as client:

        async def respond(text: str, **fields: Any) -> Any:
            given = {"model": model, "input": text, **fields}
            if not streamed:
                return await client.responses.create(**given)
            events = [event async for event in await client.responses.create(**given, stream=True)]
            assert [event.sequence_number for event in events] == [*range(len(events))]
            return events[-1].response

        first = await respond(ASKED, instructions="Be brief.", metadata={"a": "b"})
        assert first.output_text.endswith("Answer: 42")
        second = await respond("And 6 times 8?", previous_response_id=first.id)
        turns = json.dumps(told())
        assert [turns.count(words) for words in (ASKED, "Answer: 42", "And 6 times 8?", "Be brief.")] == [1, 1, 1, 0]
        third = await respond("Why?", previous_response_id=second.id)
        assert json.dumps(told()).count("Answer: 42") == 2
        events = [event async for event in await client.responses.retrieve(third.id, stream=True)]
        assert [event.sequence_number for event in events] == [*range(len(events))]
        assert (
            "".join(event.delta for event in events if event.type == "response.output_text.delta") == third.output_text
        )
        assert events[-1].response.output_text == third.output_text
        late = [event async for event in await client.responses.retrieve(third.id, stream=True, starting_after=3)]
        assert late == events[4:]
        with pytest.raises(openai.BadRequestError, match="cancelled"):
            await client.responses.cancel(third.id)
        again = await client.responses.retrieve(third.id)
        assert again.output_text == third.output_text
        assert (again.id, again.status) == (third.id, "completed")
        if kind != "responds":
            assert again.previous_response_id == second.id
            assert again.store is True
        items = [item async for item in client.responses.input_items.list(third.id, limit=2, order="asc")]
        assert [item.role for item in items] == ["user", "assistant", "user", "assistant", "user"]
        assert len({item.id for item in items}) == 5
        async with served.openai("tts-two") as other:
            for attempt in (
                other.responses.retrieve(third.id),
                other.responses.cancel(third.id),
                other.responses.delete(third.id),
                other.responses.input_items.list(third.id),
                other.responses.create(model=model, input="x", previous_response_id=third.id),
                other.responses.create(model=model, input=[{"type": "item_reference", "id": third.output[0].id}]),
            ):
                with pytest.raises(openai.NotFoundError) as caught:
                    await attempt
                assert "Answer" not in str(caught.value)
        await client.responses.delete(third.id)
        for gone in (client.responses.retrieve(third.id), client.responses.delete(third.id)):
            with pytest.raises(openai.NotFoundError):
                await gone
        assert (await client.responses.retrieve(second.id)).id == second.id


@kinds
async def test_references_to_items_stand_for_them(kind: str):
    async with remembering(kind) as (served, model, told), served.openai("tts-one") as client:
        first = await client.responses.create(model=model, input=ASKED)
        reference: Any = {"type": "item_reference", "id": first.output[0].id}
        items: Any = [{"role": "user", "content": ASKED}, reference, {"role": "user", "content": "Why?"}]
        await client.responses.create(model=model, input=items)
        turns = told()
        assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
        assert "Answer: 42" in json.dumps(turns[1])


async def test_an_item_that_is_named_often_counts_as_often():
    limits = {"body_bytes": 2**20}
    async with remembering("responds", limits=limits) as (served, model, told), served.openai("tts-one") as client:
        long = {"type": "message", "role": "user", "content": "x" * 2**18, "id": "long"}
        short = [{"type": "message", "role": "user", "content": f"{i}", "id": f"short{i}"} for i in range(200)]
        await client.responses.create(model=model, input=[*short, long])
        references: Any = [{"type": "item_reference", "id": one["id"]} for one in [*short, long]]
        await client.responses.create(model=model, input=[*references, references[-1]])
        assert [len(turn["content"]) for turn in told()[-2:]] == [2**18] * 2
        assert [turn["content"] for turn in told()[:200]] == [f"{i}" for i in range(200)]
        asked, key = {"model": model}, {"authorization": "Bearer tts-one"}
        for many in (5, 9_000):  # by no client of OpenAI's, which takes seconds to look through them
            memory = tracemalloc.start() or tracemalloc.get_traced_memory()[0]
            refused = await served.http.post("/responses", json=asked | {"input": references[-1:] * many}, headers=key)
            assert refused.status_code == 413
            assert tracemalloc.get_traced_memory()[1] - memory < 2**25
            tracemalloc.stop()


@kinds
async def test_what_is_not_to_be_stored_is_not(kind: str):
    async with remembering(kind) as (served, model, _), served.openai("tts-one") as client:
        answer = await client.responses.create(model=model, input=ASKED, store=False)
        for attempt in (
            client.responses.retrieve(answer.id),
            client.responses.create(model=model, input="x", previous_response_id=answer.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await attempt
        assert kind == "responds" or answer.store is False


BOUNDS: dict[str, tuple[dict[str, Any], list[bool]]] = {
    "count": ({"stored_responses": 2}, [False, True, True]),
    "bytes": ({"stored_bytes": 12_000}, [False, True, True]),
    "no room for one": ({"stored_bytes": 100}, [False] * 3),
    "none": ({"stored_responses": 0}, [False] * 3),
    "time": ({"stored_seconds": 0.001}, [False] * 3),
}


@pytest.mark.parametrize("bound", BOUNDS)
async def test_the_oldest_give_way(bound: str):
    limits, kept = BOUNDS[bound]
    async with remembering("responds", limits=limits) as (served, model, _):
        names: list[str] = []
        for key in ("two", "one", "one", "one"):  # of one key alone
            served.http.headers["authorization"] = f"Bearer tts-{key}"
            answer = await served.http.post("/responses", json={"model": model, "input": ASKED + "x" * 4000})
            names.append(answer.json()["id"])
            assert answer.headers.get("x-tts-ignored") == ("store" if "no" in bound else None)
        await asyncio.sleep(0.01)
        found = [(await served.http.get(f"/responses/{name}")).status_code == 200 for name in names[1:]]
        assert found == kept
        served.http.headers["authorization"] = "Bearer tts-two"
        assert (await served.http.get(f"/responses/{names[0]}")).status_code == (200 if any(kept) else 404)


async def test_a_file_keeps_them_through_restarts(tmp_path: Path):
    async with remembering("chats", responses=tmp_path / "kept") as (served, model, _):
        first = await served.openai("tts-one").responses.create(model=model, input=ASKED)
    async with remembering("chats", responses=tmp_path / "kept") as (served, model, _):
        again = await served.openai("tts-one").responses.retrieve(first.id)
    assert again.output_text == first.output_text
    assert (tmp_path / "kept").stat().st_mode & 0o077 == 0


async def test_pages_and_what_is_not_there_are_told():
    async with remembering("chats") as (served, model, _):
        served.http.headers["authorization"] = "Bearer tts-one"
        items = [{"role": "user", "content": f"{i}"} for i in range(5)]
        name = (await served.http.post("/responses", json={"model": model, "input": items})).json()["id"]
        page = (await served.http.get(f"/responses/{name}/input_items?limit=2")).json()
        assert [item["content"][0]["text"] for item in page["data"]] == ["4", "3"]
        assert (page["has_more"], page["last_id"]) == (True, page["data"][1]["id"])
        rest = (await served.http.get(f"/responses/{name}/input_items?limit=3&after={page['last_id']}")).json()
        assert ([item["content"][0]["text"] for item in rest["data"]], rest["has_more"]) == (["2", "1", "0"], False)
        for query in ("limit=0", "limit=x", "order=up", "after=nothing"):
            assert (await served.http.get(f"/responses/{name}/input_items?{query}")).status_code == 400
        assert (await served.http.get(f"/responses/{name}?stream=true&starting_after=x")).status_code == 400
        assert (await served.http.get("/responses/resp_none")).status_code == 404
        served.http.headers["authorization"] = "Bearer nobody"
        assert (await served.http.get(f"/responses/{name}")).status_code == 401


# -- plain models whose server chats -----------------------------------------------------------------------------------


async def test_a_server_without_this_api_is_found_out_once_and_asked_in_chat():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served, served.openai() as client:
        for _ in range(2):
            answer = await client.responses.create(model="qwen", input=ASKED, max_output_tokens=300)
            assert answer.output_text.endswith("Answer: 42")
            assert answer.usage.input_tokens == double.stats.prompt_tokens / double.stats.served
        paths = [request.path for request in double.requests]
        assert paths == ["/v1/chat/completions"] * 2  # the double notes what it has
        async with client.responses.stream(model="qwen", input=ASKED) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_response()
        assert streamed.output_text.endswith("Answer: 42")
        assert kinds.count("response.output_text.delta") >= 1
        refused = await served.http.post("/responses", json={"model": "qwen", "input": "x", "background": True})
        assert refused.json()["error"]["param"] == "background"


async def test_a_server_that_knows_no_such_model_is_not_taken_for_one_without_this_api():
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.path)
        if request.method == "POST" and "model" in json.loads(await request.read()):
            return web.json_response({"error": {"message": "the model `x` does not exist"}}, status=404)
        return web.json_response({"error": {"message": "model is missing"}}, status=400)

    async with answered_by(answer) as upstream, serving(upstream) as served:
        refused = await served.http.post("/responses", json={"model": "qwen", "input": "x"})
        assert (refused.status_code, refused.json()["error"]["message"]) == (404, "the model `x` does not exist")
    assert set(asked) <= {"/v1/responses", "/v1/models"}
