"""What a gateway promises: verified or said not to be, the best of what was paid for, as many answers as asked for."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.serving import ASK, NUMBERS, serving
from tests.gateway.test_openai import IN_PIECES, STRATEGIES
from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tts.errors import ConfigError
from tts.gateway import GatewaySettings
from tts.sampler.transport import Reply, Request

RIGHT = solvable({}, otherwise=1.0)
JUDGED = "best_of_n:n=3,verifier=judge"


def scripted(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """An endpoint whose every choice is what `answer` makes of the request's body."""

    async def respond(request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"data": [{"id": "m"}]})
        body = request.json()
        choices = [{"index": i, **answer(body)} for i in range(body.get("n") or 1)]
        usage = {"prompt_tokens": 5, "completion_tokens": 3 * len(choices)}
        return Reply.json({"model": "m", "choices": choices, "usage": usage})

    return {"model": "m", "base_url": "mock://m", "transport": respond}


@contextmanager
def nobody() -> Iterator[str]:
    """The base URL of a port where nobody answers."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{closed.getsockname()[1]}/v1"


def no_json(body: dict[str, Any]) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": "It is fine."}, "finish_reason": "stop"}


def refuses(status: int, headers: dict[str, str] | None = None) -> dict[str, Any]:
    error = {"error": {"message": "no entry", "type": "x", "code": None, "param": None}}

    async def answer(request: Request) -> Reply:
        return Reply.json(error, status, **headers or {})

    return {"model": "j", "base_url": "mock://j", "transport": answer}


JUDGES = {
    "refuses the key": refuses(401),
    "has no such model": refuses(404),
    "refuses the request": refuses(400),
    "fails": refuses(500),
    "is overloaded": refuses(429),
    "has no opinion": scripted(no_json),
}
LOSSES = ["is down", *JUDGES]


def judge_that(way: str, url: str) -> dict[str, Any]:
    judge = JUDGES.get(way) or {"model": "j", "base_url": url, "api_key_env": "NO_KEY"}
    return {"judge": {**judge, "retry_wait": 0.005}}


# -- verification ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("way", LOSSES)
async def test_an_answer_that_could_not_be_verified_says_so(way: str, streamed: bool, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    with nobody() as url:
        async with ModelDouble(answer=RIGHT) as double, serving(double, endpoint=judge_that(way, url)) as served:
            async with asyncio.timeout(120):
                answer = await served.chat(JUDGED, stream=streamed)
            assert answer.status_code == 200, answer.text
            assert "Answer: 42" in answer.text.replace("\\n", "\n")
            assert answer.headers["x-tts-verified"] == "false"
            assert '"verified": false' in answer.text
            metrics = (await served.http.get(served.base_url.removesuffix("/v1") + "/metrics")).text
            assert 'tts_unverified_total{name="best_of_n"} 1.0' in metrics
    (line,) = [one for one in caplog.messages if "without verification" in one]
    assert answer.headers["x-tts-run"] in line


@pytest.mark.parametrize("way", LOSSES)
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_preset_or_a_request_may_insist_on_verification(way: str, streamed: bool):
    presets = {"sure": {"strategy": JUDGED, "on_unverified": "error"}}
    with nobody() as url:
        endpoint = judge_that(way, url)
        settings = {"endpoint": endpoint, "presets": presets, "limits": {"keep_alive": 120}}  # the status comes late
        async with ModelDouble(answer=RIGHT) as double, serving(double, **settings) as served:
            for model, tts in (("sure", {}), (JUDGED, {"tts": {"on_unverified": "error"}})):
                answer = await served.chat(model, stream=streamed, **tts)
                assert answer.status_code == 502
                assert answer.json()["error"]["code"] == "unverified"
                assert answer.headers["x-should-retry"] == "false"


async def test_an_answer_that_was_verified_says_so_and_one_of_no_verifier_says_nothing():
    presets = {"sure": {"strategy": "best_of_n:n=2,verifier=numeric_answer(reference=42)", "on_unverified": "error"}}
    async with ModelDouble(answer=RIGHT) as double, serving(double, presets=presets) as served:
        answer = await served.chat("sure")
        assert answer.headers["x-tts-verified"] == "true"
        assert "tts" not in answer.json()
        answer = await served.chat("single@qwen")
        assert "x-tts-verified" not in answer.headers
        answer = await served.chat("single@qwen", tts={"format": "42"})  # which single does not look at
        assert answer.headers["x-tts-verified"] == "false"


async def test_lost_verdicts_beside_others_are_counted_and_logged(caplog: pytest.LogCaptureFixture):
    said = iter(["one", '{"reasons": "", "grade": 7}', "?"])
    judge = scripted(lambda body: {"message": {"role": "assistant", "content": next(said)}, "finish_reason": "stop"})
    async with ModelDouble(answer=RIGHT) as double, serving(double, endpoint={"judge": judge}) as served:
        answer = await served.chat(JUDGED, tts={"details": True})
    assert answer.headers["x-tts-verified"] == "true"
    assert answer.json()["tts"]["unverified"] == 2
    assert any("lost 2 verdicts" in one for one in caplog.messages)


async def test_samples_and_choices_that_are_lost_are_counted():
    fine = {"message": {"role": "assistant", "content": "Answer: 42"}, "finish_reason": "stop"}
    said = iter([fine, {"message": {"content": 5}}, fine])
    endpoint = {**scripted(lambda body: next(said)), "max_n": 1, "max_attempts": 1}
    async with ModelDouble() as double, serving(double, endpoint=endpoint) as served:
        answer = await served.chat("best_of_n:n=3,verifier=regex(pattern=4)@qwen")
        assert (answer.status_code, answer.headers["x-tts-lost"]) == (200, "1")
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        answer = await served.chat("gen_select:n=3@qwen")  # what it chooses cannot be read
        assert (answer.status_code, answer.headers["x-tts-lost"]) == (200, "1")
        assert "x-tts-lost" not in (await served.chat("best_of_n:n=3,verifier=regex(pattern=4)@qwen")).headers


@pytest.mark.parametrize(
    ("verifier", "verified"),
    [
        ("any_of(verifiers=[judge,regex(pattern=zzz)])", "false"),
        ("cached(verifier=any_of(verifiers=[judge,regex(pattern=zzz)]))", "false"),
        ("rank_fusion(verifiers=[judge,regex(pattern=4)])", "false"),
        ("any_of(verifiers=[judge,regex(pattern=42)])", "true"),  # one that accepts is enough
        ("all_of(verifiers=[judge,regex(pattern=zzz)])", "true"),  # one that refuses is enough
    ],
)
async def test_a_verdict_of_several_is_none_while_one_that_it_hangs_on_is_missing(verifier: str, verified: str):
    endpoint = {"judge": refuses(500) | {"retry_wait": 0.005}}
    async with ModelDouble(answer=RIGHT) as double, serving(double, endpoint=endpoint) as served:
        answer = await served.chat(f"best_of_n:n=2,verifier={verifier}@qwen", tts={"on_unverified": "error"})
    if verified == "true":
        assert (answer.status_code, answer.headers["x-tts-verified"]) == (200, "true")
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "unverified")


async def test_a_strategy_that_compares_by_itself_says_when_it_could_not():
    with nobody() as url:
        endpoint = judge_that("is down", url)
        async with ModelDouble(answer=RIGHT) as double, serving(double, endpoint=endpoint) as served:
            answer = await served.chat("tournament:n=3@qwen")
    assert (answer.status_code, answer.headers["x-tts-verified"]) == (200, "false")


@pytest.mark.parametrize("strategy", ["first_pass:k=8", "first_pass:k=8,batch=4", "best_of_n:n=8", "self_refine"])
async def test_a_judge_that_is_down_holds_nobody_up(strategy: str):
    """With the defaults of a gateway, whose endpoints are tried again."""
    joint = "," if ":" in strategy else ":"
    with nobody() as url:
        judge = {"judge": {"model": "j", "base_url": url, "api_key_env": "NO_KEY"}, "retry_wait": 0.25}
        async with ModelDouble(answer=RIGHT) as double, serving(double, endpoint=judge) as served:
            async with asyncio.timeout(25):
                answer = await served.chat(f"{strategy}{joint}verifier=judge@qwen")
    assert (answer.status_code, answer.headers["x-tts-verified"]) == (200, "false")


@pytest.mark.parametrize("strategy", ["first_pass:k=8,batch=4", "best_of_n:n=8"])
async def test_a_judge_that_asks_for_a_day_holds_nobody_up(strategy: str):
    judge = {**refuses(429, {"retry-after": "86400"}), "max_n": 1}
    async with ModelDouble(answer=RIGHT) as double, serving(double, endpoint={"judge": judge}) as served:
        async with asyncio.timeout(120):
            answer = await served.chat(f"{strategy},verifier=judge@qwen")
    assert (answer.status_code, answer.headers["x-tts-verified"]) == (200, "false")


@pytest.mark.parametrize("place", ["the judge", "the model", "the queue"])
async def test_deadlines_hold_wherever_the_time_goes(place: str):
    async with ModelDouble(answer=RIGHT) as double, ModelDouble(faults=Fault(FaultKind.HANG)) as hanging:
        judge = {"model": "test-model", "base_url": hanging.base_url, "api_key_env": "NO_KEY"}
        limits = {"running": 1} if place == "the queue" else {}
        endpoint = {"base_url": hanging.base_url} if place != "the judge" else {"judge": judge}
        async with serving(double, endpoint=endpoint, limits=limits) as served:
            before = asyncio.create_task(served.chat()) if place == "the queue" else None
            while before is not None and not served.gateway.gate.running:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(120):
                answer = await served.chat("first_pass:k=4,verifier=judge@qwen", tts={"deadline": 0.3})
            if place == "the judge":
                assert answer.status_code == 200
                assert answer.headers["x-tts-verified"] == "false"
            else:
                assert answer.status_code == 504
                assert answer.headers["x-should-retry"] == "false"
            if before is not None:
                before.cancel()


def test_a_preset_that_insists_on_verification_says_yes_or_no():
    with pytest.raises(ConfigError, match="on_unverified"):
        GatewaySettings.parse(
            {
                "models": {"m": {"base_url": "mock://m"}},
                "presets": {"p": {"strategy": "single", "on_unverified": "never"}},
            }
        )


# -- the best of what was paid for -------------------------------------------------------------------------------------

ODD = {
    "refusal": ({"content": None, "refusal": "I will not."}, "stop"),
    "filtered": ({"content": ""}, "content_filter"),
    "empty": ({"content": ""}, "stop"),
    "all thought": ({"content": None, "reasoning_content": "hm"}, "length"),
    "no answer to read": ({"content": "I do not know."}, "stop"),
}
WHOLE = sorted(set(STRATEGIES) - IN_PIECES - {"budget_forcing", "deepconf", "thinksum"})  # which need more of a server


def bent(double: ModelDouble, reason: str, client: httpx.AsyncClient) -> dict[str, Any]:
    """An endpoint that gives the double's answers emptied, with another finish reason; scores stay as they are."""

    async def handle(request: Request) -> Reply:
        url = str(request.url).replace("mock://m", double.base_url.removesuffix("/v1"))
        answer = await client.request(request.method, url, content=request.content)
        data = answer.json() if request.method == "POST" else {}
        if not data.get("choices") or "prompt_logprobs" in request.json():
            return Reply.whole(answer.status_code, answer.content)
        for choice in data["choices"]:
            choice.pop("token_ids", None)
            empty = {"text": ""} if "text" in choice else {"message": {"role": "assistant", "content": ""}}
            choice |= {**empty, "logprobs": None, "finish_reason": reason}
        return Reply.json(data)

    return {"base_url": "mock://m/v1", "transport": handle}


