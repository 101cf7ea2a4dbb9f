"""What the sampler asks for, what it hands over, and that its books agree with the server's."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from pydantic import ValidationError

from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tests.support.solving import PROMPT, check_account, check_exact, draw, endpoint
from tts.accounts import Ledger
from tts.errors import ConfigError, EndpointRefused, TransientError
from tts.sampler import Endpoint, Sampler
from tts.sampler.mock import MockModel
from tts.sampler.probe import list_models
from tts.types import total

UNSUPPORTED = {
    "n is refused": lambda number, body: Fault(FaultKind.N_REJECTED),
    "one choice whatever n is": lambda number, body: Fault(FaultKind.N_IGNORED),
}


def sizes(double: ModelDouble) -> list[int]:
    return sorted(seen.body.get("n", 1) for seen in double.requests)


@pytest.mark.parametrize("owner", ["vllm", "somebody"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("n", "max_n", "requests"), [(1, 8, [1]), (20, 8, [4, 8, 8]), (5, 1, [1] * 5), (3, 3, [3])])
async def test_samples_go_out_in_chunks_and_are_booked_to_the_token(n, max_n, requests, stream, owner):
    ledger = Ledger()
    async with ModelDouble(owned_by=owner) as double, Sampler(endpoint(double, max_n=max_n, stream=stream)) as sampler:
        samples = await draw(sampler, n, ledger)
    assert sorted(sample.index for sample in samples) == list(range(n))
    assert sizes(double) == requests
    check_exact(ledger, double.stats)
    assert not ledger.wasted
    assert total(charge for sample in samples for charge in sample.charges) == total(ledger.paid)


@pytest.mark.parametrize("stream", [False, True])
async def test_every_choice_is_charged_its_own_tokens_where_the_server_tells(stream):
    async with ModelDouble(tokens=(5, 60)) as double, Sampler(endpoint(double, stream=stream)) as sampler:
        samples = await draw(sampler, 8)
    assert len({sample.text for sample in samples}) == 8
    for sample in samples:
        assert sample.charges[-1].usage.completion_tokens == len(sample.text.encode())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("faults", UNSUPPORTED.values(), ids=UNSUPPORTED)
async def test_a_server_without_n_is_asked_one_by_one_and_this_is_said_once(faults, stream, caplog):
    ledger = Ledger()
    async with ModelDouble(faults=faults) as double, Sampler(endpoint(double, stream=stream)) as sampler:
        with caplog.at_level(logging.WARNING, logger="tts"):
            samples = await draw(sampler, 24, ledger)
            more = await draw(sampler, 8, ledger)
    assert len(samples) == 24
    assert len(more) == 8
    check_exact(ledger, double.stats)
    assert sampler.takes_n is False
    assert len(sampler.notices) == len(caplog.records) == 1
    assert sizes(double)[-5:] == [1, 2, 8, 8, 8]  # the first chunks were under way together; 2: one of its own to learn


async def test_choices_left_out_of_an_answer_are_asked_for_again():
    ledger = Ledger()
    async with (
        ModelDouble(faults=[None, Fault(FaultKind.FEWER_CHOICES)]) as double,
        Sampler(endpoint(double)) as sampler,
    ):
        await draw(sampler, 8, ledger)
        samples = await draw(sampler, 8, ledger)
    assert sorted(sample.index for sample in samples) == list(range(8))
    assert sizes(double) == [4, 8, 8]
    check_exact(ledger, double.stats)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_choices_is_repeated_and_booked_as_wasted(stream):
    ledger = Ledger()
    async with (
        ModelDouble(faults=[Fault(FaultKind.EMPTY_CHOICES)]) as double,
        Sampler(endpoint(double, stream=stream)) as sampler,
    ):
        assert len(await draw(sampler, 4, ledger)) == 4
    check_account(ledger, double.stats)
    assert ledger.wasted["policy"].requests == 1
    assert ledger.wasted["policy"].prompt_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_missing_usage_is_estimated_and_marked(stream):
    ledger = Ledger()
    async with (
        ModelDouble(owned_by="somebody", faults=Fault(FaultKind.MISSING_USAGE)) as double,
        Sampler(endpoint(double, stream=stream)) as sampler,
    ):
        await draw(sampler, 12, ledger)
    spent = total(ledger.paid)
    assert spent.requests == double.stats.received == 2
    assert spent.estimated_tokens == spent.total_tokens > 0
    assert 0.1 < spent.completion_tokens / double.stats.completion_tokens < 1


@pytest.mark.parametrize("stream", [False, True])
async def test_the_share_of_the_prompt_read_from_the_cache_is_kept(stream):
    ledger = Ledger()
    async with ModelDouble(prefix_cache=True) as double, Sampler(endpoint(double, stream=stream)) as sampler:
        await draw(sampler, 1, ledger)
        await draw(sampler, 4, ledger)
    assert total(ledger.paid).cached_tokens == double.stats.cached_tokens > 0


async def test_samples_come_as_they_complete_and_not_in_order():
    async with (
        ModelDouble(latency=lambda body, index: 0.3 if body["seed"] == 0 else 0.0) as double,
        Sampler(endpoint(double, max_n=1)) as sampler,
    ):
        samples = await draw(sampler, 4, seed=0)
    assert samples[-1].index == 0
    assert sorted(sample.index for sample in samples) == [0, 1, 2, 3]


@pytest.mark.parametrize("max_n", [1, 3, 8])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_seed_fixes_every_sample_however_the_work_is_split(max_n, stream):
    async def texts(**settings):
        faults = {Fault(FaultKind.FEWER_CHOICES): 0.3, Fault(FaultKind.TRUNCATED): 0.1}
        async with (
            ModelDouble(answer=solvable({"p": 0.5}), faults=faults) as double,
            Sampler(endpoint(double, **settings)) as sampler,
        ):
            return {sample.index: sample.text for sample in await draw(sampler, 12, seed=7)}

    assert await texts(max_n=max_n, stream=stream) == await texts(max_n=12)


async def test_occurrences_that_are_not_consecutive_share_a_request_unless_seeded():
    async with (
        ModelDouble() as double,
        Sampler(endpoint(double)) as sampler,
        asyncio.timeout(120),
    ):
        samples = [sample async for sample in sampler.sample(PROMPT, [1, 3, 4, 9])]
        assert sorted(sample.index for sample in samples) == [1, 3, 4, 9]
        assert sizes(double) == [4]
        samples = [sample async for sample in sampler.sample(PROMPT, [1, 3, 4, 9], seed=100)]
    assert sorted(sample.index for sample in samples) == [1, 3, 4, 9]
    assert [seen.body["seed"] for seen in double.requests if "seed" in seen.body] == [101, 103, 109]


async def test_extra_parameters_reach_the_server_as_they_are_and_none_is_left_out():
    ours = {"top_k": 20, "min_p": 0.05, "guided_json": {"type": "object"}, "temperature": 0.7}
    more = {"chat_template_kwargs": {"enable_thinking": False}, "response_format": {"type": "json_object"}}
    async with (
        ModelDouble() as double,
        Sampler(endpoint(double, params=ours, headers={"X-Team": "blue"})) as sampler,
    ):
        await draw(sampler, 2, stop=None, temperature=0.2, **more)
    (seen,) = double.requests
    sent = {key: value for key, value in seen.body.items() if key not in ("messages", "model", "n", "return_token_ids")}
    assert sent == ours | more | {"temperature": 0.2}
    assert seen.headers["x-team"] == "blue"


@pytest.mark.parametrize("way", ["field", "environment", "file"])
async def test_the_key_is_sent_and_never_shown(way, monkeypatch, tmp_path: Path, caplog):
    secret = "sk-topsecret-123"
    (tmp_path / "key").write_text(secret + "\n")
    monkeypatch.setenv("SOME_KEY", secret + "\n")
    given = {
        "field": {"api_key": secret},
        "environment": {"api_key_env": "SOME_KEY"},
        "file": {"api_key_file": tmp_path / "key"},
    }[way]
    ledger = Ledger()
    async with ModelDouble(api_key=secret) as double:
        target = endpoint(double, headers={"api-key": secret}, **given)
        async with Sampler(target) as sampler:
            with caplog.at_level(logging.DEBUG):
                assert len(await draw(sampler, 1, ledger)) == 1
    shown = f"{target!r} {target} {target.model_dump()} {target.model_dump_json()} {ledger!r} {caplog.text}"
    assert secret not in shown


async def test_a_key_that_the_server_repeats_in_its_complaint_is_not_repeated_by_us():
    def leak(body, rng):
        raise LookupError("invalid key sk-wrong-1")

    async with ModelDouble(answer=leak) as double, Sampler(endpoint(double, api_key="sk-wrong-1")) as sampler:
        ledger = Ledger()
        with pytest.raises(Exception, match=r"invalid key \[API key\]") as caught:
            await draw(sampler, 1, ledger)
    assert "sk-wrong-1" not in str(vars(caught.value)) + str(vars(caught.value.__cause__)) + repr(ledger.failures)


async def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path):
    target = Endpoint(model="m", base_url="http://localhost:1/v1", api_key_file=tmp_path / "nowhere")
    async with Sampler(target) as sampler:
        with pytest.raises(ConfigError, match="nowhere"):
            await draw(sampler)


@pytest.mark.parametrize(
    "given",
    [{"api_key": "wrong"}, {"api_key_env": "SOME_KEY"}, {"api_key_file": "wrong_key"}],
    ids=lambda given: next(iter(given)),
)
async def test_a_wrong_key_is_refused_before_anything_is_spent(
    given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOME_KEY", "wrong")
    (tmp_path / "wrong_key").write_text("wrong")
    place = "api_key" if "api_key" in given else next(iter(given.values()))
    async with ModelDouble(api_key="right") as double, Sampler(endpoint(double, **given)) as sampler:
        with pytest.raises(EndpointRefused, match=rf"Check the API key \({place}\)"):
            await sampler.check()
    assert double.stats.received == 0


async def test_a_server_that_is_not_there_is_refused_by_the_check():
    async with ModelDouble() as double:
        target = endpoint(double)
    async with Sampler(target) as sampler:
        with pytest.raises(EndpointRefused, match="Is the server running"):
            await sampler.check()


@pytest.mark.parametrize("cards", [None, 7, "abc", [None], [7], ["abc"], [[1]], {"a": 1}])
async def test_a_list_of_models_that_is_none_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch, cards: Any):
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        monkeypatch.setattr(sampler, "models", AsyncMock(return_value={"data": cards}))
        with pytest.raises(TransientError, match="not a list of models"):
            await list_models(sampler)


async def test_a_server_that_speaks_no_tls_is_told_in_words_of_tls():
    async with ModelDouble() as double:
        target = Endpoint(model="m", base_url=double.base_url.replace("http:", "https:"))
        async with Sampler(target) as sampler:
            with pytest.raises(EndpointRefused, match="SSL"):
                await sampler.check()


async def test_a_server_that_says_nothing_is_waited_for_in_the_open(caplog: pytest.LogCaptureFixture):
    kept: list[Any] = []  # what nobody keeps is closed
    silent = await asyncio.start_server(lambda *connection: kept.append(connection), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/v1"
    async with silent, Sampler(Endpoint(model="m", base_url=url, connect_timeout=0.5)) as sampler:
        with pytest.raises(EndpointRefused, match="no answer"):
            await sampler.check()
    assert f"{url} has not answered yet" in caplog.text


async def test_a_mock_model_goes_through_the_same_sampler():
    ledger = Ledger()
    async with Sampler(MockModel(lambda request: f"Answer: {request['temperature']}")) as sampler:
        samples = await draw(sampler, 10, ledger, temperature=0.5)
    assert [sample.text for sample in samples] == ["Answer: 0.5"] * 10
    assert total(ledger.paid).requests == 2
    assert total(ledger.paid).estimated_tokens == 0


def test_the_sampler_loads_nothing_of_the_lab_before_one_of_its_models_is_named():
    script = (
        "import sys, tts.sampler.mock, tts.sampler.probe; lab = lambda: [m for m in sys.modules if '.lab' in m];"
        "tts.sampler.Endpoint(model='m', base_url='http://a/v1'); assert not lab(), lab();"
        "tts.sampler.Endpoint(model='m', base_url='embedded://lab-target'); assert lab()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_endpoint_needs_a_usable_url(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ValidationError, match="set OPENAI_BASE_URL"):
        Endpoint(model="m")
    with pytest.raises(ValidationError, match="write for example http"):
        Endpoint(model="m", base_url="localhost:8000/v1")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="hedge_after"):
        Endpoint(model="m", base_url="http://a/v1", stream=True, hedge_after=1)
    assert Endpoint(model="m", base_url="http://a/v1/, http://b/v1").urls == ("http://a/v1", "http://b/v1")
