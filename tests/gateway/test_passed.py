"""What a model's server does besides writing: embeddings, scores, ranks and tokens pass through, and are counted."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.serving import serving
from tests.support.double import ModelDouble
from tts.gateway.admission import hashed

KEYS: dict[str, Any] = {
    "one": {"sha256": hashed("tts-one"), "tokens_per_day": 1000, "models": ["qwen"]},
    "two": {"sha256": hashed("tts-two"), "models": []},
    "poor": {"sha256": hashed("tts-poor"), "tokens_per_day": 3},
}
BODIES: dict[str, dict[str, Any]] = {
    "embeddings": {"input": ["one", "two"], "encoding_format": "float", "dimensions": 2},
    "score": {"text_1": "one", "text_2": ["two", "three"]},
    "rerank": {"query": "one", "documents": ["two", "three"], "top_n": 1},
    "tokenize": {"prompt": "one two"},
    "detokenize": {"tokens": [1, 2]},
}
ANSWER = {"data": [{"index": 0, "score": 0.5, "embedding": [1.0, 0.5]}], "odd": "\u00e9"}


@asynccontextmanager
async def reading(seen: list[Any], usage: Any = None, missing: tuple[str, ...] = ()) -> AsyncIterator[ModelDouble]:
    """A model server that has all of these where vLLM has them, but for the `missing` paths."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": []})
        if request.path in missing or ("tokenize" in request.path and request.path.startswith("/v1")):
            return web.json_response({"detail": "Not Found"}, status=404)
        seen.append((request.path, json.loads(await request.read())))
        return web.json_response({**ANSWER, **({"usage": usage} if usage else {})})

    server = await asyncio.get_running_loop().create_server(web.Server(answer), "127.0.0.1", 0)
    try:
        yield ModelDouble(port=server.sockets[0].getsockname()[1])
    finally:
        server.close()


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 7, "total_tokens": 7}, {"total_tokens": 7}])
async def test_they_pass_through_and_are_counted_by_key(kind: str, usage: Any):
    seen: list[Any] = []
    async with (
        reading(seen, usage) as upstream,
        serving(upstream, keys=KEYS, endpoint={"params": {"temperature": 0.5, "max_tokens": 9}}) as served,
    ):
        served.http.headers["authorization"] = "Bearer tts-one"
        answer = await served.http.post(f"/{kind}", json={"model": "qwen", **BODIES[kind]})
        assert answer.status_code == 200, answer.text
        assert {**answer.json(), "usage": None} == {**ANSWER, "usage": None}
        ((path, sent),) = seen
        assert path.endswith(f"/{kind}")
        assert sent == {"model": "test-model", **BODIES[kind]}
        (one, _, _) = served.gateway.callers
        counted = 7 if usage else 0 if "tokenize" in kind else one.tokens
        assert one.tokens == counted
        assert one.quota is not None
        assert one.quota.reserved.samples == 0
        for key, status in (("tts-two", 403), ("nobody", 401)):
            served.http.headers["authorization"] = f"Bearer {key}"
            assert (await served.http.post(f"/{kind}", json={"model": "qwen", **BODIES[kind]})).status_code == status
        if "tokenize" not in kind:
            served.http.headers["authorization"] = "Bearer tts-poor"
            assert (await served.http.post(f"/{kind}", json={"model": "qwen", **BODIES[kind]})).status_code == 429
        assert len(seen) == 1


async def test_each_is_found_where_the_server_has_it():
    seen: list[Any] = []
    async with reading(seen, missing=("/v1/score", "/v1/rerank")) as upstream, serving(upstream) as served:
        root = served.base_url.removesuffix("/v1")
        for path in ("/score", "/rerank", "/tokenize", "/detokenize"):
            for url in (f"{root}{path}", f"{root}/v1{path}"):
                body = BODIES[path[1:]]  # the only model need not be named
                assert (await served.http.post(url, json=body)).status_code == 200
    assert {path for path, _ in seen} == {"/score", "/rerank", "/tokenize", "/detokenize"}


@pytest.mark.parametrize("kind", ["embeddings", "score", "rerank"])
async def test_a_server_without_them_is_told_of_and_strategies_do_none_of_it(kind: str):
    async with ModelDouble() as double, serving(double) as served:
        answer = await served.http.post(f"/{kind}", json={"model": "qwen", **BODIES[kind]})
        assert answer.status_code == 404
        assert f"the server of 'qwen' has no {kind}" in answer.json()["error"]["message"]
        for body in ({"model": "single@qwen"}, {"model": "qwen", "tts": "single"}):
            answer = await served.http.post(f"/{kind}", json={**BODIES[kind], **body})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
