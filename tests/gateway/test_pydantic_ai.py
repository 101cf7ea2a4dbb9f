"""pydantic-ai, unchanged, over all three APIs: texts, streams, tools and structured answers through strategies."""

import json
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.gateway.serving import Served, serving
from tests.support.double import ModelDouble
from tts.sampler.transport import Reply, Request

STRATEGIES = [
    "single",
    "best_of_n:n=3,verifier=regex(pattern=4)",
    "first_pass:k=2,verifier=regex(pattern=4)",
    "tool_vote:n=3",
    "self_consistency:n=3,answer=regex(pattern=4)",
]
APIS = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel, "messages": AnthropicModel}
every_way = pytest.mark.parametrize(("api", "strategy"), [(api, strategy) for api in APIS for strategy in STRATEGIES])


class Finding(BaseModel):
    city: str
    number: int


FOUND = {"city": "Berne", "number": 4}


def upstream() -> dict[str, Any]:
    """A model that looks things up before it answers, in the form that is asked for."""

    def message(body: dict[str, Any]) -> dict[str, Any]:
        tools = {tool["function"]["name"] for tool in body.get("tools") or ()}
        told = any(one["role"] == "tool" for one in body["messages"])
        name = "look_up" if "look_up" in tools and not told else next((one for one in tools if "final" in one), None)
        if name is None:
            wanted = body.get("response_format") or "JSON" in json.dumps(body["messages"])
            return {"role": "assistant", "content": json.dumps(FOUND) if wanted else "Berne has 4."}
        arguments = {"city": "Berne"} if name == "look_up" else FOUND
        function = {"name": name, "arguments": json.dumps(arguments)}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        }

    async def respond(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": "m"}]})
        body = request.json()
        said = message(body)
        reason = "tool_calls" if said.get("tool_calls") else "stop"
        choices = [{"index": i, "message": said, "finish_reason": reason} for i in range(body.get("n") or 1)]
        usage = {"prompt_tokens": 5, "completion_tokens": 3 * len(choices), "total_tokens": 5 + 3 * len(choices)}
        return Reply.json({"model": "m", "choices": choices, "usage": usage})

    return {"model": "m", "base_url": "mock://m", "transport": respond}


def model_of(served: Served, api: str, strategy: str) -> Model:
    if api == "messages":
        able = ModelProfile(supports_json_schema_output=True)
        provider = AnthropicProvider(anthropic_client=served.anthropic())
        return AnthropicModel(f"{strategy}@qwen", provider=provider, profile=able)
    return APIS[api](f"{strategy}@qwen", provider=OpenAIProvider(served.base_url, "none"))


@every_way
async def test_texts_and_streams_of_texts(api: str, strategy: str):
    async with ModelDouble() as double, serving(double, endpoint=upstream()) as served:
        agent = Agent(model_of(served, api, strategy))
        done = await agent.run("How many has Berne?")
        assert done.output == "Berne has 4."
        async with agent.run_stream("How many has Berne?", message_history=done.all_messages()) as stream:
            pieces = [piece async for piece in stream.stream_text(delta=True)]
        assert "".join(pieces) == "Berne has 4."
        assert stream.usage.output_tokens > 0


@every_way
@pytest.mark.parametrize("form", [ToolOutput, NativeOutput, PromptedOutput])
async def test_tools_and_structured_answers_go_round(api: str, strategy: str, form: Any):
    asked: list[str] = []

    def look_up(city: str) -> int:
        """How many a city has."""
        asked.append(city)
        return 4

    async with ModelDouble() as double, serving(double, endpoint=upstream()) as served:
        agent = Agent(model_of(served, api, strategy), output_type=form(Finding), tools=[look_up])
        assert (await agent.run("How many has Berne?")).output == Finding(**FOUND)
        async with agent.run_stream("How many has Berne?") as stream:
            assert await stream.get_output() == Finding(**FOUND)
    assert asked == ["Berne"] * 2
