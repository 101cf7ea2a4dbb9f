"""The Responses API in front of strategies, with the official client."""

from typing import Any

import pytest
from pydantic import BaseModel

from tests.gateway.serving import NUMBERS, serving
from tests.gateway.test_tools import PARIS, TOOLS, call, model_that_says
from tests.support.double import ModelDouble, solvable

RIGHT = solvable({}, otherwise=1.0)
VOTE = f"self_consistency:n=3,{NUMBERS}@qwen"


async def test_text_in_text_out():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served, served.openai() as client:
        answer = await client.responses.create(
            model=VOTE,
            instructions="Be brief.",
            input="6 * 7?",
            max_output_tokens=300,
            extra_body={"tts": {"details": True}},
        )
        assert answer.output_text.endswith("Answer: 42")
        assert answer.status == "completed"
        assert answer.usage.output_tokens == double.stats.completion_tokens
        seen = double.requests[-1].body
        assert seen["max_tokens"] == 300
        assert seen["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "6 * 7?"},
        ]


async def test_a_stream_has_the_events_that_the_client_puts_together():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served, served.openai() as client:
        async with client.responses.stream(model=VOTE, input="6 * 7?") as stream:
            kinds = [event.type async for event in stream]
            answer = await stream.get_final_response()
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
        assert answer.output_text.endswith("Answer: 42")


async def test_an_answer_that_was_cut_is_incomplete():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served, served.openai() as client:
        answer = await client.responses.create(model="single@qwen", input="6 * 7?", max_output_tokens=3)
        assert answer.status == "incomplete"
        assert answer.incomplete_details.reason == "max_output_tokens"


async def test_parsed_answers():
    class Number(BaseModel):
        value: int

    async with ModelDouble(answer=lambda request, rng: '{"value": 42}') as double, serving(double) as served:
        answer = await served.openai().responses.parse(model="single@qwen", input="6 * 7?", text_format=Number)
        assert answer.output_parsed == Number(value=42)
        assert double.requests[-1].body["response_format"]["json_schema"]["name"] == "Number"


async def test_tools_and_their_results_go_round():
    flat = [{"type": "function", "strict": None, **TOOLS[0]["function"]}]
    endpoint = model_that_says(call(PARIS))
    tools: list[Any] = [{"type": "function", **{k: v for k, v in flat[0].items() if k not in ("type", "strict")}}]
    async with ModelDouble() as double, serving(double, endpoint=endpoint) as served, served.openai() as client:
        answer = await client.responses.create(model="tool_vote:n=1@qwen", input="Weather?", tools=tools)
        (item,) = answer.output
        assert (item.type, item.name, item.arguments) == ("function_call", *PARIS)
    async with ModelDouble(answer=lambda request, rng: "Sunny.") as double, serving(double) as served:
        items = [
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "reasoning", "id": "r", "summary": []},
            {"type": "function_call", "call_id": "c", "name": PARIS[0], "arguments": PARIS[1]},
            {"type": "function_call_output", "call_id": "c", "output": "22 degrees"},
        ]
        assert (await served.openai().responses.create(model="single@qwen", input=items)).output_text == "Sunny."
        asked, calling, result = double.requests[-1].body["messages"]
        assert asked == {"role": "user", "content": "Weather?"}
        assert calling["tool_calls"][0]["id"] == result["tool_call_id"] == "c"


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"input": [{"type": "computer_call"}]},
        {"tools": [{"type": "web_search"}]},
        {"input": 3},
    ],
)
async def test_what_is_not_there_is_refused(fields: dict[str, Any]):
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        answer = await served.http.post("/responses", json={"model": "single@qwen", "input": "x", **fields})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] in fields
