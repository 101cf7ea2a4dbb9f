"""llama.cpp's server with a real small model: answers that grow piece by piece, and what they cost."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from experiments.models.fetch import MODELS, models_folder
from experiments.models.serve import llama_server, served
from tests.third_party.beam_search import BeamSearch
from tts import Continuation, Endpoint, Problem, Sampler, Session, solve
from tts.local_vllm import loopback_client, summed_metrics
from tts.sampler.probe import probe
from tts.sampler.scoring import detokenize, tokenize
from tts.types import sum_usage

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTION = Problem.from_prompt("Name three colours of the rainbow.")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint() -> AsyncIterator[Endpoint]:
    if llama_server() is None:
        pytest.skip("llama.cpp's server is not built here: TTS_LLAMA_SERVER names the program")
    if not (models_folder() / MODELS["smollm2-135m"].file).exists():
        pytest.skip("SmolLM2-135M-Instruct is not here: `python -m experiments.models smollm2-135m` fetches it")
    async with served("smollm2-135m", in_flight=4, context=1024) as endpoint:
        yield endpoint


async def billed(endpoint: Endpoint) -> tuple[float, float]:
    """Prompt tokens (cached ones included) and generated tokens that the server counts."""
    async with loopback_client() as client:
        found = summed_metrics((await client.get(endpoint.base_url.removesuffix("/v1") + "/metrics")).text)
    prompts = found["llamacpp:prompt_tokens_total"] + found["llamacpp:prompt_tokens_cached_total"]
    return prompts, found["llamacpp:tokens_predicted_total"]


async def test_a_prompt_is_read_as_the_chat_route_reads_it(endpoint: Endpoint):
    async with Sampler(endpoint) as sampler:
        session = Session(QUESTION, {"policy": sampler})
        sample = await session.one(max_tokens=1)
        head = await tokenize(sampler, QUESTION.messages)
        assert sample is not None
        assert session.spent.prompt_tokens == len(head)


async def test_an_answer_in_pieces_is_the_answer_in_one(endpoint: Endpoint):
    async with Sampler(endpoint) as sampler:
        session = Session(QUESTION, {"policy": sampler})
        whole = await (await Continuation.start(session)).extend(tokens=48, temperature=0)
        grown = await Continuation.start(session)
        assert grown.exact
        for _ in range(6):
            if not grown.ended:
                grown = await grown.extend(tokens=8, temperature=0)
        assert grown.ids == whole.ids
        assert grown.text == whole.text


@pytest.mark.parametrize("stop", ["\n", ".", "e ", "colo"])
async def test_a_step_ends_with_its_stop_string_and_text_and_ids_never_part(endpoint: Endpoint, stop: str):
    async with Sampler(endpoint) as sampler:
        session = Session(QUESTION, {"policy": sampler})
        grown = await Continuation.start(session)
        for _ in range(4):
            if not grown.ended:
                grown = await grown.extend(stop=stop, tokens=60, temperature=0)
                assert grown.ids is not None
                said = await detokenize(sampler, grown.ids)
                assert said.removesuffix("<|im_end|>") == grown.text


async def test_what_a_search_costs_is_what_the_server_counts(endpoint: Endpoint):
    before = await billed(endpoint)
    results = [
        await solve(QUESTION, one, endpoint) for one in (BeamSearch(), "best_of_n:n=4,verifier=regex(pattern=red)")
    ]
    after = await billed(endpoint)
    spent = sum_usage(result.usage for result in results)
    assert (spent.prompt_tokens, spent.completion_tokens) == (after[0] - before[0], after[1] - before[1])


async def test_the_probe_finds_what_it_can_do(endpoint: Endpoint):
    async with Sampler(endpoint) as sampler:
        found = await probe(sampler)
    assert found.server.startswith("llama.cpp")
    assert found.chat
    assert found.completions
    assert found.logprobs
    assert found.token_ids
    assert found.tokenize
    assert found.continuation
    assert not found.n
    assert not found.prompt_logprobs
