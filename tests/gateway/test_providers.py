"""A gateway in front of a provider with a protocol of its own: the same answers, accounts and errors as any model's."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tests.gateway.serving import ASK, NUMBERS, serving
from tests.sampler.test_providers import KEY, TEXT, endpoint, refusal, speaking
from tests.support.double import ModelDouble
from tests.support.raw_answers import Scripted
from tts.sampler import providers
from tts.sampler.transport import Network


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    providers.load(Network())


def gateway(provider: str, server: Scripted) -> Any:
    place = endpoint(provider, server).model_dump(include={"model", "base_url", "max_n"})
    return serving(cast(ModelDouble, server), endpoint={**place, "api_key": KEY, "max_attempts": 1})


@pytest.mark.parametrize("provider", ["anthropic", "gemini"])
@pytest.mark.parametrize("model", ["qwen", "single@qwen", f"self_consistency:n=2,{NUMBERS}@qwen"])
async def test_clients_of_both_protocols_get_answers_with_their_exact_usage(provider: str, model: str):
    samples = 2 if "n=2" in model else 1
    async with speaking(provider) as server, gateway(provider, server) as served:
        client, options = served.openai(), {"model": model, "messages": ASK}
        whole = await client.chat.completions.create(**options)
        streamed = await client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in streamed]
        message = await served.anthropic().messages.create(**options, max_tokens=50)
        embedded = await served.http.post("/embeddings", json={"model": "qwen", "input": "x"})
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert whole.choices[0].message.content == said == message.content[0].text == TEXT
    assert [chunk.usage for chunk in chunks if chunk.usage][-1].completion_tokens == 7 * samples
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (8 * samples, 7 * samples)
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (5 * samples, 3 * samples)
    assert embedded.status_code == 404
    assert "conversations only" in embedded.json()["error"]["message"]


@pytest.mark.parametrize("provider", ["anthropic", "gemini"])
@pytest.mark.parametrize(("status", "told"), [("429 Too Many Requests", 429), ("401 Unauthorized", 401)])
async def test_its_refusals_are_those_of_any_model(provider: str, status: str, told: int):
    replies = [refusal(status, f"No, {KEY}.", **{"retry-after": "3"})] * 2
    async with speaking(provider, *replies) as server, gateway(provider, server) as served:
        for model in ("qwen", "single@qwen"):
            got = await served.chat(model)
            assert got.status_code == told
            assert KEY not in got.text
            assert told != 429 or got.headers["retry-after"] == "3"
