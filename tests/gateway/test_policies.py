"""A set of policies behind the gateway: routed, verified, within a hard budget, and accounted by model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.serving import ASK, Served, serving
from tests.support.calibration import calibration
from tests.support.double import ModelDouble
from tests.test_policies import closed_port
from tts.errors import ConfigError
from tts.gateway import GatewaySettings
from tts.sampler.transport import Reply, Request

NAMES = ("small", "large")
EASY: Any = [{"role": "user", "content": "An easy problem about 999"}]
HARD: Any = [{"role": "user", "content": "A hard and long problem about 999"}]
CALL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def table(double: ModelDouble, **large: Any) -> dict[str, Any]:
    prices = {"small": 1, "large": 10}
    cards = {
        name: {"prompt_price_per_million": price, "completion_price_per_million": price}
        for name, price in prices.items()
    }
    common = {"base_url": double.base_url, "retry_wait": 0.005, "api_key_env": "NO_KEY", "params": {"max_tokens": 100}}
    policies: dict[str, Any] = {name: {"card": card} for name, card in cards.items()}
    policies["large"] |= large
    preset = {
        "strategy": f"route:strategy=best_of_n(n=3),k=5,accuracy=0.9,calibration={calibration('best_of_n:n=3', NAMES)}",
        "model": "mixed",
        "verifier": "mean_logprob",
        "budget": {"money": 0.005, "requests": 4},
    }
    return {"models": {"mixed": {**common, "policies": policies}}, "presets": {"smart": preset}}


async def spent(served: Served, double: ModelDouble, messages: Any, **fields: Any) -> dict[str, Any]:
    """The answer's account, which is what the double served, model by model."""
    before = {name: double.by_model[name].completion_tokens for name in NAMES}
    response = await served.chat("smart", messages, tts={"details": True}, **fields)
    assert response.status_code == 200
    body = response.json()
    used = body["tts"]["usage"]
    for name in NAMES:
        tokens = double.by_model[name].completion_tokens - before[name]
        assert used.get(f"policy.{name}", {}).get("completion_tokens", 0) == tokens
    assert body["usage"]["completion_tokens"] == sum(one.get("completion_tokens", 0) for one in used.values())
    return body


async def test_a_router_with_best_of_n_and_a_verifier_is_a_preset_accounted_by_model():
    async with ModelDouble(models=NAMES) as double, serving(double, **table(double)) as served:
        easy, hard = await spent(served, double, EASY), await spent(served, double, HARD)
        assert set(easy["tts"]["usage"]) == {"policy.small"}
        assert set(hard["tts"]["usage"]) == {"policy.large"}
        assert len(hard["tts"]["candidates"]) == 3
        assert all(one["score"] is not None for one in hard["tts"]["candidates"])
        metrics = (await served.http.get(served.base_url.replace("/v1", "/metrics"))).text
        assert 'role="policy.small"' in metrics
        assert 'role="policy.large"' in metrics


async def test_tools_pass_through_and_streams_end_in_the_same_account():
    async with ModelDouble(models=NAMES) as double, serving(double, **table(double)) as served:
        await spent(served, double, HARD, tools=[CALL], tool_choice="auto")
        written = [request.body for request in double.requests if request.path == "/v1/chat/completions"]
        assert all(body["tools"] == [CALL] and body["tool_choice"] == "auto" for body in written)
        before = double.by_model["large"].completion_tokens
        async with served.openai() as client:
            stream = await client.chat.completions.create(
                model="smart", messages=HARD, stream=True, stream_options={"include_usage": True}
            )
            usage = [chunk.usage async for chunk in stream if chunk.usage]
        assert usage[-1].completion_tokens == double.by_model["large"].completion_tokens - before


