"""A model that is a function: for tests and examples, without a server, through the very same sampler."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from tts.sampler.endpoint import Endpoint
from tts.sampler.protocol import estimate_prompt, estimate_tokens
from tts.sampler.transport import Reply, Request

Handler = Callable[[dict[str, Any]], str | Awaitable[str]]


def MockModel(handler: Handler, *, model: str = "mock", **settings: Any) -> Endpoint:
    """An endpoint whose every choice is the text `handler(request)`, where `request` is the request's JSON body.

    `settings` are further fields of `Endpoint`. Tokens are counted by the rule of four bytes each.

        endpoint = MockModel(lambda request: "Answer: 42")
    """

    async def answer(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": model, "owned_by": "mock"}]})
        body = request.json()
        made = [handler(body) for _ in range(body.get("n", 1))]
        texts = [await text if inspect.isawaitable(text) else text for text in made]
        chat = "messages" in body
        choices = [
            {"index": i, "finish_reason": "stop"}
            | ({"message": {"role": "assistant", "content": text}} if chat else {"text": text})
            for i, text in enumerate(texts)
        ]
        usage = {
            "prompt_tokens": estimate_prompt(body["messages"] if chat else body["prompt"]),
            "completion_tokens": sum(map(estimate_tokens, texts)),
        }
        return Reply.json({"model": model, "choices": choices, "usage": usage})

    return Endpoint(model=model, base_url="mock://model", transport=answer, **settings)
