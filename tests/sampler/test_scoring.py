"""Log-probabilities of given text, checked against the double's own table."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.solving import PROBLEM, check_account, endpoint
from tests.support.wire import bigram_logprobs
from tts.accounts import Ledger
from tts.errors import BudgetSpent, ConfigError, RequestRejected
from tts.runs.store import Store
from tts.sampler import Endpoint, Sampler
from tts.sampler.scoring import score, tokenize
from tts.sampler.transport import Reply, Request
from tts.session import Session
from tts.types import Budget, total


def merging_server() -> Sampler:
    """A server with echo whose tokens are words and spaces; the i-th token of a prompt has log-probability -i - 1."""

    async def answer(request: Request) -> Reply:
        body = json.loads(request.content or "{}")
        tokens = re.findall(r"\w+|\W", body.get("prompt", ""))
        logprobs: list[float | None] = [-i - 1.0 for i in range(len(tokens) + 1)]
        choice = {"text": "", "logprobs": {"tokens": [*tokens, "!"], "token_logprobs": [None, *logprobs[1:]]}}
        usage = {"prompt_tokens": len(tokens), "completion_tokens": 1}
        return Reply.json({"data": [], "choices": [choice], "usage": usage})

    return Sampler(Endpoint(model="words", base_url="mock://words", transport=answer))


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


async def test_a_server_with_echo_scores_the_same():
    scores = []
    for owner in ("vllm", "somebody"):
        for prompt, tail in ((list(b"one plus one is "), list(b"two")), ("one plus one is ", "two")):
            ledger = Ledger()
            async with ModelDouble(owned_by=owner) as double, Sampler(endpoint(double)) as sampler:
                scores.append(await score(sampler, prompt, tail, ledger=ledger))
            check_account(ledger, double.stats)
    assert len({one.logprobs for one in scores}) == 1
    assert [one.token_ids for one in scores] == [tuple(b"two")] * 3 + [()]


async def test_text_is_tokenized_as_a_whole_and_a_token_across_the_boundary_is_left_out():
    async with merging_server() as sampler:
        across = await score(sampler, "a th", "e end")  # as a whole: "a", " ", "the", " ", "end"
        clean = await score(sampler, "a ", "the end")
    assert across.logprobs == (-4.0, -5.0)
    assert clean.logprobs == (-3.0, -4.0, -5.0)


async def test_a_server_without_log_probabilities_of_a_prompt_is_an_error_and_never_a_number():
    ledger = Ledger()
    async with ModelDouble(owned_by="somebody", echo=False) as double, Sampler(endpoint(double)) as sampler:
        with pytest.raises(ConfigError, match="cannot tokenize"):
            await score(sampler, PROBLEM.messages, "two", ledger=ledger)
        for prompt, tail in (([1, 2], [3]), ("one", "two")):
            with pytest.raises(ConfigError, match="no prompt log-probabilities"):
                await score(sampler, prompt, tail, ledger=ledger)
    check_account(ledger, double.stats)
    async with merging_server() as sampler:  # it says 200 to everything
        with pytest.raises(ConfigError, match="/tokenize answers without 'tokens'"):
            await tokenize(sampler, "two")


async def test_a_request_that_is_too_long_to_be_scored_is_no_fault_of_the_configuration():
    async with ModelDouble(max_model_len=10) as double, Sampler(endpoint(double)) as sampler:
        with pytest.raises(RequestRejected, match="maximum context length"):
            await score(sampler, "one plus one is ", "two")


async def test_scores_are_stored_like_samples(tmp_path: Path):
    async with (
        ModelDouble() as double,
        Sampler(endpoint(double)) as sampler,
        Store(tmp_path / "run.sqlite") as store,
    ):
        first, again = (Session(PROBLEM, {"target": sampler}, store=store) for _ in range(2))
        assert await first.score("one", "two") == await again.score("one", "two")
        assert double.stats.received == 1
        assert again.spent == first.spent == total(again.ledger.reused)
        assert (await again.score("one", "three")).token_ids == tuple(b"three")
        assert double.stats.received == 2


async def test_what_a_session_remembers_is_told_to_the_next_run_of_the_same_search(tmp_path: Path):
    async with Store(tmp_path / "run.sqlite") as store:
        sessions = [Session(PROBLEM, {}, store=store, stream=name) for name in ("one", "one", "other")]
        told = [await session.remember(["a choice", 1], value) for session, value in zip(sessions, "abc", strict=True)]
    assert told == ["a", "a", "c"]


async def test_no_more_requests_score_at_once_than_the_endpoint_says():
    async with ModelDouble(latency=0.005) as double, Sampler(endpoint(double, max_scoring=3)) as sampler:
        await asyncio.gather(*(score(sampler, "one", str(i)) for i in range(12)))
    assert double.stats.peak_running == 3


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
