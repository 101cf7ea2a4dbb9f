"""Small requests of our own that show what a server lacks: one request's refusal may be about that request alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tts.accounts import Ledger
from tts.errors import EndpointError, RequestRejected, TransientError
from tts.sampler import protocol, refusals
from tts.sampler.connection import Connection
from tts.sampler.parameters import FALLBACKS, without
from tts.types import Charge, Drawing, Prompt, Usage


async def lack_of(
    parameter: str, path: str, prompt: Prompt, connection: Connection, refused: set[str], *, role: str, ledger: Ledger
) -> str | None:
    """How a small request to `path`, where `prompt` went, shows that the server lacks `parameter`.

    Empty if it does not lack it, None without an answer. Parameters known to be `refused` are left out.
    """
    drawing, trial = isinstance(prompt, Drawing), FALLBACKS[parameter].trial
    if drawing and parameter == "response_format":
        trial = "b64_json"
    question = prompt if drawing else "Hi" if path == "/completions" else [{"role": "user", "content": "Hi"}]
    limit = {} if drawing or parameter == "max_completion_tokens" else {"max_tokens": 16}
    _, body = protocol.request(question, connection.endpoint.model, limit)
    body = {**without(body, refused), parameter: trial}
    if parameter == "stream_options":
        body["stream"] = True
    data: Any = None
    try:
        async with connection.exchange(role, ledger, 0) as exchange:
            if parameter == "stream_options":
                async with connection.http.stream(exchange.url, path, body):
                    pass
            else:
                data = await connection.http.json(exchange.url, path, body)
    except RequestRejected as error:
        blamed = refusals.blamed(error, [parameter]) is not None
        return f"it refuses {parameter} ({refusals.server_message(error.body)})" if blamed else ""
    except EndpointError:
        return None
    data = data if isinstance(data, Mapping) else {}
    usage = Usage(requests=1, seconds=exchange.seconds)
    with suppress(TransientError):
        usage += protocol.usage_of(data.get("usage")) or Usage()
    ledger.paid.add(Charge(exchange.id, role, usage, exchange.started))
    choices = data.get("data" if drawing else "choices")
    ignored = parameter == "n" and isinstance(choices, list) and len(choices) == 1
    return "it returns a single choice whatever n is" if ignored else ""
