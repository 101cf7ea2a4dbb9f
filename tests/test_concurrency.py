"""Streams fed by workers: what is delivered, what is cancelled, and that nothing is left."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import warnings
from collections.abc import AsyncGenerator, AsyncIterator
from functools import partial
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts.concurrency import LARGE, LEAST, ROUND, Flow, Once, blocking, concurrent_map, flow, in_turn, merge, scope
from tts.errors import BudgetSpent


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """Every test must leave no task behind."""
    yield
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def turns(count: int = 20) -> None:
    """Let everything that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def numbers(count: int, log: list[str] | None = None) -> AsyncGenerator[int, None]:
    try:
        for number in range(count):
            await asyncio.sleep(0)
            yield number
    finally:
        if log is not None:
            await asyncio.sleep(0)
            log.append("closed")


async def forever(log: list[str], name: str = "cancelled") -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await turns(5)  # cleaning up takes a while, and is waited for
        log.append(name)


async def fail(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


async def collect(source: AsyncIterator[int], into: list[int]) -> None:
    """The items into a list that keeps them when the source fails."""
    async for item in source:
        into.append(item)  # noqa: PERF401


async def test_a_flow_gives_what_its_workers_and_theirs_emit():
    async def parent(out: Flow[int]) -> None:
        out.emit(1)
        out.start(child(out))
        out.emit(2)

    async def child(out: Flow[int]) -> None:
        await asyncio.sleep(0)
        out.emit(3)

    assert [item async for item in flow(parent)] == [1, 2, 3]


async def test_a_flow_without_items_is_empty():
    async def nothing(out: Flow[int]) -> None:
        pass

    assert [item async for item in flow(nothing)] == []


async def test_the_first_error_cancels_the_other_workers_and_is_raised_after_they_ended():
    log: list[str] = []

    async def begin(out: Flow[int]) -> None:
        out.start(forever(log))
        out.start(fail(ValueError("first")))

    with pytest.raises(ValueError, match="first"):
        await collect(flow(begin), [])
    assert log == ["cancelled"]


async def test_items_emitted_before_an_error_are_delivered():
    async def worker(out: Flow[int]) -> None:
        out.emit(1)
        raise ValueError("too late")

    items: list[int] = []
    with pytest.raises(ValueError, match="too late"):
        await collect(flow(lambda out: worker(out)), items)
    assert items == [1]


async def test_a_spent_budget_is_raised_only_after_the_others_have_delivered():
    async def slow(out: Flow[int]) -> None:
        for number in range(5):
            await asyncio.sleep(0.001)
            out.emit(number)

    async def begin(out: Flow[int]) -> None:
        out.start(fail(BudgetSpent("spent")))
        out.start(slow(out))

    items: list[int] = []
    with pytest.raises(BudgetSpent):
        await collect(flow(begin), items)
    assert items == [0, 1, 2, 3, 4]


async def test_closing_cancels_the_workers_and_waits_for_their_end():
    log: list[str] = []

    async def worker(out: Flow[int]) -> None:
        out.emit(1)
        await forever(log)

    items = flow(worker)
    assert await anext(items) == 1
    await items.aclose()
    assert log == ["cancelled"]


async def test_cancelling_the_reader_cancels_the_workers():
    log: list[str] = []
    reader = asyncio.create_task(collect(flow(lambda out: forever(log)), []))
    await turns()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert log == ["cancelled"]


async def test_a_worker_cancelled_by_somebody_else_ends_the_stream():
    tasks: list[asyncio.Task[object]] = []

    async def begin(out: Flow[int]) -> None:
        tasks.append(out.start(forever([])))

    reader = asyncio.create_task(collect(flow(begin), []))
    await turns()
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


async def test_a_worker_cancelled_before_its_first_step_is_no_complaint():
    gc.collect()  # what other tests left is their business
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = asyncio.create_task(collect(flow(lambda out: forever([])), []))
        await asyncio.sleep(0)  # the worker is made but has not begun
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gc.collect()
    assert not [warning for warning in caught if "never awaited" in str(warning.message)]


async def test_merge_interleaves_and_closes_its_sources():
    log: list[str] = []
    assert sorted([item async for item in merge([numbers(3, log), numbers(4, log)])]) == [0, 0, 1, 1, 2, 2, 3]
    assert log == ["closed", "closed"]
    merged = merge([numbers(10**9, log), numbers(10**9, log)])
    await anext(merged)
    await merged.aclose()
    assert log == ["closed"] * 4


async def test_a_source_whose_budget_is_spent_does_not_silence_the_others():
    async def short() -> AsyncGenerator[int, None]:
        yield 100
        raise BudgetSpent("spent")

    items: list[int] = []
    with pytest.raises(BudgetSpent):
        await collect(merge([short(), numbers(5)]), items)
    assert sorted(items) == [0, 1, 2, 3, 4, 100]


async def test_a_map_begins_each_item_as_it_arrives_and_gives_results_as_they_are_ready():
    release, order = asyncio.Event(), []

    async def work(number: int) -> int:
        order.append(f"begin {number}")
        if number == 0:
            await release.wait()
        return number

    results = concurrent_map(work, numbers(3))
    assert [await anext(results), await anext(results)] == [1, 2]
    assert order == ["begin 0", "begin 1", "begin 2"]
    release.set()
    assert [item async for item in results] == [0]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(0, 20))
