"""Replicas are set aside for failures of their own, and an endpoint that is dead is given up in time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from aiohttp import web

from tests.support.double import ModelDouble
from tests.support.scripted import ScriptedServer, choice
from tests.support.solving import draw, endpoint
from tts.accounts import Ledger
from tts.errors import EndpointLost, SamplingFailed, Throttled
from tts.sampler import Endpoint, Sampler


def at(*servers: ScriptedServer, **settings: Any) -> Endpoint:
    defaults = {"model": "test-model", "retry_wait": 0.02, "outage_timeout": 1.5, "max_n": 1, "max_attempts": 1000}
    return Endpoint(base_url=",".join(server.base_url for server in servers), **defaults | settings)


def failing(status: int, **headers: str) -> Callable[[dict], web.Response]:
    return lambda _: web.json_response({"error": {"message": "the cat sat on it"}}, status=status, headers=headers)


async def hang(_: dict | None = None) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def lost(sampler: Sampler, n: int = 8) -> tuple[str, float]:
    """What a draw that must end in an outage says, and after how many seconds."""
    began, ledger = monotonic(), Ledger()
    with pytest.raises(SamplingFailed) as caught:
        await draw(sampler, n, ledger)
    assert isinstance(caught.value.__cause__, EndpointLost)
    assert len(ledger.failures) == n
    return str(caught.value), monotonic() - began


# -- dead endpoints ----------------------------------------------------------------------------------------------------


async def test_refused_connections_end_in_time_and_say_what_was_seen():
    async with ScriptedServer(hang) as server:
        target = at(server)
    async with Sampler(target) as sampler:
        words, seconds = await lost(sampler, 200)
    assert 1.4 <= seconds < 100
    assert "for 2 s (outage_timeout)" in words
    assert "connection to" in words


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
async def test_a_server_that_only_fails_is_given_up_whatever_it_says_of_its_health(status: int, alive: bool):
    async with ScriptedServer(failing(status), alive=lambda: alive) as server, Sampler(at(server)) as sampler:
        words, seconds = await lost(sampler)
    assert 1.4 <= seconds < 100
    assert "the cat sat on it" in words or not alive


async def test_a_server_that_hangs_altogether_is_given_up_long_before_the_attempt_timeout():
    async with (
        ScriptedServer(hang, alive=hang) as server,
        Sampler(at(server, attempt_timeout=600, connect_timeout=0.3)) as sampler,
    ):
        words, seconds = await lost(sampler, 200)
        assert sampler.connection.pool.replicas[0].in_flight == 0
    assert 1.4 <= seconds < 100
    assert "does not answer within 0.3 s" in words


async def test_a_server_that_hangs_on_requests_alone_is_given_up_after_their_timeouts():
    async with ScriptedServer(hang) as server, Sampler(at(server, attempt_timeout=0.4)) as sampler:
        _, seconds = await lost(sampler, 200)
    assert 1.4 <= seconds < 100


async def test_a_slow_server_that_lives_is_waited_for():
    ready = asyncio.Event()

    async def slow(_: dict) -> dict:
        await ready.wait()
        return choice("42")

    async with ScriptedServer(slow) as server, Sampler(at(server, outage_timeout=0.9)) as sampler:
        drawn = asyncio.create_task(draw(sampler, 8))
        async with asyncio.timeout(120):
            while "signs of life: waiting" not in sampler.connection.health.trouble():
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.5)
        assert not drawn.done()
        ready.set()
        assert len(await drawn) == 8
        assert sampler.connection.health.trouble() == ""


@pytest.mark.parametrize(("dead", "after", "patience"), [(False, 4, 3), (True, 8, 7.5)], ids=["fails", "is gone"])
async def test_an_outage_begins_when_a_slow_server_falls_and_not_when_it_last_answered(
    dead: bool, after: float, patience: float
):
    loop = asyncio.get_running_loop()
    falls = loop.time() + after

    def down() -> bool:
        return falls <= loop.time() < falls + 1

    async def answer(_: dict) -> Any:
        await asyncio.sleep(max(0.0, falls + 0.05 - loop.time()))
        return failing(500)({}) if down() else choice("42")

    async with (
        ScriptedServer(answer, alive=lambda: not (dead and down())) as server,
        Sampler(at(server, outage_timeout=patience)) as sampler,
    ):
        assert len(await draw(sampler, 8)) == 8
    assert loop.time() > falls + 1


async def test_a_slow_server_is_waited_for_beside_a_request_that_always_fails():
    async def mixed(body: dict) -> Any:
        if "bad" in str(body["messages"]):
            return failing(502)(body)
        await asyncio.sleep(3)
        return choice("42")

    async with ScriptedServer(mixed) as server, Sampler(at(server, outage_timeout=0.9, max_attempts=6)) as sampler:

        async def bad() -> None:
            async for _ in sampler.sample([{"role": "user", "content": "bad"}], 1):
                pass

        failing_one = asyncio.create_task(bad())
        await asyncio.sleep(0.1)
        assert len(await draw(sampler, 8)) == 8
        await asyncio.gather(failing_one, return_exceptions=True)


async def test_an_endpoint_that_was_given_up_gets_another_chance():
    down = True
    async with (
        ScriptedServer(lambda body: failing(502)(body) if down else choice("42")) as server,
        Sampler(at(server)) as sampler,
    ):
        await lost(sampler)
        down = False
        assert len(await draw(sampler, 8)) == 8


async def test_a_paused_process_goes_on_where_it_was():
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.double", "--latency", "0.05", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        url = (await child.stdout.readline()).decode().split()[1]
        target = Endpoint(model="test-model", base_url=url, max_n=1, max_concurrency=4, connect_timeout=0.3)
        async with Sampler(target) as sampler:
            drawing = asyncio.create_task(draw(sampler, 100))
            await asyncio.sleep(0.5)
            os.kill(child.pid, signal.SIGSTOP)
            await asyncio.sleep(1.5)
            os.kill(child.pid, signal.SIGCONT)
            assert len(await drawing) == 100
    finally:
        child.kill()
        await child.wait()


# -- one request's failures --------------------------------------------------------------------------------------------


async def test_failures_of_one_request_set_no_replica_aside_that_says_it_works():
    async with (
        ScriptedServer(lambda body: failing(502)(body) if "bad" in str(body) else choice("42")) as server,
        Sampler(at(server, outage_timeout=30, max_attempts=6)) as sampler,
    ):
        bad = [{"role": "user", "content": "bad"}]
        with pytest.raises(SamplingFailed, match="the cat sat on it"):
            async for _ in sampler.sample(bad, 1):
                pass
        pool = sampler.connection.pool
        async with asyncio.timeout(120):
            while pool.replicas[0].down or not pool.replicas[0].has_room(asyncio.get_running_loop().time()):
                await asyncio.sleep(0.02)
        pool.release(pool.take(0), pool_served(), 0.0)
        assert len(await draw(sampler, 8)) == 8


def pool_served() -> Any:
    from tts.sampler.pool import AttemptOutcome

    return AttemptOutcome.SERVED


async def test_a_replica_that_is_down_is_not_used_and_says_why_until_it_is_back():
    alive = False
    async with (
        ScriptedServer(lambda body: choice("42") if alive else failing(503)(body), alive=lambda: alive) as server,
        Sampler(at(server, outage_timeout=100)) as sampler,
    ):
        drawing = asyncio.create_task(draw(sampler, 8))
        pool = sampler.connection.pool
        async with asyncio.timeout(120):
            while not pool.replicas[0].down:
                await asyncio.sleep(0.02)
        with pytest.raises(Throttled, match=r"no server of this model works: HTTP 503 from .*health") as refused:
            pool.take(0)
        assert refused.value.body.startswith("no server of this model works: HTTP 503 from the server: ")
        async with asyncio.timeout(120):
            while pool.replicas[0].in_flight:
                await asyncio.sleep(0.02)
        sent = len(server.seen)
        await asyncio.sleep(0.5)
        assert len(server.seen) == sent
        assert "paused" in sampler.connection.health.trouble()
        alive = True
        assert len(await drawing) == 8
        assert not sampler.connection.health.trouble()


async def test_one_429_for_a_day_stops_a_healthy_server_for_seconds_only():
    answers = [failing(429, **{"Retry-After": "86400"})]
    async with (
        ScriptedServer(lambda body: answers.pop()(body) if answers else choice("42")) as server,
        Sampler(at(server, outage_timeout=60, max_concurrency=1)) as sampler,
    ):
        began, first, times = monotonic(), asyncio.create_task(draw(sampler)), []
        await asyncio.sleep(0.2)
        for _ in range(4):
            await draw(sampler)
            times.append(monotonic() - began)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert times[-1] < 50


# -- waits and files ---------------------------------------------------------------------------------------------------


async def test_time_in_the_queue_counts_towards_the_total_timeout_while_nothing_is_served():
    async with (
        ScriptedServer(hang) as server,
        Sampler(at(server, total_timeout=0.5, outage_timeout=60, max_concurrency=1)) as sampler,
    ):
        began = monotonic()
        with pytest.raises(SamplingFailed):
            await draw(sampler, 30)
    assert monotonic() - began < 50


async def test_a_queue_that_moves_loses_nothing_however_long_it_is():
    async with (
        ModelDouble(latency=0.1) as double,
        Sampler(endpoint(double, max_n=1, max_concurrency=1, total_timeout=2.0)) as sampler,
    ):
        assert len(await draw(sampler, 25)) == 25


def test_few_files_make_few_requests_in_flight(monkeypatch: pytest.MonkeyPatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert Endpoint(model="m", base_url="http://a/v1").most_in_flight == 64
    assert Endpoint(model="m", base_url="http://a/v1,http://b/v1").most_in_flight == 32
    assert Endpoint(model="m", base_url="http://a/v1", max_concurrency=8).most_in_flight == 8
