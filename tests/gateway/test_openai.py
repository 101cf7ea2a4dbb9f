"""The official clients, unchanged, with every strategy there is."""

import asyncio
from typing import Any

import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.gateway.serving import ASK, NUMBERS, serving
from tests.support.double import ModelDouble, solvable
from tts import registry

RIGHT = solvable({}, otherwise=1.0)
VERIFIED = "verifier=numeric_answer(reference=42)"

STEPS = f"rollouts=1,{VERIFIED}"

STRATEGIES = {
    "single": "single",
    "best_of_n": f"best_of_n:n=4,{VERIFIED}",
    "repeated_sampling": f"repeated_sampling:n=4,prompts=general,{VERIFIED}",
    "first_pass": f"first_pass:k=4,{VERIFIED}",
    "probe": f"probe:first=2,then=self_consistency(n=4,{NUMBERS})",
    "pass_until": f"pass_until:n=6,{VERIFIED}",
    "self_consistency": f"self_consistency:n=4,{NUMBERS}",
    "deepconf": f"deepconf:n=4,{NUMBERS}",
    "tool_vote": f"tool_vote:n=3,{NUMBERS}",
    "tournament": "tournament:n=2",
    "plan_search": f"plan_search:codes=2,prompts=general,{VERIFIED}",
    "idea_search": f"idea_search:n=2,prompts=general,{VERIFIED}",
    "prompt_redesign": "prompt_redesign:n=4",
    "self_refine": f"self_refine:{VERIFIED}",
    "sequential_feedback": f"sequential_feedback:{VERIFIED}",
    "budget_forcing": "budget_forcing:thinking_tokens=64",
    "atts": f"atts:n=3,score_last=false,{NUMBERS},{VERIFIED}",
    "atts_best": f"atts_best:n=1,{NUMBERS},{VERIFIED}",
    "atts_sync": f"atts_sync:n=3,{NUMBERS}",
    "spec_reason": f"spec_reason:n=2,{NUMBERS}",
    "beam_search": f"beam_search:n=4,width=2,{STEPS}",
    "dvts": f"dvts:n=4,width=2,{STEPS}",
    "rebase": f"rebase:n=4,{STEPS}",
    "particle_filter": f"particle_filter:n=4,{STEPS}",
    "mcts": f"mcts:simulations=2,branching=2,{STEPS}",
    "tree_of_thoughts": f"tree_of_thoughts:branching=2,keep=1,{STEPS}",
    "ab_mcts": f"ab_mcts:n=4,{VERIFIED}",
    "tree_of_frames": f"tree_of_frames:n=3,{STEPS}",
    "staged_resampling": f"staged_resampling:n=1,{STEPS}",
    "cascade": f"cascade:strategy=best_of_n(n=2),{VERIFIED}",
    "route": f"route:strategy=best_of_n(n=2),{VERIFIED}",
    "fuse": "fuse:n=2",
    "write_in_parts": "write_in_parts",
    "aggregate": "aggregate:n=2,rounds=2",
    "debate": "debate:n=2",
    "many_shot": f"many_shot:k=0,strategy=best_of_n(n=2),{VERIFIED}",
    "retrieve": f"retrieve:k=0,strategy=self_consistency(n=3,{NUMBERS})",
    "format_spread": f"format_spread:n=3,{NUMBERS}",
    "thinksum": 'thinksum:n=2,options=["42","so Answer: 42"]',
    "gen_select": "gen_select:n=3",
    "universal_self_consistency": "universal_self_consistency:n=3",
}


def test_no_strategy_is_left_out():
    names = registry.names("strategies")  # with those of other tests
    ours = {name for name in names if registry.load("strategies", name).__module__.startswith("tts.")}
    assert set(STRATEGIES) == ours


def spent(double: ModelDouble) -> tuple[int, int]:
    return double.stats.prompt_tokens, double.stats.completion_tokens


def agree(told: int, served: int, *, settled: bool) -> bool:
    """Whether a client is told what the server counts: all, or of a settled search all but what was still under way."""
    return told == served or (settled and told < served)


