"""The probe finds out what an endpoint can do, with the reason for each no, and says exactly what it cost."""

from typing import Any

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble
from tts import Endpoint, MockModel, Sampler
from tts.sampler.probe import NOT_TRIED, Capabilities, probe
from tts.sampler.transport import Reply, Request

QUICK: dict[str, Any] = {"connect_timeout": 2}


async def find(double: ModelDouble, model: str = "test-model", **settings: Any) -> Capabilities:
    async with Sampler(Endpoint(model=model, base_url=double.base_url, **QUICK, **settings)) as sampler:
        return await probe(sampler)


def noes(found: Capabilities) -> set[str]:
    return {name for name, finding in found.as_dict().items() if finding.ok is False}


async def test_a_vllm_server_can_do_all_that_its_model_follows():
    def answer(request: dict[str, Any], rng: Any) -> str:
        return '{"blue": true}' if "response_format" in request else f"word {rng.integers(1_000_000)} word"

    async with ModelDouble(answer=answer) as double:
        found = await find(double)
    assert found.server == "vLLM"
    assert found.models == ("test-model",)
    assert noes(found) == set()
    assert {name for name, finding in found.as_dict().items() if finding.ok is None} == {"tools", "own_distribution"}
    assert "called none" in found.tools.why


async def test_another_server_lacks_what_only_vllm_has_each_with_a_reason():
    async with ModelDouble(owned_by="someone") as double:
        found = await find(double)
    assert found.server == "not vLLM (models owned by: someone)"
    assert noes(found) == {"prompt_logprobs", "token_ids", "tokenize", "continuation", "structured_output"}
    assert all(finding.why for finding in found.as_dict().values() if finding.ok is not True)
    assert found.tokenize.why == "There is no /tokenize here."
    assert "This step" in found.structured_output.why


async def test_the_cost_is_what_the_server_counted():
    async with ModelDouble() as double:
        found = await find(double)
        stats = double.stats
    assert found.cost.requests == stats.received
    assert found.cost.prompt_tokens == stats.prompt_tokens
    assert found.cost.completion_tokens == stats.completion_tokens
    assert found.cost.completion_tokens < 250


@pytest.mark.parametrize(
    ("kind", "why"), [(FaultKind.N_REJECTED, "'n' must be 1"), (FaultKind.N_IGNORED, "1 choice for n=2")]
)
async def test_n_is_no_where_it_is_rejected_or_ignored(kind: FaultKind, why: str):
    async with ModelDouble(faults=Fault(kind)) as double:
        found = await find(double)
    assert found.n.ok is False
    assert why in found.n.why
    assert found.chat


async def test_a_stream_without_usage_is_told():
    async with ModelDouble(faults=Fault(FaultKind.MISSING_USAGE)) as double:
        found = await find(double)
    assert found.stream_usage.ok is False
    assert "does not count" in found.stream_usage.why
    assert found.prefill.ok is None


async def test_a_model_that_always_says_the_same_tells_nothing_of_seeds():
    async with ModelDouble(answer=lambda request, rng: "the same every time") as double:
        found = await find(double)
    assert found.seed.ok is None


async def test_samples_that_ignore_the_seed_are_told():
    told = iter(range(1000))
    async with ModelDouble(answer=lambda request, rng: f"{next(told)} words") as double:
        found = await find(double)
    assert found.seed.ok is False


async def test_a_server_that_ignores_the_partial_message_is_told():
    async with Sampler(MockModel(lambda request: "words")) as sampler:
        found = await probe(sampler)
    assert found.prefill.ok is False
    assert "ignored" in found.prefill.why


