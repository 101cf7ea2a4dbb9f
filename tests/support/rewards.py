"""A server of reward models and embeddings over real HTTP, in the forms of vLLM and of chat reward servers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from tests.support.wire import Json, prompt_tokens


@dataclass(kw_only=True, eq=False)
class RewardDouble:
    """Rates the conversation it is given, as an async context manager inside the running loop."""

    reward: Callable[[str], float] = lambda text: 0.5
    """The reward of a text: the whole conversation, or what `input` says."""
    embed: Callable[[str], Sequence[float]] = lambda text: [1.0, 0.0]
    separator: str = "<step>"
    """Where `/pooling` gives a row; the last token alone where the text has none."""
    failing: int = 0
    """The first requests are answered with 500."""
    lists: bool = True
    """Whether a request may hold several texts, which are answered last one first."""
    withheld: int = 0
    """So many of the answers to a list are missing."""
    models: Sequence[str] = ("reward",)
    asked: list[tuple[str, Json]] = field(default_factory=list)
    prompt_tokens: int = 0
    port: int = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        for path in ("/classify", "/pooling", "/score", "/v1/embeddings", "/v1/chat/completions", "/v1/completions"):
            app.router.add_post(path, self._rate)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/generative_scoring", self._score_labels)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        """Where the API is, `/v1` included."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": model, "owned_by": "vllm"} for model in self.models]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        """A byte is a token."""
        body = await request.json()
        text = body["prompt"] if "prompt" in body else "\n".join(m["content"] for m in body["messages"])
        return web.json_response({"tokens": list(text.encode())})

    async def _score_labels(self, request: web.Request) -> web.Response:
        """The chance of the first label against the second."""
        body = await request.json()
        self.asked.append((request.path, body))
        tokens = sum(map(len, body["items"]))
        self.prompt_tokens += tokens
        data = [{"index": i, "score": self.reward(bytes(ids).decode())} for i, ids in enumerate(body["items"])]
        usage = {"prompt_tokens": tokens, "completion_tokens": len(data), "total_tokens": tokens + len(data)}
        return web.json_response({"data": data, "usage": usage})

    async def _rate(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self.asked.append((request.path, body))
        if len(self.asked) <= self.failing:
            return web.json_response({"error": {"message": "out of memory"}}, status=500)
        field = "text_2" if "text_2" in body else "input"
        if isinstance(listed := body.get(field), list):
            if not self.lists:
                return web.json_response({"error": {"message": "input should be a valid string"}}, status=400)
            parts = [self._answer(request.path, text)["data"][0] | {"index": i} for i, text in enumerate(listed)]
            tokens = sum(len(prompt_tokens({"prompt": text})) for text in listed)
            self.prompt_tokens += tokens
            return web.json_response({"data": parts[::-1][self.withheld :], "usage": {"prompt_tokens": tokens}})
        text = (
            body.get("input")
            or body.get("prompt")
            or "\n".join(m["content"] for m in body.get("messages", ()))
            or body["text_2"]
        )
        tokens = len(prompt_tokens({"prompt": text}))
        self.prompt_tokens += tokens
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        answer = self._labelled(body, text) if body.get("logprobs") else self._answer(request.path, text)
        return web.json_response({"model": body["model"], "usage": usage, **answer})

    def _labelled(self, body: Json, text: str) -> dict[str, Any]:
        """A token that calls the last step right or wrong, by its chances."""
        chances = {"+": 0.9 * self.reward(text), " -": 0.9 * (1 - self.reward(text)), "maybe": 0.1}
        tops = {token: math.log(chance) for token, chance in chances.items() if chance}
        if "messages" in body:
            entry = {
                "token": "+",
                "logprob": tops["+"],
                "top_logprobs": [{"token": t, "logprob": p} for t, p in tops.items()],
            }
            return {"choices": [{"index": 0, "message": {"content": "+"}, "logprobs": {"content": [entry]}}]}
        logprobs = {"tokens": ["+"], "token_logprobs": [tops["+"]], "top_logprobs": [tops]}
        return {"choices": [{"index": 0, "text": "+", "logprobs": logprobs}]}

    def _answer(self, path: str, text: str) -> dict[str, Any]:
        value = self.reward(text)
        if path == "/v1/chat/completions":
            return {"choices": [{"message": {"role": "assistant", "content": f"reward:{value}"}}]}
        if path == "/pooling":
            ends = [i for i in range(len(text)) if text.startswith(self.separator, i)]
            rows = [[-1.0, self.reward(text[:end])] for end in ends]
            return {"data": [{"index": 0, "object": "pooling", "data": rows or [value]}]}
        item = {
            "/classify": {"label": "good", "probs": [0.0, value], "num_classes": 2},
            "/score": {"object": "score", "score": value},
            "/v1/embeddings": {"object": "embedding", "embedding": list(self.embed(text))},
        }[path]
        return {"data": [{"index": 0, **item}]}
