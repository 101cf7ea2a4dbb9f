"""llama.cpp's server with a real small model: answers that grow piece by piece, and what they cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from math import exp

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from experiments.models.serve import llama_server, served
from tests.third_party.beam_search import BeamSearch
from tts import Continuation, Endpoint, Problem, Sampler, Session, solve
from tts.lab.engine.transport import EmbeddedTransport
from tts.lab.public_models import MODELS, public_file
from tts.local_vllm import summed_metrics
from tts.sampler.probe import probe
from tts.sampler.scoring import detokenize, tokenize
from tts.sampler.transport import Network, Request
from tts.types import sum_usage

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "smollm2-135m"
QUESTION = Problem.from_prompt("Name three colours of the rainbow.")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["llama-server", "embedded"])
async def endpoint(request: pytest.FixtureRequest) -> AsyncIterator[Endpoint]:
    """The model in llama.cpp's own program, and in this process."""
    if not public_file(MODEL).exists():
        pytest.skip(f"{MODELS[MODEL].title} is not here: `tts embedded fetch {MODEL}` fetches it")
    if request.param == "embedded":
        pytest.importorskip("xllamacpp", reason="not installed here: pip install 'ttscale[gguf]'")
        yield Endpoint(model=MODEL, base_url=f"embedded://{MODEL}", max_concurrency=4)
        return
    if llama_server() is None:
        pytest.skip("llama.cpp's server is not built here: TTS_LLAMA_SERVER names the program")
    async with served(MODEL, in_flight=4, context=1024) as endpoint:
        yield endpoint


async def billed(endpoint: Endpoint) -> tuple[float, float]:
    """Prompt tokens (cached ones included) and generated tokens that the server counts."""
    url = endpoint.base_url.removesuffix("/v1") + "/metrics"
    async with aclosing(EmbeddedTransport(endpoint.base_url) if endpoint.embedded else Network()) as transport:
        reply = await transport(Request("GET", URL(url)))
        found = summed_metrics((await reply.read()).decode())
    prompts = found["llamacpp:prompt_tokens_total"] + found["llamacpp:prompt_tokens_cached_total"]
    return prompts, found["llamacpp:tokens_predicted_total"]


async def test_a_prompt_is_read_as_the_chat_route_reads_it(endpoint: Endpoint):
    async with Sampler(endpoint) as sampler:
        session = Session(QUESTION, {"policy": sampler})
        sample = await session.one(max_tokens=1)
        head = await tokenize(sampler, QUESTION.messages)
        assert sample is not None
        assert session.spent.prompt_tokens == len(head)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4))
async def test_an_answer_in_pieces_is_the_answer_in_one(endpoint: Endpoint, sizes: list[int]):
    async with Sampler(endpoint) as sampler:
        session = Session(QUESTION, {"policy": sampler})
        whole = await (await Continuation.start(session)).extend(tokens=sum(sizes), temperature=0)
        grown = await Continuation.start(session)
        for size in sizes:
            if not grown.ended:
                grown = await grown.extend(tokens=size, temperature=0)
        assert grown.exact
        assert (grown.ids, grown.text) == (whole.ids, whole.text)


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


@pytest.mark.parametrize("word", [".", ").", "').", "..."])
async def test_a_step_of_one_token_with_its_stop_string_leaves_the_log_probabilities_of_the_others(
    endpoint: Endpoint, word: str
):
    async with Sampler(endpoint) as sampler:
        (token,) = await tokenize(sampler, word, special=False)
        start = await Continuation.start(Session(QUESTION, {"policy": sampler}))
        first = await start.extend(tokens=4, logprobs=True, temperature=0)
        second = await first.extend(stop=".", tokens=4, logprobs=True, logit_bias={str(token): 100}, temperature=0)
        assert second.ids is not None
        assert second.ids[-1] == token
        assert first.sample().logprobs
        assert second.sample().logprobs == first.sample().logprobs


async def test_what_a_search_costs_is_what_the_server_counts(endpoint: Endpoint):
    before, short = await billed(endpoint), endpoint.model_copy(update={"params": {"max_tokens": 32}})
    searches = (BeamSearch(lines=3), "best_of_n:n=4,verifier=regex(pattern=red)")
    results = [
        await solve(QUESTION, one, short, stop_early=False) for one in searches
    ]  # what is cancelled is counted late
    after = await billed(endpoint)
    spent = sum_usage(result.usage for result in results)
    assert (spent.prompt_tokens, spent.completion_tokens) == (after[0] - before[0], after[1] - before[1])


@pytest.mark.parametrize("search", ["beam_search:n=4,width=2", "particle_filter:n=4", "mcts:simulations=2,branching=2"])
async def test_searches_over_steps_cost_what_the_server_counts_and_share_their_prefix(endpoint: Endpoint, search: str):
    before = await billed(endpoint)
    spec = f'{search},step=".",step_tokens=16,depth=3,verifier=mean_logprob'
    result = await solve(QUESTION, spec, endpoint, stop_early=False)
    after, spent = await billed(endpoint), result.usage
    assert not result.failures
    assert (spent.prompt_tokens, spent.completion_tokens) == (after[0] - before[0], after[1] - before[1])
    assert 0 < spent.cached_tokens < spent.prompt_tokens


async def test_the_probe_finds_what_it_can_do(endpoint: Endpoint):
    async with Sampler(endpoint) as sampler:
        found = await probe(sampler)
    assert found.server == "llama.cpp"
    assert found.models == (MODEL,)
    assert found.chat
    assert found.completions
    assert found.logprobs
    assert found.token_ids
    assert found.tokenize
    assert found.continuation
    assert not found.n
    assert not found.prompt_logprobs
    assert found.stream_usage
    assert found.structured_output
    assert found.seed.ok is not None
    assert found.own_distribution.ok is endpoint.embedded  # as a program it has settings of its own
    assert found.own_distribution or "top_k=40" in found.own_distribution.why


async def test_the_tops_and_the_chosen_token_are_of_one_distribution(endpoint: Endpoint):
    async with Sampler(endpoint) as sampler:
        params = {"max_tokens": 12, "temperature": 0, "logprobs": True, "top_logprobs": 5}
        (sample,) = [one async for one in sampler.sample(QUESTION.messages, 1, params)]
    assert sample.logprobs
    assert sample.top_logprobs
    assert len(sample.top_logprobs) == 5
    assert sample.logprobs[0] == pytest.approx(max(sample.top_logprobs.values()))
    assert sum(map(exp, sample.top_logprobs.values())) <= 1 + 1e-6
    assert max(sample.logprobs) <= 0
