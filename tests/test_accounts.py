"""The books: every request and token of every strategy, over every kind of server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble, solvable
from tests.support.solving import PROBLEM, STRATEGIES, account, check_account, check_exact, endpoint
from tts.accounts import Ledger
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
        async with asyncio.timeout(30):
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
        ledger.pay(paid)
        ledger.need(paid, reused=True)
        ledger.need(found, reused=True)
    assert (ledger.paid, ledger.reused, ledger.needed) == ({paid}, {found}, {paid, found})
    assert told == [paid, found]
