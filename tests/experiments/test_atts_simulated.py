"""The simulated clock and servers, and what ATTS gains on them: no real time passes, so every figure is exact."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import cache

import pytest

from experiments.atts.simulate import PAIRS, Outcome, solve_all, spec
from experiments.atts.simulated import Clock, Machine, Server, Workload, run
from tts.sampler import Sampler

PAIR = PAIRS["Qwen2.5-7B / QwQ-32B"]
WORK = Workload(problems=4, mean_tokens=2500)
ONE = Machine("one", 1e9, step=0.01, step_per_sequence=0.002, prefill=1000)


def test_time_passes_only_while_everything_waits_and_then_at_once():
    async def sleep() -> tuple[float, list[int]]:
        order: list[int] = []

        async def one(number: int) -> None:
            await asyncio.sleep(1000 * (3 - number))
            order.append(number)

        await asyncio.gather(*map(one, range(3)))
        return asyncio.get_running_loop().time(), order

    begin = time.monotonic()
    assert run(sleep()) == (3000, [2, 1, 0])
    assert time.monotonic() - begin < 60


def test_waiting_for_nothing_is_an_error():
    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="never happen"):
        run(forever())
    assert Clock().time() == 0


def test_sequences_decode_together_and_prompts_are_read_one_after_another():
    async def generate(count: int) -> float:
        server = Server(ONE, Workload(problems=1, mean_tokens=10**9, grain=1))
        async with Sampler(server.endpoint()) as sampler:

            async def one() -> None:
                async for _ in sampler.sample([1000], 1, max_tokens=100, return_token_ids=True):
                    pass

            await asyncio.gather(*(one() for _ in range(count)))
        return asyncio.get_running_loop().time()

    assert run(generate(1)) == pytest.approx(0.001 + 100 * 0.01)
    # Ten begin a millisecond after each other; a step of ten takes 28 ms.
    assert run(generate(10)) == pytest.approx(100 * 0.028, rel=0.02)


@cache
def measured(kind: str, samples: int = 16, *, at_once: int = 1, pair: tuple[Machine, Machine] = PAIR) -> Outcome:
    return run(solve_all(spec(kind, samples, WORK, 500), pair, WORK, at_once=at_once, stop_early=True))


def test_without_barriers_it_is_faster_and_asks_the_target_for_less_than_half_of_what_it_writes_alone():
    atts, sync, target = (measured(kind) for kind in ("atts", "atts_sync", "target"))
    assert atts.seconds < sync.seconds / 1.5
    assert atts.seconds < target.seconds
    assert atts.target_tokens < 0.5 * target.target_tokens
    assert atts.rate == pytest.approx(0.4, abs=0.1)
    assert atts.draft_busy > 0.85
    assert sync.draft_busy < 0.6


def test_all_problems_in_one_pool_multiply_the_gain():
    assert measured("atts", at_once=4).seconds < measured("atts_sync").seconds / 2.5


def test_the_gain_grows_with_the_samples_and_the_targets_slowness():
    gains = [measured("atts_sync", n).seconds / measured("atts", n).seconds for n in (4, 16)]
    assert gains[0] < gains[1]
    slow = (PAIR[0], replace(PAIR[1], step=8 * PAIR[0].step))
    fast = (PAIR[0], replace(PAIR[1], step=PAIR[0].step))
    of = [measured("atts_sync", 8, pair=pair).seconds / measured("atts", 8, pair=pair).seconds for pair in (fast, slow)]
    assert of[0] < of[1]