@pytest.mark.parametrize("reason", ["stop", "content_filter"])
@pytest.mark.parametrize("name", sorted(IN_PIECES | {"budget_forcing", "deepconf"}))
async def test_what_is_written_in_pieces_comes_with_its_finish_reason_too(name: str, reason: str):
    async with (
        ModelDouble(answer=RIGHT) as double,
        httpx.AsyncClient() as client,
        serving(double, endpoint=bent(double, reason, client)) as served,
    ):
        answer = await served.chat(f"{STRATEGIES[name]}@qwen")
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize(("said", "told"), [(None, "stop"), ("eos_token", "stop"), ("MAX_TOKENS", "length")])
async def test_a_strategys_finish_reasons_are_those_that_clients_know(said: str | None, told: str):
    endpoint = scripted(lambda body: {"message": {"role": "assistant", "content": "42"}, "finish_reason": said})
    async with ModelDouble() as double, serving(double, endpoint=endpoint) as served:
        assert (await served.chat("single@qwen")).json()["choices"][0]["finish_reason"] == told


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", WHOLE)
async def test_whatever_was_paid_for_is_given_with_its_finish_reason(name: str, kind: str):
    fields, reason = ODD[kind]
    message = {"role": "assistant", **fields}
    endpoint = scripted(lambda body: {"message": message, "finish_reason": reason})
    async with ModelDouble() as double, serving(double, endpoint=endpoint) as served, served.openai() as client:
        model = f"{STRATEGIES[name]}@qwen"
        answer = await served.chat(model)
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        assert (choice["message"], choice["finish_reason"]) == (message, reason)
        async with client.chat.completions.stream(model=model, messages=ASK) as stream:
            try:
                streamed = (await stream.get_final_completion()).choices[0]
                assert (streamed.finish_reason, streamed.message.refusal) == (reason, fields.get("refusal"))
            except (openai.ContentFilterFinishReasonError, openai.LengthFinishReasonError):
                assert reason != "stop"
        response = await client.responses.create(model=model, input="x")
        cut = {"content_filter": "content_filter", "length": "max_output_tokens"}.get(reason)
        assert response.status == ("incomplete" if cut else "completed")
        assert cut is None or response.incomplete_details.reason == cut
        (item,) = response.output
        assert item.content[0].type == ("refusal" if "refusal" in fields else "output_text")


