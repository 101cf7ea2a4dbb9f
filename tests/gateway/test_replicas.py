"""Some servers of a model are dead: no client notices, and they are used again when they are back."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.gateway.serving import NUMBERS, Served, answered_by, serving
from tests.support.double import ModelDouble, solvable

CLIENTS = 24
VOTE = f"self_consistency:n=4,{NUMBERS}@qwen"
STATUSES = (401, 403, 404, 429, 500, 502, 503)
KINDS: dict[str, int | None] = {"refused": None, "dropped": None, **{str(status): status for status in STATUSES}}


@asynccontextmanager
async def half_dead(kind: str) -> AsyncIterator[tuple[Served, list[int], asyncio.Event]]:
    """A gateway to two dead servers and two that live, how often the dead were asked, and what makes them well."""
    asked, well = list[int](), asyncio.Event()
    async with AsyncExitStack() as stack:
        living = [
            await stack.enter_async_context(ModelDouble(answer=solvable({}, otherwise=1.0), latency=0.01))
            for _ in range(2)
        ]

        async def answer(place: int, request: web.BaseRequest) -> web.StreamResponse:
            if well.is_set():
                return await living[place]._handle(request)
            asked.extend([place] * (request.method == "POST"))
            if kind == "hangs":
                await asyncio.Event().wait()
            if (status := KINDS[kind]) is None:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return web.json_response({"error": {"message": "the engine is dead"}}, status=status)

        urls = []
        for place in range(2):
            dead = await stack.enter_async_context(answered_by(lambda request, place=place: answer(place, request)))
            if kind == "refused":
                async with ModelDouble() as gone:
                    dead = gone
            urls.append(dead.base_url)
        urls += [double.base_url for double in living]
        endpoint = {"base_url": urls, "connect_timeout": 2, "outage_timeout": 3}
        served = await stack.enter_async_context(serving(living[0], endpoint=endpoint))
        yield served, asked, well


def sent(served: Served, model: str, stream: bool = False) -> list[Coroutine[Any, Any, httpx.Response]]:
    """Requests, each with a beginning of its own, so that the servers are chosen evenly."""
    asks = [[{"role": "user", "content": f"[[p{i}]] What is 6 times 7?"}] for i in range(CLIENTS)]
    bodies = [{"model": model, "messages": ask, "stream": stream} for ask in asks]
    return [served.http.post("/chat/completions", json=body, timeout=60) for body in bodies]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["qwen", VOTE])
@pytest.mark.parametrize("kind", KINDS)
async def test_every_client_is_served_by_those_that_live(kind: str, model: str, stream: bool):
    async with half_dead(kind) as (served, asked, _):
        answers = await asyncio.gather(*sent(served, model, stream))
        assert {answer.status_code for answer in answers} == {200}
        assert all('"error"' not in answer.text and (stream or "42" in answer.text) for answer in answers)
        assert len(asked) <= CLIENTS * 2 * (4 if model == VOTE else 1), "each at each of the dead once, at most"


@pytest.mark.parametrize("model", ["qwen", VOTE])
async def test_what_all_servers_refuse_is_refused(model: str):
    async with (
        ModelDouble(models=("other",)) as one,
        ModelDouble(models=("another",)) as two,
        serving(one, endpoint={"base_url": [one.base_url, two.base_url]}) as served,
    ):
        for answer in await asyncio.gather(*sent(served, model)):
            assert (answer.status_code, "is not served here" in answer.text) == (404, True)
        assert len(one.requests) == len(two.requests) == CLIENTS


@pytest.mark.parametrize("model", ["qwen", VOTE])
async def test_who_waits_for_a_server_that_hangs_altogether_is_served_by_another(model: str):
    async with half_dead("hangs") as (served, asked, _), asyncio.timeout(120):  # of attempt_timeout = 600
        assert {answer.status_code for answer in await asyncio.gather(*sent(served, model))} == {200}
        assert asked


@pytest.mark.parametrize("kind", ["500", "503"])
async def test_the_dead_are_looked_at_again_and_used_when_they_are_back(kind: str):
    async with half_dead(kind) as (served, asked, well):
        pool = served.gateway.offer.models["qwen"]["policy"].connection.pool
        async with asyncio.timeout(120):
            while sum(bool(replica.down) for replica in pool.replicas) < 2:
                await asyncio.gather(*sent(served, "qwen"))
            before = len(asked)
            await asyncio.gather(*sent(served, "qwen"))
            assert len(asked) == before, "nobody waits for them"
            assert all("the engine is dead" in replica.down for replica in pool.replicas[:2])
            well.set()
            while any(replica.down for replica in pool.replicas):
                await asyncio.sleep(0.02)
        assert (await served.chat()).status_code == 200
