"""A server whose every answer the test writes itself, for what no model server should send."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.listening import Listening

Respond = Callable[[dict[str, Any]], Any]
"""(body of a POST) -> what it is answered: a choice or choices of a chat answer, or a whole response; may wait."""


def choice(content: str | None, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat choice."""
    said = {"role": "assistant", "content": content, **message}
    return {"index": 0, "message": said, "finish_reason": finish_reason}


@dataclass
class ScriptedServer(Listening):
    """`GET /v1/models` and `/health` say `alive`."""

    respond: Respond
    alive: Callable[[], Any] = lambda: True
    """Whether it says that it is alive; may wait."""
    seen: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def rationed(self, most: int) -> Iterator[None]:
        """Inside, only so many requests are answered; the others wait for as long as their clients do."""
        respond, begun = self.respond, itertools.count()

        async def sparingly(body: dict[str, Any]) -> Any:
            if next(begun) >= most:
                await asyncio.Event().wait()
            return await _waited(respond(body))

        self.respond = sparingly
        try:
            yield
        finally:
            self.respond = respond

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            alive = await _waited(self.alive())
            card = {"id": "test-model", "object": "model", "owned_by": "test"}
            return web.json_response({"object": "list", "data": [card]}, status=200 if alive else 503)
        body = json.loads(await request.content.read())
        self.seen.append(body)
        answer = await _waited(self.respond(body))
        if isinstance(answer, web.StreamResponse):
            return answer
        choices = answer if isinstance(answer, list) else [answer]
        usage = {"prompt_tokens": 3, "completion_tokens": 5 * len(choices), "total_tokens": 3 + 5 * len(choices)}
        return web.json_response({"object": "chat.completion", "model": "m", "choices": choices, "usage": usage})


async def _waited(value: Any) -> Any:
    return await value if isinstance(value, Awaitable) else value


@contextmanager
def scripted(respond: Respond, **settings: Any) -> Iterator[ScriptedServer]:
    """A `ScriptedServer` server in a thread of its own, for tests that are no coroutines."""
    ready, ends = threading.Event(), []
    server = ScriptedServer(respond, **settings)

    async def serve() -> None:
        end = asyncio.Event()
        ends.extend([asyncio.get_running_loop(), end])
        async with server:
            ready.set()
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="scripted", daemon=True)
    thread.start()
    assert ready.wait(10), "the server did not start"
    try:
        yield server
    finally:
        ends[0].call_soon_threadsafe(ends[1].set)
        thread.join(10)