async def test_a_strategy_that_abstains_says_so_and_is_an_error_only_where_the_client_wants_it():
    said = ["Answer: 1", "", "Answer: 2"]
    endpoint = {"max_n": 1, "max_concurrency": 1}
    model = "first_pass:k=3,verifier=numeric_answer(reference=42)@qwen"
    for streamed in (False, True):
        words = iter(said * 2)
        async with (
            ModelDouble(answer=lambda request, rng, words=words: next(words)) as double,
            serving(double, endpoint=endpoint) as served,
        ):
            answer = await served.chat(model, stream=streamed)
            assert (answer.status_code, answer.headers["x-tts-abstained"]) == (200, "true")
            assert '"abstained": true' in answer.text
            assert "Answer: 1" in answer.text
            refused = await served.chat(model, stream=streamed, tts={"on_abstain": "error"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (422, "no_answer")
            assert refused.headers["x-should-retry"] == "false"
            assert len(refused.json()["tts"]["candidates"]) == 3


@pytest.mark.parametrize(
    ("tts", "status"),
    [({"deadline": 0.2}, 504), ({"budget": {"completion_tokens": 0}}, 429), ({"budget": {"requests": 0}}, 429)],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_clients_do_not_repeat_what_ran_out_of_time_or_budget(tts: dict[str, Any], status: int, streamed: bool):
    async with ModelDouble(answer=RIGHT, latency=600.0) as double, serving(double) as served:
        client = openai.AsyncOpenAI(base_url=served.base_url, api_key="none", max_retries=2)
        given: Any = {"model": f"self_consistency:n=3,{NUMBERS}", "messages": ASK, "stream": streamed}
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(**given, extra_body={"tts": tts})
        assert caught.value.status_code == status
        assert double.stats.received <= 1
        metrics = (await served.http.get(served.base_url.removesuffix("/v1") + "/metrics")).text
        assert f'tts_requests_total{{name="self_consistency",status="{status}"}} 1.0' in metrics
        await client.close()


@pytest.mark.parametrize("name", WHOLE)
async def test_a_message_in_parts_of_text_is_text_to_every_strategy(name: str):
    parts = [{"type": "text", "text": "[[p]] What is "}, {"type": "text", "text": "6 times 7?"}]
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        answer = await served.chat(f"{STRATEGIES[name]}@qwen", [{"role": "user", "content": parts}])
        assert answer.status_code == 200, answer.text


# -- n -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(STRATEGIES))
async def test_there_are_as_many_answers_as_asked_for(name: str):
    async with ModelDouble(answer=RIGHT) as double, serving(double) as served:
        answer = await served.chat(f"{STRATEGIES[name]}@qwen", n=7, max_tokens=400)
        assert answer.status_code == 200, answer.text
        choices = answer.json()["choices"]
        assert [choice["index"] for choice in choices] == list(range(7))
        assert all(choice["message"]["content"] for choice in choices)


async def test_answers_that_select_passes_over_fill_up_the_number():
    said = iter(["Answer: 1", "none here", "Answer: 2", "nor here", "Answer: 2"])
    async with ModelDouble(answer=lambda request, rng: next(said)) as double, serving(double) as served:
        answer = (await served.chat(f"self_consistency:n=5,{NUMBERS}", n=5)).json()
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert texts == ["Answer: 2", "Answer: 2", "Answer: 1", "none here", "nor here"] or texts[0] == "Answer: 2"
    assert sorted(texts) == sorted(["Answer: 1", "none here", "Answer: 2", "nor here", "Answer: 2"])


async def test_answers_that_the_budget_does_not_allow_are_said_to_be_missing():
    async with ModelDouble(answer=RIGHT) as double, serving(double, endpoint={"max_n": 1}) as served:
        answer = await served.chat("single@qwen", n=5, tts={"budget": {"requests": 2}})
        assert answer.status_code == 200
        assert len(answer.json()["choices"]) == 2
        assert answer.headers["x-tts-missing"] == "3"
        assert answer.json()["tts"]["missing"] == 3
