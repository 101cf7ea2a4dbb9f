"""What each route of vLLM's protocol does: a request's body in, a response or its events out."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import time
from typing import Any
from uuid import uuid4

import numpy as np

from tts.errors import log
from tts.lab.engine import vllm_protocol as protocol
from tts.lab.engine.engine import Delta, Engine, GenerationRequest
from tts.lab.engine.sampling import SamplingParams
from tts.lab.engine.vllm_protocol import B, Json, RefusedRequest, need

Parts = AsyncGenerator[bytes, None]

OWNER = "ttscale"
"""Who owns the model in `/v1/models`; tells the sampler that vLLM's extensions are available."""


@dataclass(frozen=True, slots=True)
class ServiceReply:
    """A response over HTTP: its status, its content type and the parts of its body as they come."""

    status: int
    kind: str
    parts: Parts


class Service:
    """The routes of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.counters: dict[str, int] = {"prompt_tokens": 0, "generation_tokens": 0, "request_success": 0}
        generating = {"/v1/chat/completions": self._chat, "/v1/completions": self._text}
        rewarding = {"/pooling": self._pooling, "/classify": self._classify, "/score": self._score}
        posts = generating if engine.shape.kind == "generate" else rewarding
        posts = {**posts, "/tokenize": self._tokenize, "/detokenize": self._detokenize}
        facts = {"/v1/models": self._models, "/version": self._version, "/metrics": self._metrics}
        self._routes = {"POST": posts, "GET": {**facts, "/health": self._health}}

    async def answer(self, method: str, path: str, body: bytes) -> ServiceReply:
        """Answer one request; closing the parts, or cancelling this call, ends its computation."""
        status = 200
        try:
            if path in self._routes.get(method, ()):
                answer = await self._routes[method][path](body)
            else:
                known = any(path in routes for routes in self._routes.values())
                status, words = (405, "Method Not Allowed") if known else (404, "Not Found")
                answer = {"detail": words}
        except RefusedRequest as refused:
            status, answer = refused.status, refused.body
        except Exception as error:
            log.exception("%s failed", path)
            status, answer = 500, protocol.failure(error)
        if isinstance(answer, AsyncGenerator):
            return ServiceReply(status, "text/event-stream; charset=utf-8", answer)
        if isinstance(answer, str):
            return ServiceReply(status, "text/plain; charset=utf-8", _whole(answer))
        return ServiceReply(status, "application/json", _whole(_json(answer)))

    # -- generating ----------------------------------------------------------------------------------------------------

    async def _chat(self, body: bytes) -> Json | Parts:
        asked = self._parse(protocol.ChatRequest, body)
        return await self._generate(asked, self._render(asked))

    async def _text(self, body: bytes) -> Json | Parts:
        asked = self._parse(protocol.TextRequest, body)
        prompt: Any = asked.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            need(len(prompt) == 1, "the embedded engine takes one prompt per request", "prompt")
            prompt = prompt[0]
        return await self._generate(asked, self._ids(prompt))

    async def _generate(self, asked: protocol.SampledRequest, ids: list[int]) -> Json | Parts:
        params = asked.params(len(ids), self.engine.shape.positions)
        request = GenerationRequest(np.array(ids), params, asked.n, asked.stream)
        writer = protocol.VLLMResponseWriter(asked, request, self.engine)
        self.counters["prompt_tokens"] += len(ids) * asked.n
        if asked.stream:
            return self._events(writer, request)
        async with aclosing(self._deltas(request)) as deltas:
            return writer.body(sorted([delta async for delta in deltas], key=lambda delta: delta.index))

    async def _events(self, writer: protocol.VLLMResponseWriter, request: GenerationRequest) -> Parts:
        try:
            async with aclosing(self._deltas(request)) as deltas:
                async for delta in deltas:
                    for event in writer.events(delta):
                        yield _event(event)
        except Exception as error:
            log.exception("a stream failed")
            yield _event(protocol.failure(error))
        for event in writer.closing():
            yield _event(event)
        yield b"data: [DONE]\n\n"

    async def _deltas(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """What is generated for `request`, counted."""
        async with aclosing(self.engine.generate(request)) as deltas:
            async for delta in deltas:
                self.counters["generation_tokens"] += len(delta.tokens)
                self.counters["request_success"] += delta.finish_reason is not None
                yield delta

    # -- rewarding -----------------------------------------------------------------------------------------------------

    async def _rewards(self, texts: list[list[int]], activation: bool) -> list[list[float]]:
        """For each text the reward after each of its tokens."""

        async def rate(ids: list[int]) -> list[float]:
            protocol.check_length(len(ids), self.engine.shape.positions)
            request = GenerationRequest(np.array(ids), SamplingParams(max_tokens=1))  # its one choice means nothing
            async with aclosing(self.engine.generate(request)) as nothing:
                async for _ in nothing:
                    pass
            self.counters["prompt_tokens"] += len(ids)
            self.counters["request_success"] += 1
            raw = np.array(request.rewards)
            return (1 / (1 + np.exp(-raw)) if activation else raw).tolist()

        return await asyncio.gather(*map(rate, texts))

    async def _pool(self, body: bytes) -> tuple[list[list[float]], bool, int]:
        """The rewards of every input, whether those of all tokens are wanted, and the number of tokens read."""
        asked = self._parse(protocol.PoolingRequest, body)
        tasks = (None, "classify", "token_classify")
        need(asked.task in tasks, f"no task {asked.task!r}; there are: {', '.join(tasks[1:])}", "task")
        inputs: list[Any] = [asked.input] if isinstance(asked.input, str) else list(asked.input or ())
        if asked.messages is not None:
            inputs = [self._render(asked)]
        elif inputs and isinstance(inputs[0], int):
            inputs = [inputs]
        need(inputs, "nothing to rate: give input or messages", "body.input")
        texts = [self._ids(one) for one in inputs]
        rewards = await self._rewards(texts, asked.use_activation)
        return rewards, asked.task == "token_classify", sum(map(len, texts))

    async def _pooling(self, body: bytes) -> Json:
        rewards, each, tokens = await self._pool(body)
        data = [[[value] for value in values] if each else values[-1:] for values in rewards]
        return self._rated("pooling", [{"object": "pooling", "data": one} for one in data], tokens)

    async def _classify(self, body: bytes) -> Json:
        rewards, _, tokens = await self._pool(body)
        data = [{"label": "LABEL_0", "probs": values[-1:], "num_classes": 1} for values in rewards]
        return self._rated("classify", data, tokens)

    async def _score(self, body: bytes) -> Json:
        asked = self._parse(protocol.ScoreRequest, body)
        firsts, seconds = ([one] if isinstance(one, str) else one for one in (asked.text_1, asked.text_2))
        firsts = firsts * len(seconds) if len(firsts) == 1 else firsts
        need(len(firsts) == len(seconds), "text_1 must have one text, or as many as text_2", "text_1")
        encode = self.engine.tokenizer.encode
        pairs = [encode(first) + encode(second) for first, second in zip(firsts, seconds, strict=True)]
        rewards = await self._rewards(pairs, asked.use_activation)
        data = [{"object": "score", "score": values[-1]} for values in rewards]
        return self._rated("score", data, sum(map(len, pairs)))

    def _rated(self, kind: str, data: list[Json], tokens: int) -> Json:
        return {
            "id": f"{kind}-{uuid4().hex[:16]}",
            "object": "list",
            "created": int(time()),
            "model": self.engine.name,
            "data": [{"index": index, **one} for index, one in enumerate(data)],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        }

    # -- tokens and facts ----------------------------------------------------------------------------------------------

    async def _tokenize(self, body: bytes) -> Json:
        asked = self._parse(protocol.TokenizeRequest, body)
        need(asked.prompt is not None or asked.messages is not None, "give prompt or messages", "body.prompt")
        ids = self._render(asked) if asked.messages is not None else self._ids(asked.prompt or "")
        return {"count": len(ids), "max_model_len": self.engine.shape.positions, "tokens": ids}

    async def _detokenize(self, body: bytes) -> Json:
        asked = self._parse(protocol.DetokenizeRequest, body)
        return {"prompt": self.engine.tokenizer.decode(asked.tokens, skip_special=False)}

    async def _models(self, _: bytes) -> Json:
        card = {"id": self.engine.name, "object": "model", "created": int(time()), "owned_by": OWNER}
        return {"object": "list", "data": [card | {"max_model_len": self.engine.shape.positions}]}

    async def _version(self, _: bytes) -> Json:
        return {"version": version("ttscale")}

    async def _health(self, _: bytes) -> str:
        return ""

    async def _metrics(self, _: bytes) -> str:
        gauges = {"num_requests_running": self.engine.running, "num_requests_waiting": self.engine.waiting}
        counters = {f"{name}_total": value for name, value in self.counters.items()}
        return "".join(f"vllm:{name} {float(value)}\n" for name, value in {**counters, **gauges}.items())

    # -- what requests share -------------------------------------------------------------------------------------------

    def _parse(self, kind: type[B], body: bytes) -> B:
        """The request in `body`, if it is for this engine's model."""
        asked = protocol.parse(kind, body)
        if asked.model not in (None, self.engine.name):
            words = f"The model `{asked.model}` does not exist; there is {self.engine.name}"
            raise RefusedRequest(words, "model", status=404, kind="NotFoundError")
        return asked

    def _render(self, asked: protocol.Conversation) -> list[int]:
        """Token ids of a request's messages."""
        messages, go_on = asked.messages or [], asked.continue_final_message
        need(messages, "a conversation needs at least one message", "messages")
        for number, message in enumerate(messages):
            at = f"body.messages.{number}"
            if not isinstance(message.get("role"), str):
                raise RefusedRequest("a message needs a role", f"{at}.role", kind="Bad Request")
            if not isinstance(message.get("content"), str | list | None):
                raise RefusedRequest("a message's content must be text or parts", f"{at}.content", kind="Bad Request")
            for part in message["content"] if isinstance(message.get("content"), list) else ():
                if not isinstance(part, dict) or not isinstance(part.get("text"), str):
                    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                    raise RefusedRequest(f"this model reads texts only, no {kind}", f"{at}.content", kind="Bad Request")
        need(not (go_on and asked.add_generation_prompt), "continue_final_message needs add_generation_prompt=false")
        tokenizer = self.engine.tokenizer
        try:
            return tokenizer.encode(tokenizer.render(messages, open_turn=asked.add_generation_prompt, go_on=go_on))
        except ValueError as error:
            raise RefusedRequest(str(error), "messages") from None

    def _ids(self, prompt: str | list[int]) -> list[int]:
        """Token ids of a prompt; given ids are checked."""
        if isinstance(prompt, str):
            return self.engine.tokenizer.encode(prompt)
        size = self.engine.shape.vocabulary
        unknown = next((token for token in prompt if not 0 <= token < size), None)
        need(unknown is None, f"token id {unknown} is not in the vocabulary of {size}")
        return prompt


async def _whole(text: str) -> Parts:
    yield text.encode()


def _event(data: Json) -> bytes:
    return f"data: {_json(data)}\n\n".encode()


def _json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))


_loading = threading.Lock()


def load_service(folder: Path) -> Service:
    """The service of the model in `folder`, loaded once in this process.

    Raises `ConfigError` if there is no model that the engine can run.
    """
    with _loading:
        return _load(folder.resolve())


@functools.cache
def _load(folder: Path) -> Service:
    return Service(Engine(folder))