async def test_a_map_never_runs_more_than_its_limit_and_loses_nothing(limit, count):
    running = most = 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return number * number

    results = [item async for item in concurrent_map(work, numbers(count), limit=limit)]
    assert sorted(results) == [number * number for number in range(count)]
    assert most <= limit


@pytest.mark.parametrize("limit", [1, 100])
async def test_leaving_a_map_early_closes_its_source(limit):
    log: list[str] = []

    async def work(number: int) -> int:
        if number:
            await forever(log, "work")
        return number

    results = concurrent_map(work, numbers(5, log), limit=limit)
    assert await anext(results) == 0
    await turns()
    await results.aclose()
    assert log.count("work") == min(limit, 4)
    assert log.count("closed") == 1


async def test_a_budget_spent_by_one_item_leaves_the_results_of_the_others():
    async def work(number: int) -> int:
        await asyncio.sleep(0)
        if number == 1:
            raise BudgetSpent("spent")
        return number

    items: list[int] = []
    with pytest.raises(BudgetSpent):
        await collect(concurrent_map(work, numbers(4)), items)
    assert sorted(items) == [0, 2, 3]


async def test_a_scope_ends_what_abandoned_streams_were_doing():
    log: list[str] = []

    async def worker(out: Flow[int], depth: int) -> None:
        out.emit(depth)
        if depth:
            await collect(flow(partial(worker, depth=depth - 1)), [])
        await forever(log)

    async def search() -> AsyncGenerator[int, None]:
        async for item in flow(partial(worker, depth=3)):
            yield item

    async with scope():
        async for _ in search():
            await turns()
            break  # neither generator is closed
    assert log == ["cancelled"]  # the innermost; the others were waiting for it


async def test_scopes_nest():
    log: list[str] = []

    async def worker(out: Flow[int], name: str) -> None:
        out.emit(0)
        await forever(log, name)

    async with scope():
        outer = flow(partial(worker, name="outer"))
        await anext(outer)
        async with scope():
            inner = flow(partial(worker, name="inner"))
            await anext(inner)
        assert log == ["inner"]
    assert log == ["inner", "outer"]
    with pytest.raises(asyncio.CancelledError):
        await anext(inner)


async def test_a_thing_that_is_not_kept_is_made_anew_by_everyone_who_waits_for_it():
    once, made = Once[int](kept=2), count()

    async def make() -> int:
        await asyncio.sleep(0)
        return next(made)

    asked = [once.get("key", make, keep=lambda value: value == 2) for _ in range(5)]
    assert sorted(await asyncio.gather(*asked)) == [(0, False), (1, False), (2, False), (2, True), (2, True)]


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 2 * LARGE) | st.just(0), max_size=200))
async def test_turns_come_in_order_and_a_round_of_the_loop_has_work_for_its_bytes(sizes: list[int]):
    loop, taken, rounds = asyncio.get_running_loop(), list[int](), [list[int]()]

    def next_round() -> None:
        rounds.append([])
        if len(taken) < len(sizes):
            loop.call_soon(next_round)

    async def work(number: int) -> None:
        await in_turn(sizes[number])
        taken.append(number)
        rounds[-1].append(max(sizes[number], LEAST))

    loop.call_soon(next_round)
    await asyncio.gather(*map(work, range(len(sizes))))
    await turns(2)
    assert taken == list(range(len(sizes)))
    assert all(sum(begun[:-1]) < ROUND for begun in rounds)  # the last may go beyond
    assert len([begun for begun in rounds if begun]) <= 1 + sum(map(sum, rounds)) // ROUND


@settings(max_examples=50, deadline=None)
@given(coming=st.lists(st.integers(0, 2 * ROUND // LEAST), max_size=5), left=st.sets(st.integers(0, 200)))
async def test_who_comes_later_has_its_turn_later(coming: list[int], left: set[int]):
    """Also later than those whose turn has come, but who have not gone on yet; some are cancelled by then."""
    came, taken = list[int](), list[int]()

    async def work(number: int) -> None:
        came.append(number)
        await in_turn(LEAST)
        taken.append(number)

    begun: list[asyncio.Task[None]] = []
    for many in coming:  # so many in each round of the loop
        begun += [asyncio.create_task(work(len(begun) + i)) for i in range(many)]
        await asyncio.sleep(0)
        for number in left.intersection(range(len(begun))):
            begun[number].cancel()
    await asyncio.gather(*begun, return_exceptions=True)
    assert taken == [number for number in came if number in taken]
    assert left.union(taken) >= set(came)


async def _told(value: int, *, wait: float = 0.0) -> int:
    await asyncio.sleep(wait)
    if value < 0:
        raise ValueError("negative")
    return value


def test_work_is_done_without_await() -> None:
    assert blocking(_told)(3) == 3
    with pytest.raises(ValueError, match="negative"):
        blocking(_told)(-1)


async def test_work_is_done_without_await_while_a_loop_runs() -> None:
    """As in notebooks."""
    assert blocking(_told)(3, wait=0.01) == 3
    with pytest.raises(ValueError, match="negative"):
        blocking(_told)(-1)


async def test_ctrl_c_cancels_what_is_done_without_await(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it comes, as soon as the work has begun."""

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)  # to the main thread, as Ctrl-C; another's would not wake it
            await asyncio.sleep(60)
        finally:
            ended.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a notebook's kernel has
    try:
        for _ in range(50):
            ended = threading.Event()
            with pytest.raises(KeyboardInterrupt):
                blocking(work)()
            assert ended.is_set()
    finally:
        signal.signal(signal.SIGINT, before)
