"""The start and the end of a test's own server."""

from __future__ import annotations

import asyncio
from typing import Self

from aiohttp import web


class Listening:
    """An async context manager; `base_url` is where it is."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: a free one."""

    async def __aenter__(self) -> Self:
        self._server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._server, self.host, self.port, backlog=2048)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await self._server.shutdown(timeout=0.01)

    async def deserted(self) -> None:
        """Wait until no client is connected, and all has been seen that those had sent who were killed before."""
        reader, writer = await asyncio.open_connection(self.host, self.port)  # let in after them
        writer.write(b"GET /health HTTP/1.0\r\n\r\n")
        await reader.read()
        writer.close()
        while self._server.connections:
            await asyncio.sleep(0.001)

    @property
    def base_url(self) -> str:
        """Where the API is, `/v1` included."""
        return f"http://{self.host}:{self.port}/v1"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        raise NotImplementedError