async def test_tool_calls_are_recognised():
    async def answer(request: Request) -> Reply:
        body = request.json() if request.content else {}
        if request.method == "GET":
            return Reply.json({"data": [{"id": "m"}]})
        call = {"id": "1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        said = message if "tools" in body else {"role": "assistant", "content": "words"}
        return Reply.json({"choices": [{"index": 0, "message": said, "finish_reason": "stop"}]})

    endpoint = Endpoint(model="m", base_url="mock://m", transport=answer)
    async with Sampler(endpoint) as sampler:
        found = await probe(sampler)
    assert found.tools
    assert found.server == "unknown"


@pytest.mark.parametrize("said", ['{"blue": tr', "{ " + " \n" * 40])
async def test_an_answer_cut_off_inside_its_object_tells_nothing_of_schemas(said: str):
    async with ModelDouble(answer=lambda request, rng: said + " " * 60) as double:
        found = await find(double)
    assert found.structured_output.ok is None


async def test_a_wrong_key_is_found_before_anything_is_asked():
    async with ModelDouble(api_key="right") as double:
        found = await find(double)
        assert double.stats.received == 0
    assert found.reachable
    assert found.key_accepted.ok is False
    assert found.chat == NOT_TRIED


async def test_a_model_that_is_not_served_is_told_with_those_that_are():
    async with ModelDouble(models=["one", "two"]) as double:
        found = await find(double, model="three")
    assert found.model_served.ok is False
    assert "one, two" in found.model_served.why
    assert found.n == NOT_TRIED


async def test_no_server_is_a_finding_and_no_error():
    async with Sampler(Endpoint(model="m", base_url="http://127.0.0.1:9/v1", **QUICK)) as sampler:
        found = await probe(sampler)
    assert found.reachable.ok is False
    assert "127.0.0.1:9" in found.reachable.why
    assert found.cost.requests == 0


async def test_a_failure_that_passes_is_given_a_second_chance():
    async with ModelDouble(faults=[Fault(FaultKind.SERVER_ERROR)]) as double:
        found = await find(double)
        assert found.chat
        assert found.cost.requests == double.stats.received


def server(answer: dict[str, Any], owner: str, **gets: Any) -> Endpoint:
    """A server of one answer to all prompts, whose models `owner` owns; `gets` are its answers by route."""

    async def handle(request: Request) -> Reply:
        route = request.url.path.rpartition("/")[2]
        if request.method == "GET":
            known = {"models": {"data": [{"id": "m", "owned_by": owner}]}, **gets}
            return Reply.json(known.get(route, {}), 200 if route in known else 404)
        said = {"text": "words", "message": {"role": "assistant", "content": "words"}}
        return Reply.json({"choices": [{"index": 0, "finish_reason": "stop", **said}], **answer})

    return Endpoint(model="m", base_url="mock://m/v1", transport=handle)


@pytest.mark.parametrize(("tokens", "raw"), [(1, True), (3, True), (9, False), (31, False)])
async def test_text_that_is_put_into_a_chat_template_is_told(tokens: int, raw: bool):
    usage = {"usage": {"prompt_tokens": tokens, "completion_tokens": 1}}
    async with Sampler(server(usage, "library")) as sampler:
        found = await probe(sampler)
    assert found.server == "Ollama"
    assert found.chat
    assert found.completions.ok is raw
    assert raw or f"{tokens} prompt tokens" in found.completions.why


UNCUT = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.mark.parametrize(
    ("applied", "ok", "why"),
    [
        (UNCUT, True, ""),
        (
            UNCUT | {"min_p": 0.05000000074505806, "top_k": 40},
            False,
            "applies top_k=40, min_p=0.05; send top_k=0, min_p=0",
        ),
        (UNCUT | {"temperature": 0.8}, False, "applies temperature=0.8; send temperature=1"),
        ({}, None, "does not tell"),
    ],
)
async def test_what_llama_cpp_applies_by_itself_is_told(applied: dict[str, float], ok: bool | None, why: str):
    props = {"default_generation_settings": {"params": applied}}
    async with Sampler(server({}, "llamacpp", props=props)) as sampler:
        found = await probe(sampler)
    assert found.own_distribution.ok is ok
    assert why in found.own_distribution.why
