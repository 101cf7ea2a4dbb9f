"""The model double keeps its promises: protocol shapes, known probabilities, faults, counters."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tests.support.wire import bigram_logprobs

ASK = {"messages": [{"role": "user", "content": "[[easy]] What is 6 times 7?"}]}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


async def chat(http: aiohttp.ClientSession, double: ModelDouble, **fields: Any) -> Any:
    async with http.post(f"{double.base_url}/chat/completions", json=ASK | fields) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def complete(http: aiohttp.ClientSession, double: ModelDouble, **fields: Any) -> Any:
    async with http.post(f"{double.base_url}/completions", json=fields) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def stream(http: aiohttp.ClientSession, url: str, **fields: Any) -> list[Any]:
    """The chunks of a stream; the last element is True if it ended with [DONE]."""
    async with http.post(url, json={"stream": True} | fields) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        events = (await response.text()).split("\n\n")
    assert events.pop() == ""
    done = events[-1] == "data: [DONE]"
    return [*(json.loads(e.removeprefix("data: ")) for e in events[: len(events) - done]), done]


async def start(http: aiohttp.ClientSession, double: ModelDouble, **fields: Any) -> asyncio.Task[Any]:
    """A request that the double has begun to answer."""
    asking = asyncio.create_task(chat(http, double, **fields))
    while not double.stats.running:
        await asyncio.sleep(0.001)
    return asking


async def leave(asking: asyncio.Task[Any], double: ModelDouble) -> None:
    """Abandon a request, and wait until the double has noticed."""
    asking.cancel()
    await asyncio.wait_for(double.idle(), 120)


async def refused(http: aiohttp.ClientSession, double: ModelDouble, **fields: Any) -> tuple[int, dict[str, Any], Any]:
    async with http.post(f"{double.base_url}/chat/completions", json=ASK | fields) as response:
        error = (await response.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return response.status, error, response.headers


async def test_a_chat_answer_has_the_shape_of_vllms(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(answer=lambda request, rng: "Answer: 42") as double:
        answer = await chat(http, double, n=2)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "test-model"
    assert answer["id"].startswith("chatcmpl-")
    assert abs(answer["created"] - time.time()) < 60
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    for choice in answer["choices"]:
        assert choice["message"] == {"role": "assistant", "content": "Answer: 42"}
        assert choice["finish_reason"] == "stop"
        assert choice["logprobs"] is None
    prompt = len(f"<|user|>\n{ASK['messages'][0]['content']}\n<|assistant|>\n")
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": 20, "total_tokens": prompt + 20}


async def test_stop_strings_and_token_limits_end_a_choice(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(answer=lambda request, rng: "one. two. three") as double:
        stopped = (await chat(http, double, stop=[" three", "."]))["choices"][0]
        kept = (await chat(http, double, stop="two", include_stop_str_in_output=True))["choices"][0]
        cut = await chat(http, double, max_tokens=5)
    assert (stopped["message"]["content"], stopped["stop_reason"]) == ("one", ".")
    assert kept["message"]["content"] == "one. two"
    assert (cut["choices"][0]["message"]["content"], cut["choices"][0]["finish_reason"]) == ("one. ", "length")
    assert cut["usage"]["completion_tokens"] == 5


async def test_problems_are_solved_with_their_known_probability(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(answer=solvable({"easy": 0.9, "hard": 0.2}), seed=3) as double:
        for problem, probability in {"easy": 0.9, "hard": 0.2}.items():
            answer = await chat(
                http, double, n=1000, messages=[{"role": "user", "content": f"[[{problem}]] and [[1]]?"}]
            )
            texts = [choice["message"]["content"] for choice in answer["choices"]]
            solved = sum(text.endswith("Answer: 42") for text in texts)
            # Six standard deviations: the seed is fixed, so this does not flake.
            assert abs(solved - 1000 * probability) < 6 * np.sqrt(1000 * probability * (1 - probability))
            assert len({len(text) for text in texts}) > 20


async def test_an_unknown_problem_is_a_client_error_that_names_it(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(answer=solvable({"other": 0.5})) as double:
        status, error, _ = await refused(http, double)
    assert status == 400
    assert "[[easy]]" in error["message"]


async def test_right_and_wrong_answers_are_worded_by_the_test(http: aiohttp.ClientSession) -> None:
    sure = solvable({"easy": 1.0}, right={"easy": "18"})
    lost = solvable({"easy": 0.0}, wrong=lambda problem, rng: f"no idea about {problem}")
    async with ModelDouble(answer=sure) as right, ModelDouble(answer=lost) as wrong:
        assert (await chat(http, right))["choices"][0]["message"]["content"].endswith("\nAnswer: 18")
        assert (await chat(http, wrong))["choices"][0]["message"]["content"] == "no idea about easy"


async def test_a_seeded_choice_depends_on_seed_plus_index_and_prompt_alone(
    http: aiohttp.ClientSession,
) -> None:
    def texts(answer: Any) -> list[str]:
        return [choice["message"]["content"] for choice in answer["choices"]]

    async with ModelDouble(seed=1) as one, ModelDouble(seed=2) as other:
        both = texts(await chat(http, one, n=2, seed=7))
        await chat(http, other, n=5)
        assert texts(await chat(http, other, n=2, seed=7)) == both
        assert texts(await chat(http, other, seed=8)) == both[1:]
        asked_else = [{"role": "user", "content": "something else"}]
        assert texts(await chat(http, one, seed=8, messages=asked_else)) != both[1:]
        assert texts(await chat(http, one, n=2)) != texts(await chat(http, one, n=2))


async def test_answers_are_padded_to_the_tokens_asked_of_the_double(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(answer=lambda request, rng: "Answer: 42", tokens=(50, 60)) as double:
        answer = await chat(http, double, n=40, return_token_ids=True)
    lengths = [len(choice["token_ids"]) for choice in answer["choices"]]
    assert min(lengths) >= 50
    assert max(lengths) <= 60
    assert len(set(lengths)) > 3
    assert sum(lengths) == answer["usage"]["completion_tokens"]
    assert all(choice["message"]["content"].endswith("Answer: 42") for choice in answer["choices"])


async def test_token_ids_continue_a_prompt_without_retokenising(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(answer=lambda request, rng: "née") as double:
        first = await chat(http, double, return_token_ids=True)
        ids = first["prompt_token_ids"] + first["choices"][0]["token_ids"]
        second = await complete(http, double, prompt=ids, return_token_ids=True)
        async with http.post(double.base_url.replace("/v1", "/tokenize"), json=ASK) as response:
            tokenized = await response.json()
    assert second["object"] == "text_completion"
    assert second["choices"][0]["text"] == "née"
    assert second["choices"][0]["prompt_token_ids"] == ids
    assert second["usage"]["prompt_tokens"] == len(ids) == first["usage"]["total_tokens"]
    assert tokenized["tokens"] == first["prompt_token_ids"]
    assert tokenized["count"] == len(tokenized["tokens"])
    assert tokenized["max_model_len"] == 32_768


async def test_a_partial_assistant_message_is_continued_in_place(http: aiohttp.ClientSession) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The answer"}]
    async with ModelDouble() as double:
        fields = {"messages": turns, "continue_final_message": True, "add_generation_prompt": False}
        answer = await chat(http, double, return_token_ids=True, **fields)
    assert bytes(answer["prompt_token_ids"]).endswith(b"<|assistant|>\nThe answer")


async def test_generated_text_has_the_same_logprobs_when_it_is_scored_as_a_prompt(
    http: aiohttp.ClientSession,
) -> None:
    async with ModelDouble(answer=lambda request, rng: "Answer: 42") as double:
        said = await chat(http, double, logprobs=True, top_logprobs=3, return_token_ids=True)
        choice = said["choices"][0]
        ids = said["prompt_token_ids"] + choice["token_ids"]
        scored = await complete(http, double, prompt=ids, prompt_logprobs=0, max_tokens=1)
    content = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == "Answer: 42"
    for entry in content:
        tops = [top["logprob"] for top in entry["top_logprobs"]]
        assert len(tops) == 3
        assert tops == sorted(tops, reverse=True)
    prompt_logprobs = scored["choices"][0]["prompt_logprobs"]
    assert len(prompt_logprobs) == len(ids)
    assert prompt_logprobs[0] is None
    for entry, known, token in zip(content, prompt_logprobs[-10:], ids[-10:], strict=True):
        assert known == {
            str(token): {"logprob": entry["logprob"], "rank": known[str(token)]["rank"], "decoded_token": chr(token)}
        }
        top = entry["top_logprobs"][0]["logprob"]
        assert (known[str(token)]["rank"] == 1) == (entry["logprob"] == top)
    assert np.allclose(np.exp(bigram_logprobs("test-model")).sum(axis=1), 1.0)


async def test_plain_completions_give_their_logprobs_in_the_older_form(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(answer=lambda request, rng: "ok") as double:
        logprobs = (await complete(http, double, prompt="Hi", logprobs=2))["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["o", "k"]
    assert logprobs["text_offset"] == [0, 1]
    assert [tops[token] for tops, token in zip(logprobs["top_logprobs"], "ok", strict=True)] == logprobs[
        "token_logprobs"
    ]


async def test_a_stream_adds_up_to_the_answer_in_one_piece(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(tokens=(20, 90), tokens_per_chunk=7) as double:
        fields = ASK | {"n": 3, "seed": 5, "return_token_ids": True, "logprobs": True}
        whole = await chat(http, double, **fields)
        *chunks, usage, done = await stream(
            http,
            f"{double.base_url}/chat/completions",
            **fields,
            stream_options={"include_usage": True},
        )
        assert double.stats.completion_tokens == 2 * whole["usage"]["completion_tokens"]
    assert done
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    for expected in whole["choices"]:
        parts = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == expected["index"]]
        assert parts[0]["delta"]["role"] == "assistant"
        assert "".join(part["delta"]["content"] for part in parts) == expected["message"]["content"]
        assert [token for part in parts for token in part.get("token_ids", [])] == expected["token_ids"]
        streamed = [entry for part in parts[1:] for entry in part["logprobs"]["content"]]
        assert streamed == expected["logprobs"]["content"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["stop"]


async def test_continuous_usage_grows_with_every_chunk(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(answer=lambda request, rng: "a é b", tokens_per_chunk=3) as double:
        options = {"include_usage": True, "continuous_usage_stats": True}
        *chunks, usage, done = await stream(http, f"{double.base_url}/completions", prompt="Hi", stream_options=options)
    assert done
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [3, 6]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "a é b"
    assert usage["usage"]["total_tokens"] == 2 + 6


async def test_streamed_choices_arrive_at_their_own_pace(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(latency=lambda request, index: (0.3, 0.05)[index]) as double:
        chunks = await stream(http, f"{double.base_url}/chat/completions", n=2, **ASK)
    ends = [c["choices"][0]["index"] for c in chunks[:-1] if c["choices"][0]["finish_reason"]]
    assert ends == [1, 0]


async def test_an_answer_in_one_piece_waits_for_its_slowest_choice(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(latency=lambda request, index: 0.1 * index) as double:
        start = time.perf_counter()
        await chat(http, double, n=3)
        assert time.perf_counter() - start >= 0.2


async def test_another_vendors_server_has_none_of_vllms_extensions(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(owned_by="somebody", models=("a", "b")) as double:
        answer = await chat(http, double, return_token_ids=True, prompt_logprobs=0, model="b")
        async with http.get(f"{double.base_url}/models") as response:
            cards = (await response.json())["data"]
        async with http.post(double.base_url.replace("/v1", "/tokenize"), json=ASK) as response:
            assert response.status == 404
    assert [(card["id"], card["owned_by"]) for card in cards] == [("a", "somebody"), ("b", "somebody")]
    assert not {"prompt_token_ids", "prompt_logprobs"} & set(answer)
    assert not {"token_ids", "stop_reason"} & set(answer["choices"][0])
    assert set(double.by_model) == {"b"}


async def test_cached_tokens_are_the_blocks_shared_with_earlier_prompts(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(prefix_cache=True) as double:
        prompts = ["x" * 40, "x" * 40, "x" * 20 + "y" * 20, "z" + "x" * 39]
        answers = [await complete(http, double, prompt=prompt) for prompt in prompts]
    cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers]
    assert cached == [0, 32, 16, 0]
    assert double.stats.cached_tokens == 48


async def test_the_wrong_key_is_refused_and_headers_and_bodies_are_kept(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(api_key="secret") as double:
        status, _, _ = await refused(http, double)
        http.headers["Authorization"] = "Bearer secret"
        await chat(http, double, top_k=3)
    assert status == 401
    assert [seen.body for seen in double.requests] == [ASK | {"top_k": 3, "model": "test-model"}]
    assert double.requests[0].headers["authorization"] == "Bearer secret"
    assert double.stats.faults == {"unauthorized": 1}


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "nobody"}, 404, "model"),
        ({"max_tokens": 40_000}, 400, "messages"),
        ({"n": 0}, 400, "n"),
        ({"messages": [{}]}, 400, None),
    ],
)
async def test_a_request_that_cannot_be_met_is_refused(
    http: aiohttp.ClientSession, fields: dict[str, Any], status: int, param: str | None
) -> None:
    async with ModelDouble() as double:
        got, error, _ = await refused(http, double, **fields)
        assert (got, error["code"], error["param"]) == (status, status, param)
        assert double.stats.received == sum(double.stats.faults.values()) == 1
        assert double.stats.served == double.stats.running == 0


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (FaultKind.RATE_LIMITED, 429),
        (FaultKind.SERVER_ERROR, 500),
        (FaultKind.UNAVAILABLE, 503),
        (FaultKind.BAD_REQUEST, 400),
        (FaultKind.CONTEXT_LENGTH, 400),
        (FaultKind.UNAUTHORIZED, 401),
    ],
)
async def test_a_scheduled_refusal_happens_once_and_costs_nothing(
    http: aiohttp.ClientSession, kind: FaultKind, status: int
) -> None:
    async with ModelDouble(faults=[None, Fault(kind)]) as double:
        await chat(http, double)
        paid = double.stats.completion_tokens
        got, _, headers = await refused(http, double)
        assert got == status
        assert "Retry-After" not in headers
        assert double.stats.completion_tokens == paid
        assert double.stats.wasted_prompt_tokens == 0
        await chat(http, double)
    assert double.stats.faults == double.by_model["test-model"].faults == {kind: 1}
    assert (double.stats.received, double.stats.served) == (3, 2)


async def test_retry_after_comes_in_seconds_or_as_a_date(http: aiohttp.ClientSession) -> None:
    limited, began = FaultKind.RATE_LIMITED, time.time()
    async with ModelDouble(
        faults=[Fault(limited, retry_after=0.5), Fault(limited, retry_after=30, as_date=True)]
    ) as double:
        _, _, seconds = await refused(http, double)
        _, _, date = await refused(http, double)
    assert seconds["Retry-After"] == "0.5"
    assert began + 30 <= parsedate_to_datetime(date["Retry-After"]).timestamp() <= time.time() + 31


async def test_an_unsupported_n_is_rejected_or_ignored(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(faults=Fault(FaultKind.N_REJECTED)) as rejecting:
        status, error, _ = await refused(http, rejecting, n=4)
        assert (status, error["param"]) == (400, "n")
        assert len((await chat(http, rejecting, n=1))["choices"]) == 1
    async with ModelDouble(faults=Fault(FaultKind.N_IGNORED)) as ignoring:
        assert len((await chat(http, ignoring, n=4))["choices"]) == 1
        assert ignoring.stats.choices == 1


async def test_a_bent_answer_is_delivered_and_billed_for_what_it_holds(http: aiohttp.ClientSession) -> None:
    kinds = [FaultKind.MISSING_USAGE, FaultKind.FEWER_CHOICES, FaultKind.EMPTY_CHOICES]
    async with ModelDouble(answer=lambda request, rng: "12345", faults=[Fault(kind) for kind in kinds]) as double:
        no_usage, fewer, empty = [await chat(http, double, n=4) for _ in kinds]
    assert "usage" not in no_usage
    assert len(no_usage["choices"]) == 4
    assert (len(fewer["choices"]), fewer["usage"]["completion_tokens"]) == (2, 10)
    assert (empty["choices"], empty["usage"]["completion_tokens"]) == ([], 0)
    assert (double.stats.served, double.stats.choices, double.stats.completion_tokens) == (3, 6, 30)


async def test_a_truncated_body_agrees_with_its_length_and_is_wasted(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(answer=lambda request, rng: "12345", faults=[Fault(FaultKind.TRUNCATED)]) as double:
        async with http.post(f"{double.base_url}/chat/completions", json=ASK) as response:
            body = await response.read()
            assert response.status == 200
            assert response.content_length == len(body)
        with pytest.raises(json.JSONDecodeError):
            json.loads(body)
        assert (double.stats.served, double.stats.completion_tokens) == (0, 0)
        assert double.stats.wasted_completion_tokens == 5
        assert double.stats.wasted_prompt_tokens > 0


async def test_a_web_page_in_place_of_json_costs_nothing(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(faults=[Fault(FaultKind.NOT_JSON)]) as double:
        async with http.post(f"{double.base_url}/chat/completions", json=ASK) as response:
            assert (response.status, response.content_type) == (200, "text/html")
        assert double.stats.served == double.stats.wasted_prompt_tokens == 0


@pytest.mark.parametrize(
    ("kind", "error", "wasted"),
    [
        (FaultKind.DROPPED, aiohttp.ServerDisconnectedError, 0),
        (FaultKind.RESET, aiohttp.ClientOSError, 0),
        (FaultKind.DROPPED_MID_BODY, aiohttp.ClientPayloadError, 5),
    ],
)
async def test_a_dropped_connection_is_no_cancellation(
    http: aiohttp.ClientSession, kind: FaultKind, error: type[Exception], wasted: int
) -> None:
    async with ModelDouble(answer=lambda request, rng: "12345", faults=[Fault(kind)]) as double:
        with pytest.raises(error):
            await chat(http, double)
        assert double.stats.wasted_completion_tokens == wasted
        assert double.stats.cancelled == double.stats.served == 0
        await chat(http, double)
        assert double.stats.faults == {kind: 1}


@pytest.mark.parametrize("kind", [FaultKind.STREAM_CUT, FaultKind.TRUNCATED])
async def test_a_cut_stream_ends_cleanly_without_done(http: aiohttp.ClientSession, kind: FaultKind) -> None:
    async with ModelDouble(faults=[Fault(kind)]) as double:
        async with http.post(f"{double.base_url}/chat/completions", json=ASK | {"stream": True}) as response:
            text = await response.text()
        assert "[DONE]" not in text
        assert text.endswith("\n\n") == (kind is FaultKind.STREAM_CUT)
        assert (double.stats.served, double.stats.cancelled) == (0, 0)
        assert double.stats.wasted_completion_tokens > 0


async def test_a_stream_dropped_in_the_middle_breaks_the_connection(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(faults=[Fault(FaultKind.DROPPED_MID_BODY)]) as double:
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream(http, f"{double.base_url}/chat/completions", **ASK)
        assert double.stats.cancelled == 0


async def test_a_hung_request_ends_when_its_client_goes(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(faults=Fault(FaultKind.HANG)) as double:
        await leave(await start(http, double), double)
        assert double.stats.faults == {FaultKind.HANG: 1}
        assert double.stats.cancelled == len(double.cancel_times) == 1
        assert double.stats.running == double.stats.wasted_prompt_tokens == 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cancelled_request_is_billed_for_what_was_generated(
    http: aiohttp.ClientSession, streamed: bool
) -> None:
    def latency(request: dict[str, Any], index: int) -> float:
        return (0.0, 1000.0)[index]

    async with ModelDouble(answer=lambda request, rng: "x" * 100, latency=latency) as double:
        await leave(await start(http, double, n=2, stream=streamed), double)
        stats = double.stats
        assert (stats.cancelled, stats.served, stats.running) == (1, 0, 0)
        # The immediate choice is complete; the other has generated next to nothing of its 1000 seconds.
        assert stats.wasted_completion_tokens == 100
        assert stats.wasted_prompt_tokens > 0
        assert stats.completion_tokens == 0


async def test_faults_at_rates_come_about_that_often_and_repeat_with_the_seed(
    http: aiohttp.ClientSession,
) -> None:
    rates = {Fault(FaultKind.SERVER_ERROR): 0.2, Fault(FaultKind.RATE_LIMITED): 0.1}

    async def statuses(double: ModelDouble) -> list[int]:
        url = f"{double.base_url}/chat/completions"
        responses = [await http.post(url, json=ASK) for _ in range(400)]
        return [response.status for response in responses]

    async with ModelDouble(faults=rates, seed=4) as double:
        first = await statuses(double)
        double.reset()
        assert double.stats.received == 0
        assert await statuses(double) == first
    counts = Counter(first)
    assert abs(counts[500] - 80) < 40
    assert abs(counts[429] - 40) < 30


async def test_fault_rates_above_one_are_an_error() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        ModelDouble(faults={Fault(FaultKind.HANG): 0.7, Fault(FaultKind.RESET): 0.7})


async def test_a_fault_plan_sees_the_request(http: aiohttp.ClientSession) -> None:
    def plan(number: int, request: dict[str, Any]) -> Fault | None:
        return Fault(FaultKind.UNAVAILABLE) if request.get("user") == "unlucky" else None

    async with ModelDouble(faults=plan) as double:
        await chat(http, double, user="lucky")
        assert (await refused(http, double, user="unlucky"))[0] == 503


@pytest.mark.parametrize("queue", [False, True])
async def test_requests_above_the_most_running_are_refused_or_wait(http: aiohttp.ClientSession, queue: bool) -> None:
    async with ModelDouble(max_running=3, queue=queue, latency=0.05) as double:
        url = f"{double.base_url}/chat/completions"
        responses = await asyncio.gather(*(http.post(url, json=ASK) for _ in range(9)))
        statuses = Counter(response.status for response in responses)
        assert double.stats.peak_running == 3
        assert double.stats.served == statuses[200]
        if queue:
            assert statuses == {200: 9}
        else:
            assert statuses[200] >= 3
            assert statuses[429] == double.stats.faults["busy"] == 9 - statuses[200] > 0


async def test_reset_refuses_while_a_request_is_open(http: aiohttp.ClientSession) -> None:
    async with ModelDouble(latency=30) as double:
        asking = await start(http, double)
        with pytest.raises(RuntimeError, match="idle"):
            double.reset()
        await leave(asking, double)
        double.reset()
    assert double.stats.received == 0


async def test_every_token_is_counted_once_under_a_storm_of_faults(http: aiohttp.ClientSession) -> None:
    uncounted = {FaultKind.HANG, FaultKind.MISSING_USAGE}
    rates = {Fault(kind): 0.05 for kind in FaultKind if kind not in uncounted}

    async with ModelDouble(faults=rates, latency=(0.0, 0.01), seed=9) as double:
        seen: Counter[str] = Counter()

        async def ask() -> None:
            try:
                answer = await chat(http, double, n=2)
            except (aiohttp.ClientError, AssertionError, json.JSONDecodeError):
                return
            seen["served"] += 1
            seen["choices"] += len(answer["choices"])
            for name in ("prompt_tokens", "completion_tokens"):
                seen[name] += answer["usage"][name]

        await asyncio.gather(*(ask() for _ in range(200)))
        await double.idle()
        stats = double.stats
        assert {name: getattr(stats, name) for name in seen} == seen
        bent = sum(stats.faults[kind] for kind in ("fewer_choices", "empty_choices", "n_ignored"))
        assert stats.received == 200 == stats.served + sum(stats.faults.values()) - bent
        assert stats.wasted_completion_tokens > 0
        assert stats.running == stats.cancelled == 0


async def test_the_double_serves_as_a_process_of_its_own(http: aiohttp.ClientSession) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.double", "--latency", "0.001", "0.002", "--says", "judge={}", "--log", "5"),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    try:
        assert process.stdout is not None
        ready, base_url = (await asyncio.wait_for(process.stdout.readline(), 120)).decode().split()
        assert ready == "ready"
        url = f"{base_url}/chat/completions"
        async with http.post(url, json=ASK | {"model": "judge"}) as response:
            assert (await response.json())["choices"][0]["message"]["content"] == "{}"
        root = base_url.removesuffix("/v1")
        async with http.get(f"{root}/stats") as response:
            stats = await response.json()
        assert stats["served"] == stats["models"]["judge"]["served"] == 1
        await http.post(f"{root}/reset")
        async with http.get(f"{root}/stats") as response:
            assert (await response.json())["served"] == 0
    finally:
        process.terminate()
        assert await process.wait() == 0
