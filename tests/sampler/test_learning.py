"""What is learnt about a server: only from small requests of our own, once, and said."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
from time import process_time
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tests.support.double import ModelDouble
from tests.support.raw_answers import Json, Scripted, answer, response, stream
from tests.support.scripted import ScriptedServer, choice
from tests.support.solving import PROMPT, draw, endpoint
from tts.accounts import Ledger
from tts.errors import QuotaSpent, RequestRejected, SamplingFailed, Throttled, TransientError
from tts.sampler import Endpoint, Sampler, refusals
from tts.sampler.parameters import Dispensable
from tts.types import Usage


def refusal(message: str, param: str | None = None, status: str = "400 Bad Request", **headers: str) -> bytes:
    error = {"message": message, "param": param, "type": "invalid_request_error", "code": "unsupported_parameter"}
    return response({"error": error}, status, **headers)


def answered(body: Json) -> bytes:
    if body.get("stream"):
        choices = [{"index": i, "delta": {"content": "Hi"}, "finish_reason": "stop"} for i in range(body.get("n", 1))]
        return stream({"choices": choices}, b"data: [DONE]")
    return response(answer(*["Hi"] * body.get("n", 1)))


def sampler_of(server: Scripted | ScriptedServer, **settings: Any) -> Sampler:
    return Sampler(Endpoint(model="m", base_url=server.base_url, **{"retry_wait": 0.001, **settings}))


async def test_a_request_that_may_not_have_n_changes_no_other():
    def reply(body: Json) -> bytes:
        greedy = body.get("temperature") == 0 and body.get("n", 1) > 1
        return refusal("n must be 1 when using greedy sampling, got 8.") if greedy else answered(body)

    async with Scripted(reply) as server, sampler_of(server) as sampler:
        assert len(await draw(sampler, 8, temperature=0)) == 8
        assert len(await draw(sampler, 8, temperature=0.5)) == 8
        assert len(await draw(sampler, 8)) == 8
        assert [body.get("n") for body in server.requests[-2:]] == [8, 8]
        assert not sampler.notices
        assert sampler.takes_n is not False
        small = [body for body in server.requests if body.get("n") == 2]
        assert len(await draw(sampler, 8, temperature=0)) == 8
    assert len(small) == 1  # it asked once what the refusal is about
    assert len(small[0]["messages"][0]["content"]) < 10
    assert [body for body in server.requests if body.get("n") == 2] == small


REFUSED = {
    "max_tokens": (
        {"max_tokens": 9},
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    ),
    "max_completion_tokens": ({"max_completion_tokens": 9}, "extra fields not permitted: max_completion_tokens"),
    "temperature": ({"temperature": 0.3}, "Unsupported value: 'temperature' does not support 0.3 with this model."),
    "seed": ({"seed": 7}, "Unknown parameter: 'seed'."),
    "top_p": ({"top_p": 0.5}, "`top_p` is not supported"),
    "presence_penalty": ({"presence_penalty": 0.5}, "presence_penalty: Extra inputs are not permitted"),
}


@pytest.mark.parametrize("as_param", [True, False])
@pytest.mark.parametrize("name", REFUSED)
async def test_a_parameter_that_the_server_lacks_is_left_out_from_then_on_and_this_is_said_once(name, as_param, caplog):
    params, words = REFUSED[name]

    def reply(body: Json) -> bytes:
        return refusal(words, name if as_param else None) if name in body else answered(body)

    async with Scripted(reply) as server, sampler_of(server, params=params, max_n=1) as sampler:
        with caplog.at_level(logging.WARNING, logger="tts"):
            assert len(await draw(sampler, 3)) == 3
            before = len(server.requests)
            assert len(await draw(sampler, 20)) == 20
    assert not any(name in body for body in server.requests[before:])
    assert len(server.requests) == before + 20
    assert len(sampler.notices) == len(caplog.records) == 1
    assert name in sampler.notices[0]
    if name == "max_tokens":
        assert all(body["max_completion_tokens"] == 9 for body in server.requests[before:])
    if name == "max_completion_tokens":
        assert all(body["max_tokens"] == 9 for body in server.requests[before:])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REFUSED)
async def test_a_refusal_that_comes_when_it_is_known_already_costs_no_sample(name: str, stream: bool):
    asked, words = REFUSED[name]
    known, late = asyncio.Event(), itertools.count()

    async def respond(body: dict[str, Any]) -> Any:
        if not asked.keys() & body.keys():
            known.set()
            return choice("Hi")
        if len(body["messages"][0]["content"]) > 10 and next(late) > 0:  # not the request that finds out
            await known.wait()
        return web.json_response({"error": {"message": words}}, status=400)

    ledger = Ledger()
    async with ScriptedServer(respond) as server, sampler_of(server, max_n=1, stream=stream) as sampler:
        samples = await draw(sampler, 4, ledger, **asked)
    assert next(late) == 4
    assert [sample.text for sample in samples] == ["Hi"] * 4
    assert ledger.failures == []


async def test_a_model_that_refuses_several_parameters_is_asked_without_them_all():
    refused = {"max_tokens", "temperature", "seed", "n"}

    def reply(body: Json) -> bytes:
        wrong = sorted(refused & body.keys())
        return refusal(f"Unsupported parameter: '{wrong[0]}'", wrong[0]) if wrong else answered(body)

    params = {"max_tokens": 9, "temperature": 0.2, "seed": 1}
    async with Scripted(reply) as server, sampler_of(server, params=params) as sampler:
        assert len(await draw(sampler, 8)) == 8
        assert sampler.refused == refused
        assert len(sampler.notices) == 4


async def test_a_value_that_is_refused_is_that_requests_failure():
    def reply(body: Json) -> bytes:
        if body.get("temperature", 1) > 2:
            return refusal("temperature must be at most 2", "temperature")
        return answered(body)

    async with Scripted(reply) as server, sampler_of(server) as sampler:
        with pytest.raises(SamplingFailed, match="at most 2"):
            await draw(sampler, 1, temperature=5.0)
        await draw(sampler, 1, temperature=1.5)
        assert server.requests[-1]["temperature"] == 1.5
        assert not sampler.notices


@pytest.mark.parametrize("lacks", [True, False])
async def test_a_form_of_the_answer_is_dispensable_only_where_the_caller_says_so(lacks):
    def reply(body: Json) -> bytes:
        form = body.get("response_format")
        if form and (lacks or form["json_schema"]["name"] == "odd"):
            return refusal("response_format is not supported", "response_format")
        return answered(body)

    form = {"type": "json_schema", "json_schema": {"name": "odd", "schema": {}}}
    async with Scripted(reply) as server, sampler_of(server) as sampler:
        for _ in range(2):
            with pytest.raises(SamplingFailed, match="response_format is not supported"):
                await draw(sampler, 1, response_format=form)
        assert not sampler.refused
        assert len(await draw(sampler, 1, response_format=Dispensable(form))) == 1
        assert bool(sampler.refused) is lacks
        if not lacks:
            assert len(await draw(sampler, 1, response_format={**form, "json_schema": {"name": "good"}})) == 1
            assert "response_format" in server.requests[-1]


@pytest.mark.parametrize("fields", [{"finish_reason": "error"}, {"error": {"message": "died", "code": 502}}])
async def test_a_choice_that_the_server_did_not_finish_is_no_sample_and_says_nothing_about_n(fields):
    left = [5]

    def reply(body: Json) -> bytes:
        if left[0] and body.get("n", 1) > 1:
            left[0] -= 1
            return response(answer("Half an ans", **fields))
        return answered(body)

    ledger = Ledger()
    async with Scripted(reply) as server, sampler_of(server) as sampler:
        samples = await draw(sampler, 80, ledger)
        assert {sample.text for sample in samples} == {"Hi"}
        assert len(samples) == 80
        assert sampler.takes_n is True
    assert len(server.requests) <= 10 + 5 + 1
    assert ledger.wasted["policy"].completion_tokens > 0


async def test_what_a_server_is_known_to_ignore_is_said():
    async with ModelDouble(owned_by="library") as double, Sampler(endpoint(double)) as sampler:
        await draw(sampler, 1, top_k=20, temperature=0.5)
        await draw(sampler, 1, top_k=20)
    assert [notice for notice in sampler.notices if "top_k" in notice] == ["test-model: it is known to ignore top_k"]


async def test_streams_without_options_for_them():
    def reply(body: Json) -> bytes:
        refused = "stream_options" in body
        return refusal("Unrecognized request argument supplied: stream_options") if refused else answered(body)

    async with Scripted(reply) as server, sampler_of(server, stream=True) as sampler:
        assert len(await draw(sampler, 8)) == 8
        assert len(await draw(sampler, 8)) == 8
        assert "stream_options" not in server.requests[-1]


# -- refusals that are no use to repeat, and waits -------------------------------------------------------------------

NO_CREDIT = {
    "insufficient_quota": ("429 Too Many Requests", {"code": "insufficient_quota", "message": "You exceeded"}),
    "type": ("429 Too Many Requests", {"type": "insufficient_quota", "message": "You exceeded"}),
    "billing": ("400 Bad Request", {"code": "billing_hard_limit_reached", "message": "Billing hard limit"}),
    "402": ("402 Payment Required", {"message": "pay"}),
    "403": ("403 Forbidden", {"code": "insufficient_balance", "message": "no"}),
    "words": ("400 Bad Request", {"message": "Your credit balance is too low to access the API."}),
}


@pytest.mark.parametrize(("status", "error"), NO_CREDIT.values(), ids=NO_CREDIT)
async def test_an_account_without_credit_ends_everything_at_once_also_later(status, error):
    paid = [True]

    def reply(body: Json) -> bytes:
        return answered(body) if paid[0] else response({"error": error}, status)

    async with Scripted(reply) as server, sampler_of(server, max_n=1, max_concurrency=1) as sampler:
        await draw(sampler)
        paid[0] = False
        with pytest.raises(QuotaSpent, match="no credit left"):
            await draw(sampler, 20)
    assert len(server.requests) <= 3


KINDS = [
    (429, "You exceeded your current quota, please check your plan and billing.", {"retry-after": "36"}, Throttled),
    (400, "[{'loc': ('body', 'x'), 'input': 'insufficient funds'}]", {}, RequestRejected),
    (403, "Key limit exceeded (total limit)", {}, QuotaSpent),
    (424, "Request failed during generation", {}, TransientError),
    (498, "Flex tier capacity exceeded", {}, Throttled),
    (529, "Overloaded", {}, Throttled),
]


@pytest.mark.parametrize(("status", "words", "headers", "kind"), KINDS)
def test_refusals_mean_what_their_servers_mean(status, words, headers, kind):
    body = '{"error": {"message": "' + words + '"}}'
    assert type(refusals.error_of(status, headers, body, "http://x", "KEY")) is kind


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Internal Server Error", "503 Service Unavailable"])
async def test_a_server_that_says_not_to_retry_is_not_asked_again(status):
    reply = refusal("no", status=status, x_should_retry="false")
    async with Scripted(lambda body: reply) as server, sampler_of(server) as sampler:
        with pytest.raises(SamplingFailed):
            await draw(sampler)
    assert len(server.requests) == 1


async def test_a_server_that_says_to_retry_is_asked_again():
    replies = [refusal("lock", status="400 Bad Request", x_should_retry="true")]
    async with Scripted(lambda body: replies.pop() if replies else answered(body)) as server:
        async with sampler_of(server) as sampler:
            await draw(sampler)
        assert len(server.requests) == 2


WAITS = {
    ("retry-after-ms", "250"): 0.25,
    ("retry-after", "7"): 7,
    ("retry-after", "0.5"): 0.5,
    ("retry-after", "20ms"): 0.02,
    ("retry-after", "1m30s"): 90,
    ("retry-after", "2h"): 7200,
    ("retry-after", "nan"): None,
    ("retry-after", "soon"): None,
    ("retry-after-ms", "inf"): None,
    ("x-ratelimit-reset-requests", "6m0s"): 360,
    ("x-ratelimit-reset-tokens", "1.5s"): 1.5,
    ("x-ratelimit-reset", "12"): 12,
    ("ratelimit-reset", "12"): 12,
    ("ratelimit", "limit=10, remaining=0, reset=5"): 5,
    ("ratelimit", '"day";r=0;t=9'): 9,
    ("ratelimit", "remaining=., reset=1.2.3"): 1.2,
    ("ratelimit", "r=...;t=..."): None,
    ("retry-after", "-5"): 0,
    ("retry-after", "1e308"): refusals.LONGEST,
    ("retry-after", "9" * 400 + "d"): refusals.LONGEST,
    ("retry-after-ms", "1e300"): refusals.LONGEST,
    ("retry-after", "Wed, 21 Oct 2999 07:28:00 GMT"): refusals.LONGEST,
}


@pytest.mark.parametrize(("header", "seconds"), WAITS.items())
def test_waits_are_read_in_every_usual_form(header, seconds):
    assert refusals.wait_of(dict([header])) == seconds


@pytest.mark.parametrize("value", ["1" * 8000 + "x", "1s" * 4000, "a" * 8000, "0" * 8000, ',"' * 4000])
def test_headers_too_long_for_a_wait_take_no_time(value):
    begin = process_time()
    for name in ("retry-after", "x-ratelimit-reset", "ratelimit", "ratelimit-reset" + "-reset" * 500):
        assert refusals.wait_of({name: value}) is None
    assert process_time() - begin < 0.05


@given(
    st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "ratelimit"]), st.text('0159.;,=-:"rt smhZT')
)
def test_no_header_is_an_error_of_ours(name, value):
    assert 0 <= (refusals.wait_of({name: value}) or 0) <= refusals.LONGEST


def test_moments_are_waits_until_then(monkeypatch):
    monkeypatch.setattr(refusals, "time", lambda: 1_900_000_000.0)
    for value in ("1900000030", "1900000030000", "Sun, 17 Mar 2030 17:47:10 GMT", "2030-03-17T17:47:10Z"):
        assert refusals.wait_of({"anthropic-ratelimit-requests-reset": value}) == 30
        assert refusals.wait_of({"retry-after": value}) == 30
    assert refusals.wait_of({"retry-after": "1800000000"}) == 0


def test_only_a_limit_that_is_reached_is_a_reason_to_wait():
    headers = {"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "60s"}
    assert refusals.wait_of(headers) == 60
    assert refusals.wait_of({**headers, "x-ratelimit-remaining-tokens": "500"}) == 1
    assert refusals.wait_of({**headers, "retry-after": "2"}) == 2
    assert refusals.wait_of({**headers, "retry-after": "2", "retry-after-ms": "2500"}) == 2.5
    assert refusals.wait_of(headers, limited=False) is None


async def test_the_query_of_a_base_url_stays_behind_the_path():
    async with Scripted(answered) as server:
        base = server.base_url.removesuffix("/v1") + "/openai/deployments/d/?api-version=2024-10-21"
        async with Sampler(Endpoint(model="m", base_url=base)) as sampler:
            await draw(sampler)
    assert server.head.split()[1] == "/openai/deployments/d/chat/completions?api-version=2024-10-21"
    assert all(re.search(r"\?api-version=2024-10-21 HTTP", head) for head in server.heads)


async def test_usage_of_what_was_learnt_is_on_the_bill():
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        ledger = Ledger()
        assert not await sampler.lacks("n", "/chat/completions", PROMPT, role="policy", ledger=ledger)
    (charge,) = ledger.paid
    assert charge.usage.requests == double.stats.served == 1
    assert charge.usage.completion_tokens == double.stats.completion_tokens
    assert ledger.wasted.get("policy", Usage()) == Usage()


def test_a_refusal_is_about_the_parameter_that_it_names_first():
    error = RequestRejected(
        "", status=400, body='{"error": {"message": "\'max_tokens\': use \'max_completion_tokens\'"}}'
    )
    assert refusals.blamed(error, ["max_completion_tokens", "max_tokens"]) == "max_tokens"
    assert refusals.blamed(error, ["max", "tokens", "n"]) is None


@pytest.mark.parametrize(
    ("words", "names", "found"),
    [
        ("Only one completion choice is allowed", ["n", "seed"], "n"),
        ("Multiple candidates is not enabled for this model", ["n"], "n"),
        ("Only one completion choice is allowed", ["seed"], None),
        ("seed: only one choice of several choices", ["n", "seed"], "seed"),
    ],
)
def test_a_refusal_of_n_need_not_name_it(words: str, names: list[str], found: str | None):
    error = RequestRejected(words, status=400, body=json.dumps({"error": {"message": words}}))
    assert refusals.blamed(error, names) == found
