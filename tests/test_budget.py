"""Budgets are never exceeded, and nothing that was paid for is lost to them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.double import Fault, FaultKind, ModelDouble, Stats, solvable
from tests.support.solving import PROBLEM, check_exact, endpoint, settle
from tts.accounts import Allowance
from tts.base import Verifier
from tts.compute import ModelCard
from tts.errors import BudgetSpent, SamplingFailed
from tts.sampler import Sampler
from tts.session import Session
from tts.solving import solve
from tts.types import Budget, Candidate, Charge, Problem, Sample, Usage, Verdict, sum_usage

CARD = ModelCard(prompt_price_per_million=1e3, completion_price_per_million=2e3)  # 0.001 and 0.002 a token


class Length(Verifier):
    """Longer is better; costs a second each."""

    def check(self, problem: Problem, candidate: Candidate) -> Verdict:
        return Verdict(float(len(candidate.content)), cpu_seconds=1.0)


async def spend(
    budget: Budget, n: int, double: dict[str, Any] | None = None, **options: Any
) -> tuple[list[Sample], bool, Session, ModelDouble]:
    """Sample as many of `n` as the budget allows: samples, whether it was spent, the session, the double."""
    params = {"max_tokens": options.pop("max_tokens", None)}
    samples, spent = [], False
    async with (
        asyncio.timeout(120),
        ModelDouble(**{"tokens": (1, 40), **(double or {})}) as server,
        Sampler(endpoint(server, params=params, **options)) as sampler,
    ):
        session = Session(PROBLEM, {"policy": sampler}, budget=budget)
        try:
            async for sample in session.sample(n=n):
                samples.append(sample)  # noqa: PERF401 - kept when the budget ends them
        except BudgetSpent:
            spent = True
        assert session._calls.allowance._reserved.samples == 0
    return samples, spent, session, server


@settings(max_examples=60, deadline=None)
@given(
    cap=st.integers(0, 600),
    n=st.integers(1, 20),
    max_tokens=st.none() | st.integers(1, 60),
    max_n=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
async def test_completion_tokens_are_never_exceeded(cap, n, max_tokens, max_n, seed):
    samples, spent, session, double = await spend(
        Budget(completion_tokens=cap), n, {"seed": seed}, max_tokens=max_tokens, max_n=max_n
    )
    assert double.stats.completion_tokens <= cap
    assert session.spent.completion_tokens == double.stats.completion_tokens
    assert spent == (len(samples) < n)
    assert [sample.index for sample in sorted(samples, key=lambda s: s.index)] == list(range(len(samples)))
    if spent:  # whatever was left was used
        assert double.stats.completion_tokens == cap
    for seen in double.requests:
        assert seen.body.get("max_tokens") is None or seen.body["max_tokens"] <= (max_tokens or cap)


async def test_the_last_call_is_trimmed_to_what_is_left():
    samples, spent, _, double = await spend(Budget(completion_tokens=25), 5, {"tokens": (50, 50)}, max_tokens=10)
    assert sorted(len(sample.text) for sample in samples) == [5, 10, 10]
    assert sorted(seen.body["max_tokens"] for seen in double.requests) == [5, 10]
    assert spent


async def test_a_trimmed_sample_has_a_number_of_its_own():
    params = {"max_tokens": 10, "seed": 100}
    async with ModelDouble() as double, Sampler(endpoint(double, params=params, max_n=1)) as sampler:
        session = Session(PROBLEM, {"policy": sampler}, budget=Budget(completion_tokens=25))
        with pytest.raises(BudgetSpent):
            async for _ in session.sample(n=5):
                pass
    assert sorted(seen.body["seed"] for seen in double.requests) == [100, 101, 102]


@pytest.mark.parametrize("max_tokens", [None, 50])
@pytest.mark.parametrize("unsupported", [None, FaultKind.N_REJECTED, FaultKind.N_IGNORED])
@pytest.mark.parametrize("cap", [1, 3, 7])
async def test_requests_are_never_exceeded_whether_the_server_takes_n_or_not(cap, unsupported, max_tokens):
    faults = Fault(unsupported) if unsupported else None
    samples, spent, session, double = await spend(Budget(requests=cap), 64, {"faults": faults}, max_tokens=max_tokens)
    assert double.stats.served == session.spent.requests == cap
    assert spent
    assert len(samples) >= cap
    assert unsupported or len(samples) > cap or cap == 1


@pytest.mark.parametrize("max_tokens", [None, 50])
async def test_a_cap_on_requests_does_not_put_samples_one_after_another(max_tokens):
    _, spent, _, double = await spend(Budget(requests=40), 32, {"latency": 0.05}, max_tokens=max_tokens, max_n=1)
    assert not spent
    assert double.stats.peak_running > 16


async def test_a_token_budget_without_max_tokens_fits_a_server_with_a_small_context():
    double = {"max_model_len": 500, "latency": 0.02}
    samples, spent, _, server = await spend(Budget(completion_tokens=100_000), 64, double)
    assert len(samples) == 64
    assert not spent
    assert server.stats.peak_running > 1
    assert all("max_tokens" not in seen.body for seen in server.requests)


async def test_total_tokens_hold_to_the_error_of_the_prompts_estimate():
    samples, spent, session, double = await spend(Budget(total_tokens=2000), 64, max_tokens=40)
    assert spent
    assert len(samples) > 8
    assert session.spent.total_tokens == double.stats.prompt_tokens + double.stats.completion_tokens
    assert session.spent.total_tokens <= 2000 + double.stats.prompt_tokens


async def test_money_is_not_exceeded_by_more_than_the_estimate_of_a_prompt():
    samples, spent, session, double = await spend(Budget(money=2.0), 64, max_tokens=40, card=CARD, max_n=1)
    paid = (double.stats.prompt_tokens + 2 * double.stats.completion_tokens) / 1000
    assert spent
    assert samples
    assert session._calls.allowance._money == pytest.approx(paid)
    assert paid <= 2.0 + double.stats.prompt_tokens / 1000


async def test_money_does_not_run_out_where_the_model_costs_nothing():
    samples, spent, _, _ = await spend(Budget(money=0.01), 16)
    assert len(samples) == 16
    assert not spent


async def test_one_lost_sample_does_not_end_the_others_under_a_budget():
    faults = [Fault(FaultKind.BAD_REQUEST)]
    samples, spent, session, _ = await spend(Budget(requests=64), 16, {"faults": faults}, max_n=1)
    assert len(samples) == 15
    assert not spent
    assert len(session.ledger.failures) == 1
    broken = {"faults": Fault(FaultKind.SERVER_ERROR)}
    with pytest.raises(SamplingFailed):
        await spend(Budget(requests=64), 4, broken, max_n=1, max_attempts=1)


async def test_leaving_early_gives_back_what_was_reserved():
    before = asyncio.all_tasks()
    async with (
        asyncio.timeout(120),
        ModelDouble(latency=lambda body, index: 0.0 if body["seed"] == 0 else 600.0) as double,
        Sampler(endpoint(double, max_n=1, params={"seed": 0, "max_tokens": 200})) as sampler,
    ):
        session = Session(PROBLEM, {"policy": sampler}, budget=Budget(completion_tokens=2000))
        samples = session.sample(n=10)
        await anext(samples)
        await samples.aclose()
        await settle(before, double)
        double.latency = 0.0
        with pytest.raises(BudgetSpent):
            async for _ in session.sample(n=1000):
                pass
    assert double.stats.completion_tokens == 2000


# -- through the driver ------------------------------------------------------------------------------------------------


async def best_of(n: int, budget: Budget, double: dict[str, Any] | None = None, **options: Any) -> tuple[Any, Stats]:
    verifier = options.pop("verifier", Length())
    async with asyncio.timeout(120), ModelDouble(**(double or {})) as server:
        result = await solve(PROBLEM, f"best_of_n:n={n}", endpoint(server, **options), verifier=verifier, budget=budget)
        await server.idle()
    return result, server.stats


@pytest.mark.parametrize(
    "budget", [Budget(requests=1), Budget(completion_tokens=80), Budget(total_tokens=400)], ids=repr
)
async def test_what_a_budget_paid_for_is_verified_and_selected_from(budget):
    result, stats = await best_of(64, budget, {"tokens": (10, 10)}, params={"max_tokens": 10})
    assert result.ended == "budget"
    assert len(result.candidates) == stats.choices > 0
    assert all(candidate.verdict is not None for candidate in result.candidates)
    assert result.selected is not None
    check_exact(result, stats)


async def test_a_spent_budget_of_verification_keeps_the_unverified_candidates():
    result, stats = await best_of(8, Budget(verifier_seconds=3))
    verified = [candidate for candidate in result.candidates if candidate.verdict is not None]
    assert result.ended == "budget"
    assert len(result.candidates) == stats.choices == 8
    assert 3 <= len(verified) < 8
    assert result.selected in verified


async def test_a_cap_on_verification_does_not_put_samples_one_after_another():
    result, stats = await best_of(16, Budget(verifier_seconds=1000), {"latency": 0.05}, max_n=1)
    assert result.ended == "complete"
    assert stats.peak_running > 8


async def test_the_deadline_returns_the_best_so_far():
    latency = lambda body, index: 0.0 if body["seed"] < 4 else 600.0  # noqa: E731
    double = {"latency": latency, "answer": solvable({"p": 1.0})}
    result, stats = await best_of(16, Budget(seconds=1.5), double, params={"seed": 0}, max_n=1)
    assert result.ended == "deadline"
    assert len(result.candidates) == 4
    assert result.selected is not None
    assert stats.cancelled == 12


class Slow(Verifier):
    """Rates the first candidate at once and thinks of the others for ever."""

    async def verify(self, problem: Problem, candidate: Candidate, session: Session) -> Verdict:
        if candidate.spawned != (0,):
            await asyncio.sleep(3600)
        return Verdict(0.5)


async def test_the_deadline_keeps_what_there_was_no_time_to_verify():
    async with ModelDouble() as server:
        result = await solve(PROBLEM, "best_of_n:n=4", endpoint(server), verifier=Slow(), budget=Budget(seconds=1.5))
    assert result.ended == "deadline"
    assert sorted(candidate.verdict is None for candidate in result.candidates) == [False, True, True, True]
    assert result.selected is not None
    assert result.selected.spawned == (0,)
    assert not result.loose


async def test_a_budget_of_nothing_costs_nothing():
    for budget in (Budget(requests=0), Budget(completion_tokens=0), Budget(total_tokens=0), Budget(money=0)):
        result, stats = await best_of(4, budget, card=CARD)
        assert result.ended == "budget"
        assert result.selected is None
        assert stats.received == 0


# -- the arithmetic ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.fixed_dictionaries({}, optional={key: st.integers(0, 500) for key in ("requests", "completion_tokens")}),
    st.lists(st.tuples(st.integers(1, 12), st.none() | st.integers(1, 80), st.integers(0, 100)), max_size=12),
    st.integers(1, 8),
)
async def test_grants_never_add_up_to_more_than_the_budget(caps, orders, per_request):
    allowance = Allowance(Budget(**caps), lambda role, usage: 0.0)
    used = Usage()
    for number, (wanted, maximum, share) in enumerate(orders):
        try:
            grant = await allowance.reserve("policy", wanted, per_request, 10, maximum)
        except BudgetSpent:
            break
        assert 1 <= grant.samples <= wanted
        assert used.requests + grant.requests <= caps.get("requests", 10**9)
        if "completion_tokens" in caps:
            assert grant.tokens is not None
            assert used.completion_tokens + grant.samples * grant.tokens <= caps["completion_tokens"]
        tokens = grant.samples * (grant.tokens or 100) * share // 100
        charge = Charge(str(number), "policy", Usage(requests=grant.requests, completion_tokens=tokens))
        allowance.book(charge)
        used += charge.usage
        allowance.release(grant)


@pytest.mark.parametrize("fault", [None, FaultKind.N_IGNORED, FaultKind.N_REJECTED])
@pytest.mark.parametrize("owner", ["vllm", "somebody"])
@pytest.mark.parametrize("cap", [1, 3, 5, 40])
async def test_a_cap_on_requests_grants_the_first_search_what_it_grants_the_next(fault, owner, cap):
    """Whether a server answers several choices is known to all but the first search that meets it."""
    faults = fault and (lambda number, body: Fault(fault) if body.get("n", 1) > 1 else None)
    async with (
        asyncio.timeout(120),
        ModelDouble(owned_by=owner, faults=faults, answer=lambda *_: "42") as double,
        Sampler(endpoint(double, max_n=4)) as sampler,
    ):
        told = []
        for _ in range(3):
            before = double.stats.received
            result = await solve(PROBLEM, "best_of_n:n=13", sampler, verifier=Length(), budget=Budget(requests=cap))
            needed = sum_usage(result.needed.values())
            told.append((len(result.candidates), needed.requests, needed.prompt_tokens, result.ended))
            refused = sum_usage(result.wasted.values()).requests
            assert double.stats.received - before - refused <= cap
    several = fault is None
    assert told == [told[0]] * 3
    assert told[0][:2] == (min(13, cap * 4 if several else cap), min(cap, 4 if several else 13))
