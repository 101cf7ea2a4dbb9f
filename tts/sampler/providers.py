"""Providers with protocols of their own (Anthropic, Gemini, Bedrock, ...): LiteLLM as a transport for chat requests.

It takes what the sampler sends to any server, and answers as such a server would. LiteLLM translates; the bytes go over
the transport of any other endpoint, which remembers what the provider really said: its errors arrive as they were, not
as LiteLLM words them.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

import httpx

from tts.errors import ConfigError
from tts.sampler.parameters import KNOWN

SCHEME = "litellm"
"""Of base URLs: `litellm://anthropic`. Further settings of LiteLLM are query parameters: `?api_base=URL`."""

FORWARDED = KNOWN | {"messages", "n", "stream", "stream_options"}
"""Fields of a request that LiteLLM gets. Others may be settings of its own, such as where to send the key."""

MET: ContextVar[list[httpx.Response | httpx.TransportError]] = ContextVar("met")
"""What has come of the present request to the provider, attempt by attempt."""


def check_provider(url: str) -> None:
    """Raise `ConfigError` unless `url` names a provider and LiteLLM is installed."""
    if not httpx.URL(url).host:
        raise ConfigError(f"'{url}' names no provider; write for example {SCHEME}://anthropic")
    if find_spec("litellm") is None:
        raise ConfigError(f"{url} needs LiteLLM: pip install 'ttscale[providers]'")


class ProviderTransport(httpx.AsyncBaseTransport):
    """Answers chat requests below a `litellm://PROVIDER` URL. LiteLLM is imported by the first of them, in a thread."""

    def __init__(self, network: httpx.AsyncBaseTransport) -> None:
        """`network` carries the requests to providers; it is closed with this one."""
        self._network = network
        self._loading: asyncio.Task[tuple[Any, Any]] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":  # its health, its list of models
            return _refusal(404, "LiteLLM does not tell")
        if not request.url.path.endswith("/chat/completions"):
            return _refusal(501, "providers behind LiteLLM take conversations only")
        body: dict[str, Any] = json.loads(request.content)
        model = f"{request.url.host}/{body.pop('model')}"
        if strange := sorted(body.keys() - FORWARDED):
            return _refusal(400, f"LiteLLM is not given the field {strange[0]}", strange[0])
        complete, client = await self.loaded()
        settings = dict(request.url.params)
        if key := request.headers.get("authorization", "").removeprefix("Bearer "):
            settings.setdefault("api_key", key)
        MET.set(met := [])
        try:
            answer = await complete(model=model, **body, **settings, client=client, num_retries=0, max_retries=0)
            if not body.get("stream"):
                text = answer.model_dump_json(exclude_none=True)
                return httpx.Response(200, content=text, headers={"content-type": "application/json"})
            first = await anext(answer, None)  # some providers are not asked before
        except Exception as error:
            return _told(error, met)
        return httpx.Response(200, stream=_Events(answer, first, met), headers={"content-type": "text/event-stream"})

    async def loaded(self) -> tuple[Any, Any]:
        """LiteLLM, which takes seconds to import."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(load, self._network))
        return await asyncio.shield(self._loading)

    async def aclose(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
            if not self._loading.cancelled():
                from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

                await GLOBAL_LOGGING_WORKER.stop()  # its next request starts it anew
        await self._network.aclose()


def load(network: httpx.AsyncBaseTransport) -> tuple[Any, Any]:
    """LiteLLM's function for chat, and the client that it is to use."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing it asks the network
    import litellm
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    litellm.suppress_debug_info = True  # which it prints
    return litellm.acompletion, AsyncHTTPHandler(timeout=httpx.Timeout(None), transport=_Wire(network))


class _Wire(httpx.AsyncBaseTransport):
    """What LiteLLM sends requests over. It is shared, so that LiteLLM cannot close it."""

    def __init__(self, network: httpx.AsyncBaseTransport) -> None:
        self._network = network

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        met = MET.get([])
        try:
            response = await self._network.handle_async_request(request)
            if response.status_code >= 300:
                response.request = request
                await response.aread()
        except httpx.TransportError as error:
            met.append(error)
            raise
        met.append(response)
        response.stream = _Watched(response.stream, met)
        return response


class _Watched(httpx.AsyncByteStream):
    """A body that LiteLLM reads; it takes some of those that break off for complete."""

    def __init__(self, body: Any, met: list[httpx.Response | httpx.TransportError]) -> None:
        self._body, self._met = body, met

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._body:
                yield part
        except httpx.TransportError as error:
            self._met.append(error)
            raise

    async def aclose(self) -> None:
        await self._body.aclose()


def _told(error: Exception, met: list[httpx.Response | httpx.TransportError]) -> httpx.Response:
    """What the provider answered, if that was an error, else what LiteLLM raised."""
    last = met[-1] if met else None
    if isinstance(last, httpx.TransportError):
        raise last
    if last is None or last.status_code < 300:
        words, _, _ = " ".join(str(error).split()).partition(" To drop these")  # the rest is for its own users
        return _refusal(_status(error, 429 if met else 400), words)
    return httpx.Response(last.status_code, content=last.content, headers=_plain(last.headers))


def _status(error: Exception, lowest: int = 429) -> int:
    """The status that LiteLLM's error stands for; what is below `lowest`, as when a good answer cannot be read, is no
    fault of the request."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and status >= lowest else 502


def _plain(headers: httpx.Headers) -> list[tuple[str, str]]:
    """`headers` of a body that is read and uncompressed."""
    gone = ("content-encoding", "content-length", "transfer-encoding")
    return [(name, value) for name, value in headers.multi_items() if name.lower() not in gone]


def _refusal(status: int, message: str, param: str | None = None) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, "param": param, "code": status}})


class _Events(httpx.AsyncByteStream):
    """A stream of LiteLLM's as events. Closing it closes the connection to the provider."""

    def __init__(self, stream: Any, first: Any, met: list[httpx.Response | httpx.TransportError]) -> None:
        self._stream, self._first, self._met = stream, first, met

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for event in self._events():
            yield b"data: " + event + b"\n\n"

    async def _events(self) -> AsyncGenerator[bytes, None]:
        try:
            if self._first is not None:
                yield self._first.model_dump_json(exclude_none=True).encode()
            async for chunk in self._stream:
                yield chunk.model_dump_json(exclude_none=True).encode()
        except Exception as error:
            yield json.dumps({"error": {"message": str(error), "code": _status(error)}}).encode()
            return
        if isinstance(self._met[-1], httpx.TransportError):
            raise self._met[-1]
        if self._stream.received_finish_reason is not None:  # else LiteLLM made up the end
            yield b"[DONE]"

    async def aclose(self) -> None:
        await self._stream.aclose()
