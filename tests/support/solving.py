"""Sampling from a double, and the checks that every account must pass."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeVar

from tests.support.double import ModelDouble, Stats
from tts.accounts import Ledger
from tts.sampler import Endpoint, Sampler
from tts.types import Problem, Result, Sample, Usage, by_role, sum_usage

T = TypeVar("T")

PROBLEM = Problem.from_prompt("[[p]] What is 6 times 7?", id="p", answer="numeric_answer")
PROMPT = PROBLEM.messages

RIGHT = "numeric_answer(reference=42)"
STRATEGIES = [
    "single",
    f"best_of_n:n=20,verifier={RIGHT}",
    "self_consistency:n=20",
    f"self_consistency:n=20,weighted=true,verifier={RIGHT}",
    f"first_pass:k=20,batch=6,abstain=false,verifier={RIGHT}",
]


def endpoint(*doubles: ModelDouble, **settings: Any) -> Endpoint:
    """An endpoint with the doubles as its replicas, impatient so that retries cost a test no time."""
    defaults = {"model": "test-model", "retry_wait": 0.005, "api_key_env": "NO_KEY_IN_TESTS"}
    return Endpoint(base_url=",".join(double.base_url for double in doubles), **defaults | settings)


async def draw(sampler: Sampler, n: int = 1, ledger: Ledger | None = None, **params: Any) -> list[Sample]:
    """`n` samples of the problem's prompt; a test that hangs fails after two minutes."""
    async with asyncio.timeout(120):
        return [sample async for sample in sampler.sample(PROMPT, n, ledger=ledger, **params)]


async def everything(source: AsyncGenerator[T, None]) -> list[T]:
    """All items of `source`; a test that hangs fails after two minutes."""
    async with asyncio.timeout(120):
        return [item async for item in source]


def account(source: Ledger | Result) -> tuple[Usage, Usage]:
    """All that was paid for, and all that was wasted."""
    paid: Mapping[str, Usage] = by_role(source.paid) if isinstance(source, Ledger) else source.spent
    return sum_usage(paid.values()), sum_usage(source.wasted.values())


def check_account(source: Ledger | Result, *counted: Stats) -> None:
    """Every request is paid for or wasted, and so is every token that was served; nothing is invented."""
    spent, wasted = account(source)
    total = spent + wasted
    served = sum(stats.completion_tokens for stats in counted)
    lost = sum(stats.wasted_completion_tokens for stats in counted)
    assert total.requests == sum(stats.received for stats in counted)
    assert served <= total.completion_tokens <= served + lost
    assert total.prompt_tokens >= sum(stats.prompt_tokens for stats in counted)
    assert spent.completion_tokens >= served or wasted.completion_tokens > 0
    assert total.estimated_tokens == 0


def check_exact(source: Ledger | Result, *counted: Stats) -> None:
    """What was paid for is what was served, to the token."""
    check_account(source, *counted)
    spent, _ = account(source)
    assert spent.requests == sum(stats.served for stats in counted)
    assert spent.prompt_tokens == sum(stats.prompt_tokens for stats in counted)
    assert spent.completion_tokens == sum(stats.completion_tokens for stats in counted)


async def settle(before: set[asyncio.Task[Any]], *doubles: ModelDouble) -> None:
    """Nothing that was begun since `before` goes on: no request at the doubles, and soon no task here."""
    async with asyncio.timeout(120):
        for double in doubles:
            await double.idle()
    for _ in range(10):  # the loop closes abandoned generators by tasks of its own, a turn or two later
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() - before if "RequestHandler" not in repr(task)]
    assert not left, left