def calls_from(name: str, asked: list[dict[str, Any]]) -> dict[str, Any]:
    """A model whose every answer calls a tool, five tokens each."""

    async def answer(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": name}]})
        body = request.json()
        asked.append(body)
        made = {"id": "c", "type": "function", "function": {"name": "add", "arguments": f'{{"by": "{name}"}}'}}
        message = {"role": "assistant", "content": None, "tool_calls": [made]}
        choices = [{"index": i, "message": message, "finish_reason": "tool_calls"} for i in range(body.get("n") or 1)]
        usage = {"prompt_tokens": 7, "completion_tokens": 5 * len(choices)}
        return Reply.json({"model": name, "choices": choices, "usage": usage})

    return {"base_url": f"mock://{name}", "transport": answer}


@pytest.mark.parametrize("streamed", [False, True])
async def test_calls_of_the_routed_models_tools_come_back_accounted_by_model(streamed: bool):
    async with ModelDouble(models=NAMES) as double:
        settings, asked = table(double), {name: list[dict[str, Any]]() for name in NAMES}
        for name, policy in settings["models"]["mixed"]["policies"].items():
            policy |= calls_from(name, asked[name])
        settings["presets"]["smart"]["verifier"] = "tool_call"
        async with serving(double, **settings) as served, served.openai() as client:
            for name, messages in (("small", EASY), ("large", HARD)):
                given: Any = {"model": "smart", "messages": messages, "tools": [CALL], "tool_choice": "auto"}
                if streamed:
                    async with client.chat.completions.stream(
                        **given, stream_options={"include_usage": True}
                    ) as stream:
                        answer = await stream.get_final_completion()
                else:
                    answer = await client.chat.completions.create(**given, extra_body={"tts": {"details": True}})
                    assert set(answer.tts["usage"]) == {f"policy.{name}", "verifier"}
                (choice,) = answer.choices
                (made,) = choice.message.tool_calls
                assert (made.function.name, json.loads(made.function.arguments)) == ("add", {"by": name})
                assert choice.finish_reason == "tool_calls"
                assert answer.usage.completion_tokens == 5 * sum(body.get("n") or 1 for body in asked[name])
                assert all(body["tools"] == [CALL] and body["tool_choice"] == "auto" for body in asked[name])
            tokens = await metrics(served, "tts_tokens_total")
            for name in NAMES:
                paid = 5 * sum(body.get("n") or 1 for body in asked[name])
                assert tokens[f'kind="completion",name="smart",role="policy.{name}"'] == paid


async def metrics(served: Served, name: str) -> dict[str, float]:
    """The values of a metric by labels."""
    text = (await served.http.get(served.base_url.replace("/v1", "/metrics"))).text
    lines = (line.removeprefix(f"{name}{{").rpartition("} ") for line in text.splitlines() if line.startswith(name))
    return {labels: float(value) for labels, _, value in lines}


@pytest.mark.parametrize("budget", [{"requests": 2}, {"completion_tokens": 120}, {"total_tokens": 300}], ids=str)
@pytest.mark.parametrize("streamed", [False, True])
async def test_no_cap_is_passed_whatever_the_routed_model_says(budget: dict[str, int], streamed: bool):
    async with ModelDouble(models=NAMES, tokens=(60, 60)) as double:
        settings = table(double)
        settings["presets"]["smart"] |= {"budget": budget}
        async with serving(double, **settings) as served:
            for messages in (EASY, HARD):
                before = double.stats.served, double.stats.completion_tokens, double.stats.prompt_tokens
                answer = await served.chat("smart", messages, stream=streamed, max_tokens=60, tools=[CALL])
                assert answer.status_code == 200, answer.text
                after = double.stats.served, double.stats.completion_tokens, double.stats.prompt_tokens
                requests, completion, prompt = (b - a for a, b in zip(before, after, strict=True))
                ((name, cap),) = budget.items()
                assert {"requests": requests, "completion_tokens": completion}.get(name, completion + prompt) <= cap


@pytest.mark.parametrize("strategy", ["route", "cascade:by=agreement", "best_of_n:n=2"])
def test_a_preset_that_cannot_choose_is_refused_with_the_command_that_helps(strategy: str):
    settings = table(ModelDouble(models=NAMES, port=9))
    settings["presets"]["smart"]["strategy"] = strategy
    words = "say from which" if "best" in strategy else "tts calibrate RUN FILE"
    with pytest.raises(ConfigError, match=rf"presets\.smart: .*{words}"):
        GatewaySettings.parse(settings)


async def test_the_budget_is_hard_and_in_money_of_the_model_that_is_asked():
    async with ModelDouble(models=NAMES) as double:
        settings = table(double)
        settings["presets"]["smart"]["budget"] = {"money": 0.0021}  # of the large model two answers, of the small all
        async with serving(double, **settings) as served:
            assert len((await spent(served, double, EASY))["tts"]["candidates"]) == 3
            hard = await spent(served, double, HARD)
            assert hard["tts"]["ended"] == "budget"
            assert len(hard["tts"]["candidates"]) < 3
            used = hard["tts"]["usage"]["policy.large"]  # the prompt's length is estimated before it is sent
            assert used["completion_tokens"] * 10 / 1e6 <= 0.0021


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_cancels_what_the_routed_model_is_writing_and_that_is_accounted(streamed: bool):
    async with ModelDouble(models=NAMES, latency=600.0) as double, serving(double, **table(double)) as served:
        asking = asyncio.create_task(served.chat("smart", HARD, stream=streamed, tools=[CALL]))
        async with asyncio.timeout(120):
            while not double.by_model["large"].running:
                await asyncio.sleep(0.005)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await double.idle()
            await served.at_rest()
            assert double.by_model["large"].cancelled
            assert not double.by_model["small"].received
            assert (await metrics(served, "tts_requests_total"))['name="smart",status="499"'] == 1
            wasted = await metrics(served, "tts_tokens_total")
            assert wasted['kind="prompt",name="smart",role="policy.large"'] > 0
            assert not any("policy.small" in labels for labels in wasted)


async def test_a_model_of_the_set_that_is_down_is_left_out_and_the_client_is_told():
    async with ModelDouble(models=NAMES) as double:
        gone = f"http://127.0.0.1:{closed_port()}/v1"
        async with serving(double, **table(double, base_url=gone, max_attempts=1)) as served:
            answers = [await served.chat("smart", HARD) for _ in range(3)]
            assert [response.status_code for response in answers] == [200] * 3
            assert answers[-1].headers["x-tts-left-out"] == "policy.large"
            assert answers[-1].json()["tts"]["left_out"] == ["policy.large"]
            ready = await served.http.get(served.base_url.replace("/v1", "/readyz"))
            assert ready.status_code == 200


async def test_a_set_is_no_model_to_ask_plainly_and_other_strategies_say_from_whom_they_draw():
    async with ModelDouble(models=NAMES) as double, serving(double, **table(double)) as served:
        listed = [one["id"] for one in (await served.http.get("/models")).json()["data"]]
        assert "smart" in listed
        assert "mixed" not in listed
        assert "fuse@mixed" in listed
        refused = await served.chat("mixed", ASK)
        assert refused.status_code == 400
        assert "a set of policies" in refused.json()["error"]["message"]
        refused = await served.chat("best_of_n@mixed:n=2", ASK, tts={"verifier": "mean_logprob"})
        assert (refused.status_code, "best_of_n:policies=small" in refused.text) == (400, True)
        answer = await served.chat("fuse@mixed:n=2", ASK, tts={"details": True})
        assert set(answer.json()["tts"]["usage"]) == {"policy.small", "policy.large"}
        judged = await served.chat("best_of_n@mixed:n=2,policies=small", ASK, tts={"verifier": "mean_logprob"}, n=3)
        assert len(judged.json()["choices"]) == 3


def test_settings_of_a_set_are_read_from_toml(tmp_path: Path):
    path = tmp_path / "gateway.toml"
    path.write_text("""
        [models.mixed]
        base_url = "http://a/v1"
        [models.mixed.policies.small]
        [models.mixed.policies.large]
        max_concurrency = 3
        [presets.both]
        strategy = "fuse"
    """)
    settings = GatewaySettings.read(path)
    roles = settings.models["mixed"]
    assert {role: one.max_concurrency for role, one in roles.items()} == {"policy.small": 2048, "policy.large": 3}
    assert json.loads(settings.model_dump_json())["models"]["mixed"]["policy.small"]["max_attempts"] == 3
