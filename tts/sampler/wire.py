"""A transport as one of httpx's, which LiteLLM sends requests over: it remembers what providers say."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
from multidict import CIMultiDict
from yarl import URL

from tts.errors import TransientError
from tts.sampler.providers import MET, Met
from tts.sampler.transport import LOST, Reply, Request, Transport

OF_THE_CONNECTION = {"connection", "content-encoding", "content-length", "host", "transfer-encoding"}
"""Headers that a transport sees to."""


class Wire(httpx.AsyncBaseTransport):
    """Goes by `network`, which LiteLLM cannot close."""

    def __init__(self, network: Transport) -> None:
        self._network = network

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        met, headers = MET.get([]), CIMultiDict(request.headers.multi_items())
        headers["accept-encoding"] = "identity"
        url = URL(str(request.url), encoded=True)  # it may be signed
        try:
            reply = await self._network(Request(request.method, url, _without(headers), await request.aread()))
            body = await reply.read() if reply.status >= 300 else b""
        except (*LOST, TransientError) as error:
            met.append(error)
            raise httpx.NetworkError(str(error)) from error
        shown = _without(CIMultiDict(reply.headers))
        met.append((reply.status, shown, body))
        stream = httpx.ByteStream(body) if body else _Watched(reply, met)
        return httpx.Response(reply.status, headers=list(shown.items()), stream=stream, request=request)


class _Watched(httpx.AsyncByteStream):
    """A body that LiteLLM reads; it takes some of those that break off for complete."""

    def __init__(self, reply: Reply, met: Met) -> None:
        self._reply, self._met = reply, met

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._reply:
                yield part
        except (*LOST, TransientError) as error:
            self._met.append(error)
            raise httpx.NetworkError(str(error)) from error

    async def aclose(self) -> None:
        await self._reply.aclose()


def _without(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in OF_THE_CONNECTION)
