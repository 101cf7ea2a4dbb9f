"""A gateway on a port of its own, in the running loop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from aiohttp import web
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.support.double import ModelDouble
from tts.gateway import GatewaySettings
from tts.gateway.app import gateway_app
from tts.gateway.service import Gateway
from tts.serving import server_for

ASK: Any = [{"role": "user", "content": "[[p]] What is 6 times 7?"}]
NUMBERS = "answer=numeric_answer"


@asynccontextmanager
async def answered_by(
    answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> AsyncIterator[ModelDouble]:
    """A model server whose requests `answer` answers."""
    server = await asyncio.get_running_loop().create_server(web.Server(answer), "127.0.0.1", 0)
    try:
        yield ModelDouble(port=server.sockets[0].getsockname()[1])
    finally:
        server.close()


@dataclass
class Served:
    """A gateway and the ways to it."""

    gateway: Gateway
    base_url: str
    http: httpx.AsyncClient
    server: uvicorn.Server
    clients: list[Any] = field(default_factory=list)
    """Those that it has given out, which are closed at the end."""

    def openai(self, key: str = "none", **settings: Any) -> Any:
        client = AsyncOpenAI(base_url=self.base_url, api_key=key, max_retries=0, timeout=120, **settings)
        self.clients.append(client)
        return client

    def anthropic(self, **settings: Any) -> Any:
        base_url = self.base_url.removesuffix("/v1")
        client = AsyncAnthropic(base_url=base_url, max_retries=0, timeout=120, **{"api_key": "none", **settings})
        self.clients.append(client)
        return client

    async def chat(self, model: str = "qwen", messages: Any = ASK, **fields: Any) -> httpx.Response:
        return await self.http.post("/chat/completions", json={"model": model, "messages": messages, **fields})

    async def left(self, model: str, double: ModelDouble) -> None:
        """A client asks, and leaves once the model's server is at work."""
        asking = asyncio.create_task(self.chat(model))
        async with asyncio.timeout(120):
            while not double.stats.running:
                await asyncio.sleep(0.005)
            asking.cancel()
            await double.idle()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection."""
        return await asyncio.open_connection(*self.base_url[7:-3].split(":"))

    async def at_rest(self) -> None:
        """Wait until nothing is going on."""
        async with asyncio.timeout(120):
            while self.gateway.gate.running or self.gateway.gate.queued:
                await asyncio.sleep(0.005)


def settings_for(double: ModelDouble, **settings: Any) -> GatewaySettings:
    """One model, `qwen`, whose server knows it as `test-model`; impatient, so that retries cost a test no time."""
    endpoint = {"model": "test-model", "base_url": double.base_url, "retry_wait": 0.005, "api_key_env": "NO_KEY"}
    qwen = {**endpoint, **settings.pop("endpoint", {})}
    return GatewaySettings.parse({"models": {"qwen": qwen, **settings.pop("models", {})}, **settings})


@asynccontextmanager
async def serving(double: ModelDouble, **settings: Any) -> AsyncIterator[Served]:
    """A gateway in front of `double`."""
    app = gateway_app(given := settings_for(double, **settings))
    limits = given.limits
    server: Any = server_for(app, drain_seconds=min(limits.drain_seconds, 2), client_seconds=limits.client_seconds)

    told = asyncio.Event()

    async def until_told() -> None:  # uvicorn's own loop looks ten times a second, which is late in a short test
        while not await server.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(told.wait(), 0.1)

    async def shutdown(sockets: list[socket.socket] | None = None) -> None:  # uvicorn's own rests for 0.1 s
        if still_used or server.server_state.tasks:
            return await uvicorn.Server.shutdown(server, sockets)
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await server.lifespan.shutdown()

    server.main_loop, server.shutdown = until_told, shutdown
    still_used = True
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(2048)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        base_url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        many = httpx.Limits(max_connections=None, max_keepalive_connections=50)
        try:
            async with httpx.AsyncClient(base_url=base_url, timeout=300, limits=many) as http:
                async with asyncio.timeout(120):
                    while not server.started:
                        await asyncio.sleep(0.005)
                served = Served(app.state.gateway, base_url, http, server)
                try:
                    yield served
                finally:
                    for client in served.clients:
                        await client.close()
        finally:
            still_used = False
            server.should_exit = True
            told.set()
            await running