@pytest.mark.parametrize("name", STRATEGIES)
async def test_the_client_works_with_every_strategy_and_is_told_what_it_cost(name: str):
    model = f"{STRATEGIES[name]}@qwen"
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served, served.openai() as client:
        raw = await client.chat.completions.with_raw_response.create(model=model, messages=ASK, max_tokens=2000)
        answer = raw.parse()
        assert answer.choices[0].message.content.endswith("Answer: 42")
        assert answer.choices[0].finish_reason == "stop"
        settled = raw.headers["x-tts-ended"] == "settled"
        assert settled or answer.usage.prompt_tokens == spent(double)[0]  # of what is given up it is an estimate
        assert agree(answer.usage.completion_tokens, spent(double)[1], settled=settled)
        assert raw.headers["x-tts-strategy"] == name
        assert raw.headers["x-tts-run"] in answer.id

        before, text, usage = spent(double), "", []
        stream = await client.chat.completions.create(
            model=model, messages=ASK, max_tokens=2000, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            usage += [chunk.usage] if chunk.usage else []
        assert text.endswith("Answer: 42")
        [told] = usage
        assert settled or told.prompt_tokens == spent(double)[0] - before[0]
        assert agree(told.completion_tokens, spent(double)[1] - before[1], settled=settled)

        before = spent(double)
        response = await client.responses.create(model=model, input="[[p]] What is 6 times 7?", max_output_tokens=2000)
        assert response.output_text.endswith("Answer: 42")
        assert agree(response.usage.output_tokens, spent(double)[1] - before[1], settled=settled)

        before = spent(double)
        message = await served.anthropic().messages.create(model=model, messages=ASK, max_tokens=2000)
        assert message.content[-1].text.endswith("Answer: 42")
        assert agree(message.usage.output_tokens, spent(double)[1] - before[1], settled=settled)


class Number(BaseModel):
    value: int


IN_PIECES = {
    "atts", "atts_best", "atts_sync", "spec_reason", "beam_search", "dvts", "rebase", "particle_filter", "mcts",
    "tree_of_thoughts", "tree_of_frames", "staged_resampling", "write_in_parts",
}  # fmt: skip
AS_SAMPLED = sorted(set(STRATEGIES) - IN_PIECES - {"budget_forcing", "thinksum"})  # whose answers have words of its own


@pytest.mark.parametrize("name", AS_SAMPLED)
async def test_structured_answers_are_parsed_by_the_blocking_client(name: str):
    model = STRATEGIES[name].replace("numeric_answer(reference=42)", "regex(pattern=42)")
    async with ModelDouble(answer=lambda request, rng: '{"value": 42}') as double, serving(double) as served:

        def ask() -> list[Any]:
            with OpenAI(base_url=served.base_url, api_key="none", max_retries=0, timeout=120) as client:
                given: Any = {"model": f"{model}@qwen", "messages": ASK, "max_tokens": 400}
                whole = client.chat.completions.parse(**given, response_format=Number)
                with client.chat.completions.stream(**given, response_format=Number) as stream:
                    streamed = stream.get_final_completion()
                return [one.choices[0].message.parsed for one in (whole, streamed)]

        assert await asyncio.to_thread(ask) == [Number(value=42)] * 2
        assert any("response_format" in request.body for request in double.requests)


@pytest.mark.parametrize("name", sorted(IN_PIECES))
async def test_what_writes_in_pieces_keeps_to_sampling_parameters_and_refuses_what_it_cannot_keep_to(name: str):
    model = f"{STRATEGIES[name]}@qwen"
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        assert (await served.chat(model, temperature=0.3, min_p=0.1, max_tokens=2000)).status_code == 200
        pieces = [request.body for request in double.requests if request.path.endswith("/completions")]
        written = [body for body in pieces if body.get("max_tokens", 1) > 1]  # one token is a grade or a score
        assert written
        assert all((body["temperature"], body["min_p"]) == (0.3, 0.1) for body in written)
        received = double.stats.received
        for field in ({"response_format": {"type": "json_object"}}, {"tools": [{"type": "function"}]}):
            refused = await served.chat(model, **field)
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] in field
        assert double.stats.received == received
