"""Streamed answers: choices count as each completes, cancellation reaches the server, and its cost is known."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.solving import PROMPT, account, check_account, check_exact, draw, endpoint, settle
from tts.accounts import Ledger
from tts.sampler import Sampler
from tts.sampler.protocol import Assembly
from tts.types import Usage


def staggered(body: dict[str, Any], index: int) -> float:
    """The first choice is there at once, the others never are."""
    return 0.0 if index == 0 else 600.0


async def first_of(sampler: Sampler, n: int, ledger: Ledger) -> str:
    async with asyncio.timeout(120):
        samples = sampler.sample(PROMPT, n, ledger=ledger)
        async for sample in samples:
            await samples.aclose()
            return sample.text
    raise AssertionError("no sample came")


async def test_a_choice_counts_before_the_others_of_its_request_are_complete():
    ledger, before = Ledger(), asyncio.all_tasks()
    async with ModelDouble(latency=staggered) as double, Sampler(endpoint(double, stream=True)) as sampler:
        text = await first_of(sampler, 8, ledger)
        await settle(before, double)
        spent, wasted = account(ledger)
    assert double.stats.received == double.stats.cancelled == 1
    assert spent.requests == 1
    assert wasted.requests == 0  # the one request is paid for; only choices of it were wasted
    assert spent.completion_tokens == len(text.encode())
    assert spent.prompt_tokens == double.stats.wasted_prompt_tokens
    assert wasted.prompt_tokens == 0
    assert 0 <= wasted.completion_tokens <= double.stats.wasted_completion_tokens


async def test_a_cancelled_stream_knows_the_tokens_that_it_read():
    ledger, before = Ledger(), asyncio.all_tasks()
    async with (
        ModelDouble(latency=60.0, tokens=(6000, 6000), tokens_per_chunk=1) as double,
        Sampler(endpoint(double, stream=True)) as sampler,
    ):
        drawing = asyncio.create_task(draw(sampler, 1, ledger))
        while not double.stats.running:
            await asyncio.sleep(0.01)
        for _ in range(20):  # in which both sides have their turns
            await asyncio.sleep(0.02)
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        await settle(before, double)
    spent, wasted = account(ledger)
    assert spent == Usage()
    assert wasted.requests == double.stats.cancelled == 1
    assert 0 < wasted.completion_tokens <= double.stats.wasted_completion_tokens < 6000
    assert wasted.prompt_tokens == double.stats.wasted_prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_n", [1, 8])
async def test_leaving_early_aborts_every_request_at_the_server(max_n, stream):
    ledger, before = Ledger(), asyncio.all_tasks()
    quick_first = lambda body, index: 0.0 if body["seed"] == 0 else 600.0  # noqa: E731
    async with (
        ModelDouble(latency=quick_first) as double,
        Sampler(endpoint(double, max_n=max_n, stream=stream, params={"seed": 0})) as sampler,
    ):
        await first_of(sampler, 64, ledger)
        left = asyncio.get_running_loop().time()
        await settle(before, double)
        assert sampler.connection.pool.replicas[0].in_flight == sampler.connection.pool.waiting == 0
        assert all(at - left < 300 for at in double.cancel_times)  # long before they would have ended
    assert double.stats.cancelled == double.stats.received - 1 > 0
    spent, wasted = account(ledger)
    assert spent.requests == 1
    assert double.stats.received - 1 <= wasted.requests == 64 // max_n - 1  # some were perhaps left on the way there


async def test_choices_received_before_a_stream_broke_are_not_asked_for_again():
    def cut_late(number: int, body: dict[str, Any]) -> Fault | None:
        return Fault(FaultKind.STREAM_CUT) if number == 0 else None

    ledger = Ledger()
    lengths = lambda body, rng: 8 * int(rng.integers(1, 40))  # noqa: E731
    latency = lambda body, index: 0.01 * index  # noqa: E731
    async with (
        ModelDouble(faults=cut_late, tokens=lengths, latency=latency) as double,
        Sampler(endpoint(double, stream=True)) as sampler,
    ):
        samples = await draw(sampler, 8, ledger)
    assert sorted(sample.index for sample in samples) == list(range(8))
    first, again = (seen.body.get("n", 1) for seen in double.requests)
    assert first == 8
    assert again < 8
    spent, wasted = account(ledger)
    assert spent.requests + wasted.requests == double.stats.received == 2
    assert spent.completion_tokens == sum(len(sample.text.encode()) for sample in samples)
    check_account(ledger, double.stats)


@pytest.mark.parametrize("owner", ["vllm", "somebody"])
async def test_a_plain_text_completion_streams_too(owner):
    ledger = Ledger()
    async with (
        ModelDouble(owned_by=owner) as double,
        Sampler(endpoint(double, stream=True)) as sampler,
        asyncio.timeout(120),
    ):
        samples = [s async for s in sampler.sample("[[p]] 6 * 7 =", 3, ledger=ledger, max_tokens=9)]
    assert [len(sample.text) for sample in samples] == [9] * 3
    assert {sample.finish_reason for sample in samples} == {"length"}
    check_exact(ledger, double.stats)


async def test_log_probabilities_and_token_ids_are_the_same_streamed_or_not():
    async def one(stream: bool) -> tuple[Any, ...]:
        async with ModelDouble() as double, Sampler(endpoint(double, stream=stream)) as sampler:
            (sample,) = await draw(sampler, 1, seed=1, logprobs=True, return_token_ids=True)
        return sample.text, sample.token_ids, sample.logprobs

    whole, streamed = await one(False), await one(True)
    assert whole == streamed
    text, token_ids, logprobs = whole
    assert bytes(token_ids).decode() == text
    assert len(logprobs) == len(token_ids)


async def test_token_ids_that_were_asked_for_only_to_count_are_not_kept():
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        samples = await draw(sampler, 4)
    assert double.requests[0].body["return_token_ids"] is True
    assert all(sample.token_ids is None for sample in samples)


def test_tool_calls_and_reasoning_are_put_together_from_their_pieces():
    assembly = Assembly()

    def delta(**fields: Any) -> None:
        assembly.add({"model": "m", "choices": [{"index": 0, "delta": fields}]})

    delta(reasoning_content="Let me ")
    delta(reasoning="look.")
    delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "find", "arguments": '{"q":'}}])
    delta(tool_calls=[{"index": 1, "id": "b", "function": {"name": "stop", "arguments": "{}"}}])
    delta(tool_calls=[{"index": 0, "function": {"arguments": ' "x"}'}}])
    (done,) = assembly.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    assert done.reasoning == "Let me look."
    assert [call["function"] for call in done.tool_calls] == [
        {"name": "find", "arguments": '{"q": "x"}'},
        {"name": "stop", "arguments": "{}"},
    ]
    assert [call["id"] for call in done.tool_calls] == ["a", "b"]
