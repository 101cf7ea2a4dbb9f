"""Bodies out, choices, usage and errors in."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.double import ModelDouble
from tests.support.solving import PROMPT, draw, endpoint
from tts.accounts import Ledger
from tts.errors import EndpointRefused, RequestRejected, Throttled, TransientError
from tts.runs.store import _dump_sample, _load_sample
from tts.sampler import Endpoint, Sampler, llama_cpp, protocol, refusals
from tts.sampler.transport import Reply, Request
from tts.types import Usage, total


def error(status: int, body: str = "", **headers: str) -> Any:
    sent = {k.replace("_", "-"): v for k, v in headers.items()}
    return refusals.error_of(status, sent, body, "http://a/v1/chat/completions", "OPENAI_API_KEY")


def test_chat_text_and_token_prompts_have_their_own_routes():
    assert protocol.request(PROMPT, "m", {"n": 2, "stop": None}) == (
        "/chat/completions",
        {"model": "m", "messages": list(PROMPT), "n": 2},
    )
    assert protocol.request("Once", "m", {}) == ("/completions", {"model": "m", "prompt": "Once"})
    assert protocol.request([1, 2], "m", {}) == ("/completions", {"model": "m", "prompt": [1, 2]})


def test_log_probabilities_are_asked_for_in_each_routes_own_way():
    assert protocol.request("Once", "m", {"logprobs": True, "top_logprobs": 3})[1]["logprobs"] == 3
    assert protocol.request("Once", "m", {"logprobs": True})[1]["logprobs"] == 0
    assert protocol.request(PROMPT, "m", {"logprobs": True})[1]["logprobs"] is True


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, Throttled),
        (503, Throttled),
        (500, TransientError),
        (502, TransientError),
        (408, TransientError),
        (400, RequestRejected),
        (413, RequestRejected),
        (422, RequestRejected),
        (501, RequestRejected),
        (401, EndpointRefused),
        (403, EndpointRefused),
        (404, EndpointRefused),
        (307, EndpointRefused),
    ],
)
def test_every_status_has_its_kind_of_error(status, kind):
    assert type(error(status, '{"error": {"message": "so it is"}}')) is kind


def test_errors_repeat_the_servers_words_and_say_what_to_do():
    assert "so it is" in str(error(400, '{"error": {"message": "so it is"}}'))
    assert "so it is" in str(error(400, '{"error": "so it is"}'))
    assert "so it is" in str(error(400, '{"message": "so it is"}'))
    assert "no message" in str(error(500))
    assert "OPENAI_API_KEY" in str(error(401))
    assert "ends in /v1" in str(error(404))
    assert "http://b/v1" in str(error(307, location="http://b/v1"))
    assert len(str(error(400, "x" * 10_000))) < 500


def test_retry_after_is_read_in_seconds_and_as_a_date():
    assert error(429, retry_after="1.5").retry_after == 1.5
    assert error(429, retry_after="-3").retry_after == 0
    assert error(429, retry_after="soon").retry_after is None
    assert error(429).retry_after is None
    assert 50 < error(429, retry_after=formatdate(time.time() + 60, usegmt=True)).retry_after <= 61
    assert error(429, retry_after=formatdate(0, usegmt=True)).retry_after == 0


@pytest.mark.parametrize(
    ("status", "body", "about_n"),
    [
        (400, '{"error": {"message": "Unsupported value: \'n\' must be 1"}}', True),
        (400, '{"error": {"message": "bad value", "param": "n"}}', True),
        (422, '{"detail": "Only `n`=1 is supported"}', True),
        (501, '{"error": "n > 1 is not implemented"}', True),
        (400, '{"error": {"message": "max_tokens is too large: 99", "param": "max_tokens"}}', False),
        (400, '{"error": {"message": "This model\'s maximum context length is 10 tokens, not 99."}}', False),
        (500, '{"error": {"message": "n failed", "param": "n"}}', False),
    ],
)
def test_a_rejection_of_n_is_told_from_others(status, body, about_n):
    assert (refusals.blamed(error(status, body), ["n"]) == "n") is about_n


@pytest.mark.parametrize("data", [None, [], {}, {"choices": None}, {"choices": [3]}, {"choices": {"index": 0}}])
def test_an_answer_without_readable_choices_is_worth_another_try(data):
    with pytest.raises(TransientError, match="no readable choices"):
        protocol.parse(data)


def test_usage_with_details_is_read_and_missing_usage_is_none():
    data = {
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 15},
    }
    usage = Usage(prompt_tokens=10, cached_tokens=8, completion_tokens=20, reasoning_tokens=15)
    assert protocol.usage_of(data) == usage
    assert protocol.usage_of({"prompt_tokens": 3, "prompt_tokens_details": None}) == Usage(prompt_tokens=3)
    assert protocol.usage_of(None) is None
    assert protocol.usage_of({}) is None


CHOICES = st.lists(st.builds(protocol.Generation, index=st.just(0), text=st.text(max_size=50)), min_size=1, max_size=9)


@given(CHOICES, st.integers(1, 10_000))
def test_shares_of_the_completion_tokens_add_up(choices, tokens):
    shares = protocol.share_tokens(choices, Usage(completion_tokens=tokens))
    assert sum(count for count, _ in shares) == tokens
    assert all(count >= 0 and not estimated for count, estimated in shares)


@given(CHOICES)
def test_tokens_that_nobody_counted_are_marked_as_estimates(choices):
    for choice, (count, estimated) in zip(choices, protocol.share_tokens(choices, None), strict=True):
        assert estimated
        assert count >= len(choice.text.encode()) / 4


def answering(*answers: Any, **settings: Any) -> Endpoint:
    """An endpoint that gives the answers, one a request, the last one for ever."""
    left = list(answers)

    async def answer(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.whole(404, b"")
        return Reply.json(left.pop(0) if len(left) > 1 else left[0])

    return Endpoint(model="m", base_url="mock://m", transport=answer, retry_wait=0.001, **settings)


def answer(*indices: int, tokens: int = 10) -> dict[str, Any]:
    choices = [{"index": i, "message": {"content": f"text {i}"}, "finish_reason": "stop"} for i in indices]
    return {"choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": tokens}}


async def test_choices_that_nobody_asked_for_are_booked_as_wasted():
    ledger = Ledger()
    async with Sampler(answering(answer(0, 1, 2, 3, tokens=40))) as sampler:
        samples = await draw(sampler, 1, ledger)
    assert [sample.text for sample in samples] == ["text 0"]
    assert total(ledger.paid).completion_tokens == 10
    assert ledger.wasted["policy"].completion_tokens == 30
    assert ledger.wasted["policy"].requests == 0


async def test_a_choice_with_a_wrong_number_stands_for_one_that_is_missing():
    ledger = Ledger()
    async with Sampler(answering(answer(7), max_attempts=3)) as sampler:
        (sample,) = await draw(sampler, 1, ledger)
    assert sample.index == 0
    assert total(ledger.paid).requests == 1
    assert not ledger.wasted


async def test_an_unreadable_answer_is_booked_as_a_wasted_request():
    ledger = Ledger()
    async with Sampler(answering({"detail": "?"}, answer(0))) as sampler:
        assert len(await draw(sampler, 1, ledger)) == 1
    assert ledger.wasted["policy"].requests == 1
    assert total(ledger.paid).requests == 1


async def test_the_likeliest_first_tokens_are_kept_where_asked_for_and_survive_the_store():
    async with ModelDouble() as double:
        for stream in (False, True):
            async with Sampler(endpoint(double, stream=stream)) as sampler:
                [chat] = await draw(sampler, logprobs=True, top_logprobs=3, max_tokens=5)
                [text] = [s async for s in sampler.sample("One", 1, logprobs=True, top_logprobs=3, max_tokens=5)]
                [plain] = await draw(sampler, max_tokens=5)
            for sample in (chat, text):
                assert sample.top_logprobs is not None
                assert sample.logprobs is not None
                assert sample.top_logprobs
                assert max(sample.top_logprobs.values()) >= sample.logprobs[0]
                assert _load_sample(sample.index, _dump_sample(sample)) == sample
            assert plain.top_logprobs is None


@pytest.mark.parametrize(
    ("text", "tokens", "asked", "known"),
    [
        ("", [30], {"logprobs": 0}, []),
        ("", [30], {}, None),
        ('")', [595], {"logprobs": 0}, []),  # one token has the stop string and what stands before it
        ('")', [595], {}, None),
        ("two words", [7, 8, 30], {"logprobs": 0}, None),
    ],
)
def test_llama_cpp_tells_no_probabilities_of_a_stop_string_which_is_not_that_it_has_none(
    text: str, tokens: list[int], asked: dict[str, Any], known: list[float] | None
):
    answer = {"content": text, "stop_type": "word", "stopping_word": ".", "tokens": tokens, "timings": {"cache_n": 0}}
    answer |= {"tokens_evaluated": 9, "tokens_predicted": len(tokens)}
    (choice,) = llama_cpp.parse({"include_stop_str_in_output": True, **asked}, answer).choices
    assert (choice.text, choice.logprobs) == (f"{text}.", known)
