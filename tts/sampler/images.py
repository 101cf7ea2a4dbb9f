"""The answers of an images API (`/v1/images/generations`): base64 or a URL, turned into files."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from tts.errors import EndpointError, RequestRejected, TransientError
from tts.images import Pictures
from tts.sampler.connection import Connection
from tts.sampler.protocol import Choice, Reply, usage_of

FETCHES = 3
"""Tries to fetch a picture that has been paid for."""


async def read_pictures(data: Any, connection: Connection, pictures: Pictures) -> Reply:
    """The pictures of an answer, each kept; a choice's text is its file's name.

    Raises `RequestRejected` where a filter left none, `TransientError` where the answer cannot be read or fetched.
    """
    items = data.get("data") if isinstance(data, Mapping) else None
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise TransientError(f"the answer has no readable pictures: {str(data)[:200]}")
    given = [(i, item) for i, item in enumerate(items) if item.get("b64_json") or item.get("url")]
    if items and not given:
        raise RequestRejected(f"the server kept its pictures back: {str(items[0])[:200]}", status=400)
    choices = [Choice(i, await _kept(item, connection, pictures), "stop", tokens=0) for i, item in given]
    return Reply(choices, _usage(data.get("usage")), str(data.get("model") or ""))


async def _kept(item: Mapping[str, Any], connection: Connection, pictures: Pictures) -> str:
    try:
        if item.get("b64_json"):
            return await pictures.keep(b64decode(item["b64_json"]))
        return await pictures.keep(await _fetched(item["url"], connection))
    except ValueError as error:
        raise TransientError(f"the answer has no readable picture: {error}") from error


async def _fetched(url: str, connection: Connection) -> bytes:
    if url.startswith("data:"):
        return b64decode(url.partition(",")[2])
    for left in reversed(range(FETCHES)):
        try:
            return await connection.fetch(url)
        except EndpointError as error:
            if not left:  # drawing it again would be paid again
                raise RequestRejected(f"the picture was drawn but cannot be fetched: {error}") from error
    raise AssertionError("unreachable: the last error is raised")


def _usage(data: Any) -> Any:
    """The images API counts input and output tokens, where it counts any."""
    if isinstance(data, Mapping) and "input_tokens" in data:
        data = {"prompt_tokens": data["input_tokens"], "completion_tokens": data.get("output_tokens", 0)}
    return usage_of(data)
