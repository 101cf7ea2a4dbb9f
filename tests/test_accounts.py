"""The books: every request and token of every strategy, over every kind of server."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tests.support.solving import PROBLEM, RIGHT, STRATEGIES, account, check_account, check_exact, endpoint
from tts.accounts import Ledger
from tts.sampler import Sampler
from tts.sampler.scoring import score
from tts.solving import solve
from tts.types import Charge, Usage, by_role, total

LOSSY = (FaultKind.SERVER_ERROR, FaultKind.TRUNCATED, FaultKind.RESET)
SERVERS: dict[str, dict[str, Any]] = {
    "sound": {},
    "n refused": {"faults": lambda number, body: Fault(FaultKind.N_REJECTED)},
    "n ignored": {"faults": lambda number, body: Fault(FaultKind.N_IGNORED)},
    "fewer choices": {"faults": {Fault(FaultKind.FEWER_CHOICES): 0.5}},
    "failing": {"faults": {Fault(kind): 0.1 for kind in LOSSY}},
    "not vLLM": {"owned_by": "somebody"},
}


@pytest.mark.parametrize("settings", [{}, {"max_n": 1}, {"stream": True}, {"max_n": 3, "hedge_after": 5.0}], ids=str)
@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_result_accounts_for_every_request_and_token(strategy, server, settings):
    async with ModelDouble(answer=solvable({"p": 0.2}), **server) as double:
        async with asyncio.timeout(120):
            result = await solve(PROBLEM, strategy, endpoint(double, **settings), stop_early=False)
        await double.idle()
    assert result.ended == "complete"
    assert result.selected is not None
    check_account(result, double.stats)
    if not (settings.get("stream") and server is SERVERS["failing"]):  # choices of a stream that broke count too
        check_exact(result, double.stats)
    spent, _ = account(result)
    everything = total(charge for candidate in result.candidates for charge in candidate.charges)
    assert everything.completion_tokens == spent.completion_tokens
    assert everything.requests == spent.requests
    assert result.usage.requests == double.stats.received


def test_usage_adds_field_by_field_and_the_same_payment_counts_once():
    one = Usage(requests=1, prompt_tokens=5, completion_tokens=2, seconds=0.5)
    other = Usage(requests=1, completion_tokens=3, reasoning_tokens=1)
    assert one + other == Usage(2, 5, 0, 5, 1, 0, 0.5)
    assert (one + other).total_tokens == 10
    assert (one + Usage()).as_dict() == {"requests": 1, "prompt_tokens": 5, "completion_tokens": 2, "seconds": 0.5}
    a, again, b = Charge("a", "policy", one), Charge("a", "policy", one), Charge("b", "judge", other)
    assert total([a, again, b]) == one + other
    assert by_role([b, a, again]) == {"judge": other, "policy": one}
    assert total([]) == Usage()


def test_a_payment_is_booked_once_and_what_is_paid_for_here_is_not_booked_as_reused():
    paid, found = Charge("a", "policy", Usage(requests=1)), Charge("b", "policy", Usage(completion_tokens=3))
    ledger, told = Ledger(), list[Charge]()
    ledger.watchers.append(told.append)
    for _ in range(2):
        ledger.paid.add(paid)
        ledger.need(paid, reused=True)
        ledger.need(found, reused=True)
    assert (ledger.paid, ledger.reused, ledger.needed) == ({paid}, {found}, {paid, found})
    assert told == [paid, found]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_is_cancelled_has_cost_its_prompt(stream: bool):
    slow = lambda body, index: 0.0 if body["seed"] < 1 else 600.0  # noqa: E731
    async with asyncio.timeout(120), ModelDouble(latency=slow, answer=lambda *_: "Answer: 42") as double:
        known = endpoint(double, params={"seed": 0}, max_n=1, stream=stream)
        result = await solve(PROBLEM, f"best_of_n:n=6,verifier={RIGHT}", known)
        await double.idle()
    spent, wasted = account(result)
    assert result.ended == "settled"
    assert wasted.requests == double.stats.cancelled > 0
    assert wasted.prompt_tokens == double.stats.wasted_prompt_tokens > 0
    assert (spent + wasted).prompt_tokens == double.stats.prompt_tokens + double.stats.wasted_prompt_tokens
    assert wasted.estimated_tokens == 0  # the answered requests have told how long the prompt is


@pytest.mark.parametrize(("prompt", "estimated"), [([65, 66, 67, 68], False), ("words", True)])
async def test_the_prompt_of_a_cancelled_request_is_exact_in_token_ids_and_else_marked_as_estimated(prompt, estimated):
    async with asyncio.timeout(120), ModelDouble(latency=600.0) as double, Sampler(endpoint(double)) as sampler:
        ledger = Ledger()
        for work in (
            draw_of(sampler, prompt, ledger),
            score(sampler, prompt, prompt, ledger=ledger, role="policy"),
        ):
            task, before = asyncio.create_task(work), double.stats.received
            while not double.stats.received > before or not double.stats.running:
                await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await double.idle()
    wasted = ledger.wasted["policy"]
    assert wasted.requests == double.stats.cancelled == 2
    assert (wasted.estimated_tokens > 0) == estimated
    assert estimated or wasted.prompt_tokens == double.stats.wasted_prompt_tokens == 4 + 8


async def draw_of(sampler: Sampler, prompt: Any, ledger: Ledger) -> None:
    async for _ in sampler.sample(prompt, ledger=ledger):
        pass


@pytest.mark.parametrize("seconds", [0.0, 600.0], ids=["at once", "never"])
async def test_searches_of_two_models_that_are_settled_early_are_billed_as_the_server_counts(seconds: float):
    """Drafts and scores that were still on their way are waste, with their prompts."""
    calls = itertools.count()

    def latency(body: dict[str, Any], index: int) -> float:
        return seconds if body["max_tokens"] == 1 and next(calls) > 1 else 0.0

    spec = f"atts_best:n=3,draft_tokens=30,target_tokens=30,rounds=3,rejection_rate=0,verifier={RIGHT}"
    async with asyncio.timeout(120), ModelDouble(latency=latency, answer=lambda *_: "Answer: 42") as double:
        models = {role: endpoint(double) for role in ("draft", "target")}
        result = await solve(PROBLEM, spec, models)
        await double.idle()
    total = sum(account(result), Usage())
    assert result.ended == "settled"
    assert total.requests == double.stats.received
    assert total.prompt_tokens == double.stats.prompt_tokens + double.stats.wasted_prompt_tokens
    assert total.estimated_tokens == 0
    assert not seconds or double.stats.cancelled
