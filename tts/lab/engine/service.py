"""What each route of vLLM's protocol does: a request's body in, an answer or its events out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import version
from time import time
from typing import Any
from uuid import uuid4

import numpy as np

from tts.lab.engine.answers import Answer
from tts.lab.engine.choice import Request
from tts.lab.engine.engine import Engine
from tts.lab.engine.protocol import (
    ChatRequest,
    DetokenizeRequest,
    PoolingRequest,
    Refused,
    Sampled,
    ScoreRequest,
    TextRequest,
    TokenizeRequest,
    check_length,
    chunk,
    failure,
    need,
    parse,
)
from tts.lab.engine.sampling import Settings

log = logging.getLogger("tts")

Events = AsyncGenerator[bytes, None]

OWNER = "ttscale"
"""Who owns the model in `/v1/models`: the sampler knows by it that vLLM's extensions are spoken."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer over HTTP: its status, its content type and the parts of its body as they come."""

    status: int
    kind: str
    parts: Events


class Service:
    """The routes of one engine; each raises `Refused` for what cannot be answered."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.counters = {"prompt_tokens": 0, "generation_tokens": 0, "request_success": 0}
        generating = {"/v1/chat/completions": self._chat, "/v1/completions": self._text}
        rewarding = {"/pooling": self._pooling, "/classify": self._classify, "/score": self._score}
        posts = generating if engine.shape.kind == "generate" else rewarding
        posts = {**posts, "/tokenize": self._tokenize, "/detokenize": self._detokenize}
        gets = {
            "/v1/models": self._models,
            "/version": self._version,
            "/metrics": self._metrics,
            "/health": self._health,
        }
        self._routes = {"POST": posts, "GET": gets}

    async def answer(self, method: str, path: str, body: bytes) -> Reply:
        """Answer one request; closing the parts, or cancelling this, ends its computation."""
        status, answer = 200, None
        try:
            if path in self._routes.get(method, ()):
                answer = await self._routes[method][path](body)
            else:
                known = any(path in routes for routes in self._routes.values())
                status, words = (405, "Method Not Allowed") if known else (404, "Not Found")
                answer = {"detail": words}
        except Refused as refused:
            status, answer = refused.status, refused.body
        except Exception as error:
            log.exception("%s failed", path)
            status, answer = 500, failure(error)
        if isinstance(answer, AsyncGenerator):
            return Reply(status, "text/event-stream; charset=utf-8", answer)
        if isinstance(answer, str):
            return Reply(status, "text/plain; charset=utf-8", _whole(answer))
        return Reply(status, "application/json", _whole(json.dumps(answer, separators=(",", ":"))))

    # -- generating --------------------------------------------------------------------------------------------------

    async def _chat(self, body: bytes) -> Any:
        asked = parse(ChatRequest, body)
        self._check_model(asked.model)
        return await self._generate(asked, self._render(asked))

    async def _text(self, body: bytes) -> Any:
        asked = parse(TextRequest, body)
        self._check_model(asked.model)
        prompt: Any = asked.prompt or []
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            need(len(prompt) == 1, "the embedded engine takes one prompt a request", "prompt")
            prompt = prompt[0]
        return await self._generate(asked, self._ids(prompt))

    async def _generate(self, asked: Sampled, ids: list[int]) -> Any:
        settings = asked.settings(len(ids), self.engine.shape.positions)
        request = Request(np.array(ids), settings, asked.n, asked.stream)
        answer = Answer(asked, request, self.engine.tokenizer, self.engine.name)
        self.counters["prompt_tokens"] += len(ids) * asked.n
        if asked.stream:
            return self._events(answer, request)
        async with aclosing(self.engine.generate(request)) as deltas:
            choices = sorted([delta async for delta in deltas], key=lambda delta: delta.index)
        self.counters["generation_tokens"] += sum(len(choice.tokens) for choice in choices)
        self.counters["request_success"] += asked.n
        return answer.body(choices)

    async def _events(self, answer: Answer, request: Request) -> Events:
        try:
            async with aclosing(self.engine.generate(request)) as deltas:
                async for delta in deltas:
                    self.counters["generation_tokens"] += len(delta.tokens)
                    self.counters["request_success"] += delta.finish_reason is not None
                    for event in answer.events(delta):
                        yield chunk(event)
        except Exception as error:
            log.exception("a stream failed")
            yield chunk(failure(error))
        for event in answer.closing():
            yield chunk(event)
        yield b"data: [DONE]\n\n"

    # -- rewarding ---------------------------------------------------------------------------------------------------

    async def _rewards(self, ids: list[int], activation: bool) -> list[float]:
        """The reward behind each token."""
        check_length(len(ids), self.engine.shape.positions)
        request = Request(np.array(ids), Settings(max_tokens=1))  # its one choice means nothing
        async with aclosing(self.engine.generate(request)) as nothing:
            async for _ in nothing:
                pass
        self.counters["prompt_tokens"] += len(ids)
        self.counters["request_success"] += 1
        raw = np.array(request.rewards)
        return (1 / (1 + np.exp(-raw)) if activation else raw).tolist()

    async def _pool(self, body: bytes) -> tuple[list[list[float]], bool, int]:
        """Rewards of every input, whether those of all tokens are wanted, and how many tokens there were."""
        asked = parse(PoolingRequest, body)
        self._check_model(asked.model)
        tasks = (None, "classify", "token_classify")
        need(asked.task in tasks, f"no task {asked.task!r}; there are: {', '.join(tasks[1:])}", "task")
        inputs: list[Any] = [asked.input] if isinstance(asked.input, str) else list(asked.input or ())
        if asked.messages is not None:
            inputs = [self._render(asked)]
        elif inputs and isinstance(inputs[0], int):
            inputs = [inputs]
        need(inputs, "nothing to rate: give input or messages", "body.input")
        texts = [self._ids(one) for one in inputs]
        rewards = await asyncio.gather(*(self._rewards(ids, asked.use_activation) for ids in texts))
        return rewards, asked.task == "token_classify", sum(map(len, texts))

    async def _pooling(self, body: bytes) -> Any:
        rewards, each, tokens = await self._pool(body)
        data = [[[value] for value in values] if each else values[-1:] for values in rewards]
        return self._rated("pooling", [{"object": "pooling", "data": one} for one in data], tokens)

    async def _classify(self, body: bytes) -> Any:
        rewards, _, tokens = await self._pool(body)
        data = [{"label": "LABEL_0", "probs": values[-1:], "num_classes": 1} for values in rewards]
        return self._rated("classify", data, tokens)

    async def _score(self, body: bytes) -> Any:
        asked = parse(ScoreRequest, body)
        self._check_model(asked.model)
        firsts, seconds = ([one] if isinstance(one, str) else one for one in (asked.text_1, asked.text_2))
        firsts = firsts * len(seconds) if len(firsts) == 1 else firsts
        need(len(firsts) == len(seconds), "text_1 must have one text, or as many as text_2", "text_1")
        encode = self.engine.tokenizer.encode
        pairs = [encode(first) + encode(second) for first, second in zip(firsts, seconds, strict=True)]
        rewards = await asyncio.gather(*(self._rewards(ids, asked.use_activation) for ids in pairs))
        data = [{"object": "score", "score": values[-1]} for values in rewards]
        return self._rated("score", data, sum(map(len, pairs)))

    def _rated(self, kind: str, data: list[dict[str, Any]], tokens: int) -> Any:
        return {
            "id": f"{kind}-{uuid4().hex[:16]}",
            "object": "list",
            "created": int(time()),
            "model": self.engine.name,
            "data": [{"index": index, **one} for index, one in enumerate(data)],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        }

    # -- tokens and facts --------------------------------------------------------------------------------------------

    async def _tokenize(self, body: bytes) -> Any:
        asked = parse(TokenizeRequest, body)
        self._check_model(asked.model)
        need(asked.prompt is not None or asked.messages is not None, "give prompt or messages", "body.prompt")
        ids = self._render(asked) if asked.messages is not None else self._ids(asked.prompt or "")
        return {"count": len(ids), "max_model_len": self.engine.shape.positions, "tokens": ids}

    async def _detokenize(self, body: bytes) -> Any:
        asked = parse(DetokenizeRequest, body)
        self._check_model(asked.model)
        return {"prompt": self.engine.tokenizer.decode(asked.tokens, skip_special=False)}

    async def _models(self, _: bytes) -> Any:
        card = {"id": self.engine.name, "object": "model", "created": int(time()), "owned_by": OWNER}
        return {"object": "list", "data": [card | {"max_model_len": self.engine.shape.positions}]}

    async def _version(self, _: bytes) -> Any:
        return {"version": version("ttscale")}

    async def _health(self, _: bytes) -> str:
        return ""

    async def _metrics(self, _: bytes) -> str:
        gauges = {"num_requests_running": self.engine.running, "num_requests_waiting": self.engine.waiting}
        counters = {f"{name}_total": value for name, value in self.counters.items()}
        return "".join(f"vllm:{name} {float(value)}\n" for name, value in {**counters, **gauges}.items())

    def _check_model(self, name: str | None) -> None:
        if name not in (None, self.engine.name):
            words = f"The model `{name}` does not exist; there is {self.engine.name}"
            raise Refused(words, "model", status=404, kind="NotFoundError")

    def _render(self, asked: Any) -> list[int]:
        """Token ids of a request's messages."""
        go_on = bool(getattr(asked, "continue_final_message", False))
        need(asked.messages, "a conversation needs at least one message", "messages")
        for number, message in enumerate(asked.messages):
            at = f"body.messages.{number}"
            if not isinstance(message.get("role"), str):
                raise Refused("a message needs a role", f"{at}.role", kind="Bad Request")
            if not isinstance(message.get("content"), str | list | None):
                raise Refused("a message's content must be text or parts", f"{at}.content", kind="Bad Request")
        need(not (go_on and asked.add_generation_prompt), "continue_final_message needs add_generation_prompt=false")
        render = self.engine.tokenizer.render
        try:
            text = render(asked.messages, open_turn=asked.add_generation_prompt, go_on=go_on)
        except ValueError as error:
            raise Refused(str(error), "messages") from None
        return self.engine.tokenizer.encode(text)

    def _ids(self, prompt: str | list[int]) -> list[int]:
        """Token ids of a prompt, those given checked."""
        if isinstance(prompt, str):
            return self.engine.tokenizer.encode(prompt)
        size = self.engine.shape.vocabulary
        strange = next((token for token in prompt if not 0 <= token < size), None)
        need(strange is None, f"token id {strange} is not in the vocabulary of {size}")
        return prompt


async def _whole(text: str) -> Events:
    yield text.encode()
