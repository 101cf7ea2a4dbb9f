"""Tools: calls are kept as they are, and a vote chooses among calls and texts."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.serving import ASK, serving
from tests.support.double import ModelDouble
from tts.sampler.transport import Reply, Request

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def call(*calls: tuple[str, str]) -> dict[str, Any]:
    made = [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(calls)
    ]
    return {"role": "assistant", "content": None, "tool_calls": made, "reasoning_content": "I should look."}


def text(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def model_that_says(*messages: dict[str, Any]) -> dict[str, Any]:
    """An endpoint that gives these messages in turn."""
    said: Iterator[dict[str, Any]] = iter(messages)

    async def answer(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": "m"}]})
        body = request.json()
        assert body["tools"] == TOOLS
        choices = [
            {"index": i, "message": message, "finish_reason": "tool_calls" if message.get("tool_calls") else "stop"}
            for i, message in enumerate(next(said) for _ in range(body.get("n", 1)))
        ]
        usage = {"prompt_tokens": 5, "completion_tokens": 3 * len(choices)}
        return Reply.json({"model": "m", "choices": choices, "usage": usage})

    return {"model": "m", "base_url": "mock://m", "transport": answer}


PARIS = ("weather", '{"city": "Paris"}')
PARIS_TOO = ("weather", '{ "city":"Paris" }')
ROME = ("weather", '{"city": "Rome"}')

VOTES = [
    ([call(ROME), call(PARIS), call(PARIS_TOO)], 1),
    ([text("Sunny."), call(ROME), call(PARIS), call(PARIS_TOO)], 2),
    ([call(ROME), text("Sunny."), text("It is sunny.")], 1),
    ([call(("weather", "{")), call(("weather", "{")), call(ROME)], 2),
    ([call(PARIS, ROME), call(ROME), call(ROME, PARIS_TOO)], 0),
]


@pytest.mark.parametrize(("messages", "winner"), VOTES)
async def test_the_vote_is_on_function_and_arguments(messages: list[dict[str, Any]], winner: int):
    async with ModelDouble() as double, serving(double, endpoint=model_that_says(*messages)) as served:
        answer = (await served.chat(f"tool_vote:n={len(messages)}@qwen", tools=TOOLS)).json()
        choice = answer["choices"][0]
        assert choice["message"] == messages[winner]
        assert choice["finish_reason"] == ("tool_calls" if messages[winner].get("tool_calls") else "stop")


async def test_calls_that_the_tools_do_not_allow_have_no_vote():
    unknown, unfit = call(("wether", "{}")), call(("weather", '{"city": 3}'))
    messages = [unknown, unknown, unfit, unfit, call(ROME)]
    async with ModelDouble() as double, serving(double, endpoint=model_that_says(*messages)) as served:
        answer = (await served.chat("tool_vote:n=5,verifier=tool_call@qwen", tools=TOOLS, tts={"details": True})).json()
        assert answer["choices"][0]["message"] == call(ROME)
        assert [one["passed"] for one in answer["tts"]["candidates"]].count(False) == 4


async def test_calls_are_streamed_as_the_client_expects_them():
    endpoint = model_that_says(call(PARIS, ROME), call(PARIS, ROME))
    async with ModelDouble() as double, serving(double, endpoint=endpoint) as served, served.openai() as client:
        async with client.chat.completions.stream(model="tool_vote:n=2@qwen", messages=ASK, tools=TOOLS) as stream:
            message = (await stream.get_final_completion()).choices[0]
        assert [one.function.arguments for one in message.message.tool_calls] == [PARIS[1], ROME[1]]
        assert message.finish_reason == "tool_calls"
