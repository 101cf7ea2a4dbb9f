"""The Responses API in front of strategies, with the official client."""

import json
from typing import Any

import httpx
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
        {"conversation": "conv_1"},
        {"input": [{"type": "computer_call"}]},
        {"tools": [{"type": "web_search"}]},
        {"input": 3},
        {"input": []},
    ],
)
async def test_what_is_not_there_is_refused(fields: dict[str, Any]):
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        answer = await served.http.post("/responses", json={"model": "single@qwen", "input": "x", **fields})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] in fields


async def test_a_choice_without_a_name_and_thoughts_that_nobody_here_can_read_are_told():
    tools = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
    sealed = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "abc"}
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        for model in ("qwen", "single@qwen"):
            body = {"model": model, "input": "x", "tools": tools, "tool_choice": {"type": "function"}}
            answer = await served.http.post("/responses", json=body)
            assert answer.json()["error"]["param"] == "tool_choice.name"
            for item, told in (
                (sealed, True),
                ({**sealed, "summary": [{"type": "summary_text", "text": "So."}]}, False),
            ):
                items = [{"role": "user", "content": "x"}, item, {"role": "user", "content": "y"}]
                answer = await served.http.post("/responses", json={"model": model, "input": items})
                assert answer.status_code == 200
                assert ("encrypted_content" in answer.headers.get("x-tts-ignored", "")) == told


SENT_ON: dict[str, Any] = {
    "top_k": 7,
    "min_p": 0.1,
    "stop": ["END"],
    "presence_penalty": 0.5,
    "frequency_penalty": 0.25,
    "repetition_penalty": 1.1,
    "seed": 3,
    "logit_bias": {"5": 1},
    "temperature": 0.2,
    "top_p": 0.9,
    "user": "me",
    "chat_template_kwargs": {"enable_thinking": False},
    "service_tier": "default",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "guided_regex": "a|b",
}
"""Fields that chat has under the same name."""
TRANSLATED: dict[str, tuple[Any, dict[str, Any]]] = {
    "max_output_tokens": (9, {"max_tokens": 9}),
    "top_logprobs": (2, {"top_logprobs": 2, "logprobs": True}),
    "include": (["message.output_text.logprobs"], {"logprobs": True}),
    "reasoning": ({"effort": "low", "summary": "auto"}, {"reasoning_effort": "low"}),
    "text": ({"format": {"type": "json_object"}, "verbosity": "low"}, {"verbosity": "low"}),
}
ANSWERED: dict[str, Any] = {"metadata": {"a": "b"}, "instructions": "Be brief."}
"""Fields that the answer repeats."""
IDLE: dict[str, Any] = {
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "truncation": "disabled",
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "stream_options": {"include_obfuscation": False},
}
"""Fields that ask for what is so anyway."""
REFUSED: dict[str, Any] = {
    "conversation": "conv_1",
    "background": True,
    "prompt": {"id": "p"},
    "truncation": "auto",
    "max_tool_calls": 2,
    "include": ["everything"],
    "reasoning": {"summary": "detailed"},
    "text": {"tone": "kind"},
    "tool_choice": "required",
    "n": 2,
    "messages": [],
    "max_tokens": 3,
    "max_completion_tokens": 3,
    "response_format": {"type": "json_object"},
    "logprobs": True,
    "functions": [],
}


async def test_every_field_is_honoured_or_refused_by_name():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:

        async def ask(**fields: Any) -> httpx.Response:
            return await served.http.post("/responses", json={"model": "single@qwen", "input": "6 * 7?", **fields})

        for name, value in SENT_ON.items():
            assert (await ask(**{name: value})).status_code == 200, name
            assert double.requests[-1].body[name] == value
        for name, (value, sent) in TRANSLATED.items():
            assert (await ask(**{name: value})).status_code == 200, name
            body = double.requests[-1].body
            assert {key: body[key] for key in sent} == sent
            assert name in sent or name not in body
        for name, value in ANSWERED.items():
            assert (await ask(**{name: value})).json()[name] == value
        for name, value in IDLE.items():
            assert (await ask(**{name: value})).status_code == 200, name
            assert name not in double.requests[-1].body
        received = double.stats.received
        for name, value in REFUSED.items():
            refused = await ask(**{name: value})
            assert refused.status_code == 400, name
            assert name in refused.json()["error"]["param"]
            assert name in refused.json()["error"]["message"]
        assert double.stats.received == received


