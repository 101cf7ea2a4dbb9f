"""Providers with protocols of their own, by LiteLLM: the same samples, accounts and errors as from any server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import tts
from tests.support.raw_answers import Reply, Scripted, response
from tests.support.solving import draw
from tts.accounts import Ledger
from tts.errors import ConfigError, EndpointRefused, SamplingFailed
from tts.sampler import Endpoint, Sampler, providers
from tts.sampler.transport import Network
from tts.types import by_role

KEY = "sk-provider-0123456789"
TEXT = "It is 42. Answer: 42"


def anthropic(text: str = TEXT, **fields: Any) -> dict[str, Any]:
    said = {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
    usage = {"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 0}
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1", "usage": usage, **said, **fields}


def anthropic_events(text: str = TEXT) -> list[dict[str, Any]]:
    pieces = [text[i : i + 6] for i in range(0, len(text), 6)]
    begun = anthropic() | {"content": [], "stop_reason": None}
    begun["usage"] = begun["usage"] | {"output_tokens": 1}
    return [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
            for piece in pieces
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]


def gemini(text: str = TEXT, reason: str | None = "STOP", out: int = 7) -> dict[str, Any]:
    usage = {"promptTokenCount": 8, "candidatesTokenCount": out, "totalTokenCount": 8 + out}
    usage["cachedContentTokenCount"] = 3
    said: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    if reason:
        said["finishReason"] = reason
    return {"candidates": [said], "usageMetadata": usage, "modelVersion": "m-1"}


def gemini_events(text: str = TEXT) -> list[dict[str, Any]]:
    middle = len(text) // 2
    return [gemini(text[:middle], None, 3), gemini(text[middle:])]


WHOLE: dict[str, Callable[..., dict[str, Any]]] = {"anthropic": anthropic, "gemini": gemini}
EVENTS = {"anthropic": anthropic_events, "gemini": gemini_events}


def sse(events: Iterable[dict[str, Any]]) -> bytes:
    lines = [f"event: {one.get('type')}\n" * ("type" in one) + f"data: {json.dumps(one)}\n\n" for one in events]
    return response("".join(lines).encode(), content_type="text/event-stream")


def refusal(status: str, message: str = "No.", **headers: str) -> bytes:
    number = int(status.split()[0])
    error = {"type": "some_error", "code": number, "status": "SOME", "message": message}
    return response({"type": "error", "error": error}, status, **headers)


def speaking(provider: str, *first: Reply) -> Scripted:
    """A server that speaks as `provider` does, after its `first` replies; in pieces where it is asked to."""
    left = iter(first)

    def reply(body: dict[str, Any]) -> Reply:
        streamed = body.get("stream") or "streamGenerateContent" in server.head
        usual = sse(EVENTS[provider]()) if streamed else response(WHOLE[provider]())
        return next(left, usual)

    server = Scripted(reply)
    return server


def endpoint(provider: str, server: Scripted, **settings: Any) -> Endpoint:
    place = server.base_url.removesuffix("/v1")
    place += "/v1beta" if provider == "gemini" else ""
    url = f"litellm://{provider}?api_base={place}"
    return Endpoint(**{"model": "m-1", "base_url": url, "api_key": KEY, "retry_wait": 0.005, "max_n": 1} | settings)


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """LiteLLM takes seconds to import, more than a request has here on a busy machine."""
    providers.load(Network())


both = pytest.mark.parametrize("provider", ["anthropic", "gemini"])
any_way = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@both
@any_way
async def test_a_sample_comes_with_its_exact_usage(provider: str, stream: bool):
    async with speaking(provider) as server, Sampler(endpoint(provider, server, stream=stream)) as sampler:
        ledger = Ledger()
        (sample,) = await draw(sampler, 1, ledger, max_tokens=20, temperature=0.5)
    assert (sample.text, sample.finish_reason, sample.model) == (TEXT, "stop", "m-1")
    (paid,) = by_role(ledger.paid).values()
    assert (paid.requests, paid.prompt_tokens, paid.cached_tokens, paid.completion_tokens) == (1, 8, 3, 7)
    assert paid.estimated_tokens == 0
    assert KEY in server.head  # in a header of the provider's own, or its query
    (body,) = server.requests
    assert body.get("max_tokens", body.get("generationConfig", {}).get("max_output_tokens")) == 20
    assert "model" in body or "m-1" in server.head


@both
async def test_strategies_work_as_with_any_server(provider: str):
    async with speaking(provider) as server:
        result = await tts.solve("What is 6 * 7?", "self_consistency:n=2", endpoint(provider, server))
    assert result.answer == "42"
    assert len(server.requests) == 2
    assert result.usage.completion_tokens == 14


@both
@any_way
async def test_a_failure_that_passes_is_tried_again(provider: str, stream: bool):
    broken = [
        refusal("429 Too Many Requests", retry_after="0"),
        refusal("529 Overloaded"),
        refusal("500 Internal Server Error"),
        b"",
    ]
    if not stream:
        broken += [response(b"<html>"), response({"type": "message"})]
    async with (
        speaking(provider, *broken) as server,
        Sampler(endpoint(provider, server, stream=stream, max_attempts=20)) as sampler,
    ):
        (sample,) = await draw(sampler)
    assert sample.text == TEXT
    assert len(server.requests) >= len(broken)


@both
@any_way
@pytest.mark.parametrize(("status", "kind"), [("400 Bad Request", SamplingFailed), ("401 No", EndpointRefused)])
async def test_a_refusal_has_the_providers_status_and_words_and_never_the_key(
    provider: str, stream: bool, status: str, kind: type[Exception]
):
    async with (
        speaking(provider, *[refusal(status, f"Not so: {KEY}")] * 4) as server,
        Sampler(endpoint(provider, server, stream=stream)) as sampler,
    ):
        with pytest.raises(kind) as caught:
            await draw(sampler)
    told = str(caught.value) + repr(caught.value.__cause__)
    assert "Not so: [API key]" in told
    assert KEY not in told
    assert status[:3] in told
    assert len(server.requests) == 1


def cut(events: list[dict[str, Any]], *, cleanly: bool) -> bytes:
    """A stream whose last events are missing: it ends as if they did not exist, or within a chunk."""
    whole = sse(events)
    head, _, body = whole.partition(b"\r\n\r\n")
    return whole if cleanly else head + b"\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s" % (len(body) + 9, body)


@pytest.mark.parametrize(("provider", "cleanly"), [("anthropic", True), ("anthropic", False), ("gemini", False)])
async def test_a_stream_that_breaks_off_is_no_answer(provider: str, cleanly: bool):
    broken = cut(EVENTS[provider]()[: -3 if provider == "anthropic" else -1], cleanly=cleanly)
    async with speaking(provider, broken) as server, Sampler(endpoint(provider, server, stream=True)) as sampler:
        ledger = Ledger()
        (sample,) = await draw(sampler, 1, ledger)
    assert sample.text == TEXT
    assert len(server.requests) == 2
    assert ledger.failures == []


async def test_an_error_within_a_stream_is_tried_again():
    events = [
        *anthropic_events()[:3],
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    ]
    async with (
        speaking("anthropic", sse(events)) as server,
        Sampler(endpoint("anthropic", server, stream=True)) as sampler,
    ):
        (sample,) = await draw(sampler)
    assert sample.text == TEXT
    assert len(server.requests) == 2


async def test_a_parameter_that_the_provider_lacks_is_left_out_and_said():
    async with speaking("anthropic") as server, Sampler(endpoint("anthropic", server)) as sampler:
        (sample,) = await draw(sampler, seed=3, params={})
        assert any("seed" in notice for notice in sampler.notices)
    assert sample.text == TEXT
    assert all("seed" not in body for body in server.requests)


@both
@any_way
async def test_leaving_closes_the_connection_and_no_task_stays(provider: str, stream: bool):
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if stream:
            writer.write(sse(EVENTS[provider]()[:3]))
        asked.set()
        while await reader.read(1000):
            pass
        gone.set()
        writer.close()

    asked = asyncio.Event()
    before = asyncio.all_tasks()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        place = Scripted(lambda body: b"")
        place.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with Sampler(endpoint(provider, place, stream=stream)) as sampler:
            task = asyncio.create_task(draw(sampler))
            async with asyncio.timeout(120):
                await asked.wait()
                await asyncio.sleep(0.05)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await gone.wait()
    async with asyncio.timeout(120):
        while [one for one in asyncio.all_tasks() - before if "serve" not in repr(one)]:
            await asyncio.sleep(0.01)


async def test_a_request_cannot_say_where_the_key_goes():
    async with (
        speaking("anthropic") as server,
        Scripted(lambda body: response(anthropic())) as thief,
        Sampler(endpoint("anthropic", server)) as sampler,
    ):
        with pytest.raises(SamplingFailed, match="not given the field api_base"):
            await draw(sampler, params={"api_base": thief.base_url})
    assert not thief.requests


async def test_text_completions_are_refused_in_plain_words():
    async with speaking("anthropic") as server, Sampler(endpoint("anthropic", server)) as sampler:
        with pytest.raises(SamplingFailed, match="take conversations only"):
            [one async for one in sampler.sample("Once upon a time")]


def test_a_key_is_that_of_the_provider_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another")
    assert Endpoint(model="m", base_url="litellm://anthropic").key() is None
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    assert Endpoint(model="m", base_url="litellm://anthropic").key() == KEY
    assert Endpoint(model="m", base_url="litellm://anthropic", api_key_env="OPENAI_API_KEY").key() == "sk-of-another"
    secret = Endpoint(model="m", base_url="litellm://bedrock?aws_region_name=x&aws_secret_access_key=s3cret")
    assert "s3cret" not in secret.base_url
    assert "aws_region_name=x" in secret.filed_as


def test_a_missing_library_or_provider_is_named(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="names no provider"):
        Endpoint(model="m", base_url="litellm://")
    monkeypatch.setattr("tts.sampler.providers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"ttscale\[providers\]"):
        Endpoint(model="m", base_url="litellm://anthropic")
