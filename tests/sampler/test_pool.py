"""Replicas, their congestion windows and the queue in front of them."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.solving import check_account, draw, endpoint
from tts.accounts import Ledger
from tts.sampler import Sampler
from tts.sampler.pool import INITIAL, SUSPECT, AttemptOutcome, Pool, Replica

OUTCOMES = st.sampled_from(AttemptOutcome)


# -- the window of one replica -----------------------------------------------------------------------------------------


@given(
    st.integers(1, 300),
    st.lists(st.tuples(OUTCOMES, st.floats(0, 5), st.none() | st.floats(0, 3), st.floats(0, 1))),
)
def test_the_window_never_leaves_its_bounds(maximum, history):
    replica, now = Replica("http://a", maximum, target_latency=2.0), 100.0
    for outcome, latency, retry_after, step in history:
        now += step
        replica.in_flight = int(replica.window)
        replica.observe(outcome, latency, retry_after, now)
        assert 1 <= replica.window <= maximum


def test_the_window_is_halved_once_for_all_that_a_round_trip_throttles():
    replica = Replica("http://a", 64, None)
    replica.in_flight = 64
    for _ in range(60):
        replica.observe(AttemptOutcome.CONGESTED, 0.5, None, now=10.0)
    assert replica.window == 32
    replica.observe(AttemptOutcome.CONGESTED, 0.5, None, now=10.4)
    assert replica.window == 32
    replica.observe(AttemptOutcome.CONGESTED, 0.5, None, now=10.6)
    assert replica.window == 16


def test_a_window_that_is_used_doubles_a_round_trip_at_first_and_then_grows_by_one():
    replica = Replica("http://a", 1000, None)
    replica.in_flight = 1000
    for _ in range(64):
        replica.observe(AttemptOutcome.SERVED, 0.1, None, now=10.0)
    assert replica.window == 128
    replica.observe(AttemptOutcome.CONGESTED, 0.1, None, now=10.0)
    for _ in range(64):
        replica.observe(AttemptOutcome.SERVED, 0.1, None, now=11.0)
    assert replica.window == pytest.approx(65, abs=0.1)


def test_an_idle_window_does_not_grow():
    replica = Replica("http://a", 1000, None)
    replica.in_flight = 3
    for _ in range(100):
        replica.observe(AttemptOutcome.SERVED, 0.1, None, now=10.0)
    assert replica.window == 64


def test_requests_slower_than_the_target_reduce_the_window():
    replica = Replica("http://a", 64, target_latency=1.0)
    replica.in_flight = 64
    replica.observe(AttemptOutcome.SERVED, 1.5, None, now=10.0)
    assert replica.window == 32


def test_a_pause_that_is_asked_for_is_short_at_first_and_ends_with_the_first_answer():
    replica = Replica("http://a", 64, None)
    replica.in_flight = 8
    for _ in range(8):  # sent together: one pause
        replica.observe(AttemptOutcome.CONGESTED, 0.5, 86_400.0, now=10.0)
    assert not replica.has_room(10.9)
    assert replica.has_room(11.0)
    replica.admit(11.0)
    assert not replica.has_room(11.5), "one at a time"
    replica.observe(AttemptOutcome.CONGESTED, 0.1, 86_400.0, now=11.1)
    assert not replica.has_room(13.0)
    assert replica.has_room(13.1)
    replica.admit(13.1)
    replica.observe(AttemptOutcome.SERVED, 5.0, None, now=13.2)  # sent before
    assert not replica.has_room(13.2)
    replica.observe(AttemptOutcome.SERVED, 0.1, None, now=13.3)
    replica.in_flight = 10
    assert replica.has_room(13.3)


@given(st.floats(0, 1e9), st.integers(1, 20))
def test_no_pause_is_longer_than_thirty_seconds(asked, times):
    replica, now = Replica("http://a", 64, None), 10.0
    for _ in range(times):
        replica.admit(now)
        replica.observe(AttemptOutcome.CONGESTED, 0.0, asked, now)
        assert replica.has_room(now + 30)
        now = max(now, replica.paused_until)


# -- the queue ---------------------------------------------------------------------------------------------------------


async def test_room_is_given_in_order_of_arrival():
    pool, served = Pool(("http://a",), maximum=3), []

    async def use(number: int) -> None:
        replica = await pool.acquire(0)
        served.append(number)
        await asyncio.sleep(0)
        pool.release(replica, AttemptOutcome.SERVED, 0.0)

    async with asyncio.timeout(120):
        await asyncio.gather(*(use(number) for number in range(50)))
    assert served == list(range(50))
    assert pool.replicas[0].in_flight == pool.waiting == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 3))
def test_storms_of_cancellations_leave_nothing_in_flight_and_nobody_waiting(seed, maximum, replicas):
    rng = random.Random(seed)

    async def storm() -> None:
        pool = Pool(tuple(f"http://{i}" for i in range(replicas)), maximum)
        most = dict.fromkeys(pool.replicas, 0)

        async def use() -> None:
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            replica = await pool.acquire(rng.randrange(100))
            most[replica] = max(most[replica], replica.in_flight)
            outcome = AttemptOutcome.ABANDONED
            try:
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
                outcome = rng.choice([AttemptOutcome.SERVED, AttemptOutcome.CONGESTED])
            finally:
                pool.release(replica, outcome, 0.0)

        users = [asyncio.create_task(use()) for _ in range(60)]
        while not all(user.done() for user in users):
            await asyncio.sleep(0)
            if rng.random() < 0.5:
                for user in rng.sample(users, 6):
                    user.cancel()
        last = await pool.acquire(0)  # there is room again for anyone
        assert [replica.in_flight for replica in pool.replicas] == [int(replica is last) for replica in pool.replicas]
        assert all(1 <= count <= maximum for count in most.values() if count)

    async def guarded() -> None:
        async with asyncio.timeout(120):
            await storm()

    asyncio.run(guarded())


async def test_those_who_wait_for_a_paused_replica_go_on_when_the_pause_is_over():
    pool = Pool(("http://a",), maximum=4)
    first = await pool.acquire(0)
    pool.release(first, AttemptOutcome.CONGESTED, 0.0, retry_after=0.1)
    begin = asyncio.get_running_loop().time()

    async def use() -> None:
        replica = await pool.acquire(0)
        pool.release(replica, AttemptOutcome.SERVED, 0.0)

    async with asyncio.timeout(120):
        await asyncio.gather(use(), use())
    assert asyncio.get_running_loop().time() - begin >= 0.1


async def test_a_full_replica_spills_over_and_one_that_all_prefer_does_not_take_all():
    pool = Pool(("http://a", "http://b"), maximum=200)
    assert {(await pool.acquire(7)).url for _ in range(8)} == {"http://b"}
    for _ in range(100):
        await pool.acquire(7)
    fewer, more = (replica.in_flight for replica in pool.replicas)
    assert fewer + more == 108
    assert 0 < fewer < more <= 2 * fewer + 16
    assert all(replica.in_flight <= replica.window for replica in pool.replicas)


async def test_the_replica_to_avoid_is_taken_only_when_no_other_has_room():
    pool = Pool(("http://a", "http://b"), maximum=1)
    assert (await pool.acquire(0, avoid=["http://a"])).url == "http://b"
    assert (await pool.acquire(0, avoid=["http://a"])).url == "http://a"


async def test_one_who_waited_in_the_queue_still_avoids_a_replica():
    pool = Pool(("http://a", "http://b"), maximum=1)
    resumed = asyncio.get_running_loop().time() + 0.05
    for replica in pool.replicas:  # both have room again at the same moment
        replica.paused_until = resumed
    async with asyncio.timeout(120):
        assert (await pool.acquire(0, avoid=["http://a"])).url == "http://b"


# -- over real connections ---------------------------------------------------------------------------------------------


async def test_the_same_prompt_goes_to_the_same_replica_and_prompts_are_spread():
    async with ModelDouble() as one, ModelDouble() as other, Sampler(endpoint(one, other, max_n=1)) as sampler:
        for number in range(32):
            for _ in range(2):
                async for _ in sampler.sample(f"prompt {number} " * 3, 2):
                    pass
    homes = [{seen.body["prompt"] for seen in double.requests} for double in (one, other)]
    assert not homes[0] & homes[1]
    assert len(homes[0] | homes[1]) == 32
    assert min(len(home) for home in homes) >= 4


@pytest.mark.parametrize("broken_first", [True, False])  # in one of the orders the prompt prefers the broken one
async def test_a_failed_request_is_repeated_at_another_replica(broken_first):
    ledger = Ledger()
    async with (
        ModelDouble(faults=Fault(FaultKind.SERVER_ERROR)) as broken,
        ModelDouble() as sound,
        Sampler(endpoint(*((broken, sound) if broken_first else (sound, broken)), max_attempts=2, max_n=1)) as sampler,
    ):
        samples = await draw(sampler, 32, ledger)
    assert len(samples) == 32
    check_account(ledger, broken.stats, sound.stats)


async def test_a_dead_replica_is_set_aside_and_used_again_when_it_is_back():
    async with ModelDouble() as sound:
        async with ModelDouble() as dead:
            port = dead.port
            target = endpoint(sound, dead, max_n=1)
        async with Sampler(target) as sampler:
            ledger = Ledger()
            assert len(await draw(sampler, 128, ledger)) == 128
            attempts = ledger.wasted.get("policy")
            assert attempts is None or attempts.requests <= INITIAL + SUSPECT
            async with ModelDouble(port=port) as back, asyncio.timeout(120):
                while not back.stats.served:
                    for number in range(8):
                        async for _ in sampler.sample(f"prompt {number}", 1):
                            pass


async def test_more_requests_than_threads_resolve_a_host_name():
    async with ModelDouble(holding=True) as double:
        named = endpoint(double, max_n=1).model_copy(
            update={"base_url": double.base_url.replace("127.0.0.1", "localhost")}
        )
        async with Sampler(named) as sampler:
            drawing = asyncio.create_task(draw(sampler, 200))
            while double.stats.running <= 40:
                await asyncio.sleep(0.005)
            double.holding = False
            assert len(await drawing) == 200


@pytest.mark.parametrize("room", [1, 4])
async def test_a_server_that_throttles_is_sent_what_it_takes_and_all_is_served(room):
    ledger = Ledger()
    async with (
        ModelDouble(max_running=room, latency=0.005) as double,
        Sampler(endpoint(double, max_n=1, retry_wait=0.25)) as sampler,
    ):
        samples = await draw(sampler, 96, ledger)
        window = sampler.connection.pool.replicas[0].window
    assert len(samples) == 96
    assert window < 64
    check_account(ledger, double.stats)


async def test_a_task_cancelled_in_the_queue_or_in_flight_gives_its_room_back():
    async with ModelDouble(latency=600) as double, Sampler(endpoint(double, max_n=1, max_concurrency=4)) as sampler:
        drawing = asyncio.create_task(draw(sampler, 32))
        while double.stats.running < 4:
            await asyncio.sleep(0.005)
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        async with asyncio.timeout(120):
            await double.idle()
        assert sampler.connection.pool.replicas[0].in_flight == 0
        assert double.stats.received == double.stats.cancelled == 4
        double.latency = 0.0
        assert len(await draw(sampler, 4)) == 4