async def test_log_probabilities_are_part_of_the_text():
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served, served.openai() as client:
        answer = await client.responses.create(model="single@qwen", input="6 * 7?", top_logprobs=2)
        part = answer.output[0].content[0]
        assert len(part.logprobs) == len(part.text.encode())
        assert all(len(token.top_logprobs) == 2 for token in part.logprobs)
        async with client.responses.stream(model="single@qwen", input="6 * 7?", top_logprobs=2) as stream:
            streamed = (await stream.get_final_response()).output[0].content[0]
        assert len(streamed.logprobs) == len(streamed.text.encode())


async def test_a_turn_of_texts_and_calls_is_one_message_and_results_follow():
    made = [{"type": "function_call", "call_id": f"c{i}", "name": "f", "arguments": "{}"} for i in range(2)]
    results = [{"type": "function_call_output", "call_id": f"c{i}", "output": "x"} for i in range(2)]
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}
    turns = {
        "text, then calls": ([said, *made, *results], ["assistant", "tool", "tool"]),
        "calls, then text": ([*made, said, *results], ["assistant", "tool", "tool"]),
        "one after the other": (
            [said, made[0], results[0], made[1], results[1]],
            ["assistant", "tool", "assistant", "tool"],
        ),
    }
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        for name, (items, roles) in turns.items():
            body = {"model": "single@qwen", "input": [{"role": "user", "content": "?"}, *items]}
            assert (await served.http.post("/responses", json=body)).status_code == 200, name
            messages = double.requests[-1].body["messages"]
            assert [message["role"] for message in messages] == ["user", *roles], name
            assert messages[1]["content"] == "I look."
            assert [call["id"] for call in messages[1]["tool_calls"]] == (["c0"] if len(roles) > 3 else ["c0", "c1"])


async def test_a_text_with_a_call_is_one_message_and_one_call_in_the_answer_too():
    message = {**call(PARIS), "content": "I look."}
    async with ModelDouble() as double, serving(double, endpoint=model_that_says(message, message)) as served:
        tools = [{"type": "function", **TOOLS[0]["function"]}]
        asked = {"model": "single@qwen", "input": "Weather?", "tools": tools}
        answer = (await served.http.post("/responses", json=asked)).json()
        assert [item["type"] for item in answer["output"]] == ["message", "function_call"]
        text = (await served.http.post("/responses", json={**asked, "reasoning": {}, "stream": True})).text
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
        assert [(item["type"], item["status"]) for item in added] == [
            ("message", "in_progress"),
            ("function_call", "in_progress"),
        ]


async def test_thoughts_are_an_item_where_the_client_speaks_of_reasoning():
    async with ModelDouble() as double, serving(double, endpoint=model_that_says(call(PARIS))) as served:
        tools: Any = [{"type": "function", **TOOLS[0]["function"]}]
        async with served.openai() as client:
            given: Any = {"model": "single@qwen", "input": "Weather?", "tools": tools}
            answer = await client.responses.create(**given, reasoning={"effort": "low"})
        thought, called = answer.output
        assert thought.content[0].text == "I should look."
        assert called.name == "weather"


async def test_a_refusal_in_the_history_is_what_the_model_said():
    refusal = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        items = [{"role": "user", "content": "?"}, refusal, {"role": "user", "content": "Please."}]
        answer = await served.http.post("/responses", json={"model": "single@qwen", "input": items})
        assert answer.status_code == 200
        assert double.requests[-1].body["messages"][1] == {"role": "assistant", "content": "No."}


NULLS: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}),
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
    ("responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": None}]}]}),
    ("responses", {"input": [{"role": "user", "content": [{"type": "input_text"}]}]}),
    ("responses", {"input": [{"role": "user", "content": [None]}]}),
    ("responses", {"input": [{"role": "user", "content": None}]}),
    ("responses", {"input": [{"role": "user", "content": [{"type": "refusal", "refusal": None}]}]}),
    ("responses", {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": None}]}),
    ("responses", {"input": [{"type": "function_call_output", "call_id": None, "output": "x"}]}),
]


@pytest.mark.parametrize(("path", "body"), NULLS)
async def test_content_that_is_no_text_is_refused(path: str, body: dict[str, Any]):
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        answer = await served.http.post(f"/{path}", json={"model": "single@qwen", **body})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"]
        assert double.stats.received == 0
