"""Providers with protocols of their own (Anthropic, Gemini, Bedrock, ...): LiteLLM as a transport for chat requests.

It takes what the sampler sends to any server, and answers as such a server would. LiteLLM translates; the bytes go over
the transport of any other endpoint, which remembers what the provider really said: its errors arrive as they were, not
as LiteLLM words them.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from tts.errors import ConfigError
from tts.sampler.parameters import KNOWN
from tts.sampler.transport import Reply, Request, Transport

SCHEME = "litellm"
"""Of base URLs: `litellm://anthropic`. Further settings of LiteLLM are query parameters: `?api_base=URL`."""

FORWARDED = KNOWN | {"messages", "n", "stream", "stream_options"}
"""Fields of a request that LiteLLM gets. Others may be settings of its own, such as where to send the key."""

Met = list[tuple[int, Mapping[str, str], bytes] | Exception]
"""What has come of a request to the provider, attempt by attempt: status, headers and, of an error, body, or a failure
of the connection."""
MET: ContextVar[Met] = ContextVar("met")
"""That of the present request."""


def check_provider(url: str) -> None:
    """Raise `ConfigError` unless `url` names a provider and LiteLLM is installed."""
    if not urlsplit(url).hostname:
        raise ConfigError(f"'{url}' names no provider; write for example {SCHEME}://anthropic")
    if find_spec("litellm") is None:
        raise ConfigError(f"{url} needs LiteLLM: pip install 'ttscale[providers]'")


class ProviderTransport:
    """Answers chat requests below a `litellm://PROVIDER` URL. LiteLLM is imported by the first of them, in a thread."""

    def __init__(self, network: Transport) -> None:
        """`network` carries the requests to providers."""
        self._network = network
        self._loading: asyncio.Task[tuple[Any, Any]] | None = None

    async def __call__(self, request: Request) -> Reply:
        if request.method == "GET":  # its health, its list of models
            return _refusal(404, "LiteLLM does not tell")
        if not request.url.path.endswith("/chat/completions"):
            return _refusal(501, "providers behind LiteLLM take conversations only")
        body: dict[str, Any] = request.json()
        model = f"{request.url.host}/{body.pop('model')}"
        if strange := sorted(body.keys() - FORWARDED):
            return _refusal(400, f"LiteLLM is not given the field {strange[0]}", strange[0])
        complete, client = await self.loaded()
        settings = dict(request.url.query)
        if key := request.headers.get("authorization", "").removeprefix("Bearer "):
            settings.setdefault("api_key", key)
        MET.set(met := [])
        try:
            answer = await complete(model=model, **body, **settings, client=client, num_retries=0, max_retries=0)
            if not body.get("stream"):
                return Reply.whole(200, answer.model_dump_json(exclude_none=True).encode())
            first = await anext(answer, None)  # some providers are not asked before
            return Reply(200, _events(answer, first, met), {"content-type": "text/event-stream"}, answer.aclose)
        except Exception as error:
            failure = error
        return _told(failure, met)  # which may raise what this came of

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

                GLOBAL_LOGGING_WORKER.start()  # else it may be that of a loop which is closed by now
                await GLOBAL_LOGGING_WORKER.stop()  # its next request starts it anew


def load(network: Transport) -> tuple[Any, Any]:
    """LiteLLM's function for chat, and the client that it is to use."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing it asks the network
    import httpx
    import litellm
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    from tts.sampler.wire import Wire

    litellm.suppress_debug_info = True  # which it prints
    return litellm.acompletion, AsyncHTTPHandler(timeout=httpx.Timeout(None), transport=Wire(network))


def _told(error: Exception, met: Met) -> Reply:
    """What the provider answered, if that was an error, else what LiteLLM raised."""
    last = met[-1] if met else None
    if isinstance(last, Exception):
        raise last
    if last is None or last[0] < 300:
        words, _, _ = " ".join(str(error).split()).partition(" To drop these")  # the rest is for its own users
        return _refusal(_status(error, 429 if met else 400), words)
    status, headers, body = last
    return Reply.whole(status, body, headers)


def _status(error: Exception, lowest: int = 429) -> int:
    """The status that LiteLLM's error stands for; what is below `lowest`, as when a good answer cannot be read, is no
    fault of the request."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and status >= lowest else 502


def _refusal(status: int, message: str, param: str | None = None) -> Reply:
    return Reply.json({"error": {"message": message, "param": param, "code": status}}, status)


async def _events(stream: Any, first: Any, met: Met) -> AsyncIterator[bytes]:
    """A stream of LiteLLM's as events. Closing the stream closes the connection to the provider."""
    try:
        if first is not None:
            yield _event(first.model_dump_json(exclude_none=True))
        async for chunk in stream:
            yield _event(chunk.model_dump_json(exclude_none=True))
    except Exception as error:
        yield _event(json.dumps({"error": {"message": str(error), "code": _status(error)}}))
        return
    if isinstance(met[-1], Exception):
        raise met[-1]
    if stream.received_finish_reason is not None:  # else LiteLLM made up the end
        yield _event("[DONE]")


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()
