"""Log-probabilities of given text, checked against the double's own table."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.solving import PROBLEM, check_account, endpoint
from tests.support.wire import bigram_logprobs
from tts.errors import BudgetSpent, ConfigError
from tts.ledger import Ledger
from tts.sampler import Sampler
from tts.sampler.scoring import score, tokenize
from tts.session import Session
from tts.types import Budget, total


async def test_scores_are_the_models_own_log_probabilities_of_every_token():
    ledger = Ledger()
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        scores = await score(sampler, "one plus one is ", "two", ledger=ledger)
    table = bigram_logprobs("test-model")
    assert scores.token_ids == tuple(b"two")
    assert scores.logprobs == pytest.approx([table[b" "[0], b"t"[0]], table[b"t"[0], b"w"[0]], table[b"w"[0], b"o"[0]]])
    assert scores.mean == pytest.approx(sum(scores.logprobs) / 3)
    check_account(ledger, double.stats)
    assert total(ledger.paid) == total(scores.charges)


async def test_a_chat_prompt_is_rendered_by_the_servers_template():
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        tokens = await tokenize(sampler, PROBLEM.messages)
        scores = await score(sampler, PROBLEM.messages, [65, 66])
    assert bytes(tokens).decode().endswith("<|assistant|>\n")
    assert double.requests[-1].body["prompt"] == [*tokens, 65, 66]
    assert scores.token_ids == (65, 66)


@pytest.mark.parametrize("kind", [FaultKind.SERVER_ERROR, FaultKind.TRUNCATED, FaultKind.DROPPED])
async def test_scoring_is_repeated_when_it_fails(kind):
    ledger = Ledger()
    async with ModelDouble(faults=[Fault(kind)]) as double, Sampler(endpoint(double)) as sampler:
        scores = await score(sampler, "one", "two", ledger=ledger)
    assert len(scores.logprobs) == 3
    assert ledger.wasted["target"].requests == 1
    check_account(ledger, double.stats)


async def test_a_server_without_prompt_log_probabilities_is_an_error_and_never_a_number():
    ledger = Ledger()
    async with ModelDouble(owned_by="somebody") as double, Sampler(endpoint(double)) as sampler:
        with pytest.raises(ConfigError, match="cannot tokenize"):
            await score(sampler, "one", "two", ledger=ledger)
        with pytest.raises(ConfigError, match="no prompt log-probabilities"):
            await score(sampler, [1, 2], [3], ledger=ledger)
    check_account(ledger, double.stats)


async def test_scoring_needs_something_to_score():
    async with ModelDouble() as double, Sampler(endpoint(double)) as sampler:
        with pytest.raises(ConfigError, match="at least one token"):
            await score(sampler, "one", "")
    assert double.stats.received == 0


async def test_a_session_never_scores_beyond_its_budget_of_requests():
    async with ModelDouble(latency=0.01) as double, Sampler(endpoint(double)) as sampler:
        session = Session(PROBLEM, {"target": sampler}, budget=Budget(requests=3))
        done = await asyncio.gather(*(session.score("one", "two") for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(outcome, BudgetSpent) for outcome in done) == 5
    assert double.stats.received == 3
    assert session.spent.requests == 3
