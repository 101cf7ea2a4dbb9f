"""Gateways of several machines with one Redis server: what holds for one holds for all together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from tests.gateway.serving import ASK, NUMBERS
from tests.gateway.test_workers import (
    Several,
    asked,
    at_most,
    at_once,
    counting,
    gateway_process,
    servers,
    tables_of,
    until,
)
from tests.support.redis_server import RedisServer, redis_server
from tests.support.threaded import settle
from tts.accounts import Grant
from tts.errors import ConfigError
from tts.gateway import machines
from tts.gateway.admission import Gate
from tts.gateway.exchange import APIError
from tts.gateway.machines import MachineLimits, MachineQuota
from tts.gateway.settings import GatewaySettings
from tts.sampler import Endpoint
from tts.sampler.pool import Pool
from tts.sampler.shares import Governor, Report

pytest.importorskip("redis", reason="the extra 'redis' is not installed")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


# -- in this process: machines are objects that share nothing but Redis ------------------------------------------------


@dataclass
class Machine:
    """One gateway's limits, without the gateway."""

    limits: MachineLimits
    governor: Governor
    closed: list[APIError | None]
    waiting: int = 0

    @property
    def quota(self) -> MachineQuota:
        return self.limits.known["k"].limits

    def ask_for(self, requests: int) -> None:
        """Have so many requests wait at the model server; none is sent."""
        self.waiting = requests
        self.report()

    def report(self) -> None:
        version = self.governor.grant("worker").version
        self.governor.take_report("worker", Report(version, [0], [self.waiting], [0.0], []))

    @property
    def share(self) -> int:
        return self.governor.ceilings[0]

    def silence(self) -> None:
        """As after a kill."""
        for task in self.limits._tasks:
            task.cancel()


@asynccontextmanager
async def machine(redis: RedisServer, key: str, limit: int = 8, **caps: Any) -> AsyncIterator[Machine]:
    """One whose only key has these caps; `key` tells tests apart."""
    endpoint = {"model": key, "base_url": "http://model/v1", "max_concurrency": limit}
    entry = {"sha256": key.encode().hex().ljust(64, "0")[:64], **caps}
    settings = GatewaySettings.parse({"models": {"m": endpoint}, "keys": {"k": entry}, "redis": redis.url})
    policy = settings.models["m"]["policy"]
    assert isinstance(policy, Endpoint)
    governor = Governor(Pool(policy.urls, policy.max_concurrency, None), lambda workers: made[0].report())
    made: list[Machine] = []
    governor.join("worker")
    closed: list[APIError | None] = []
    limits = MachineLimits(settings, lambda name: None, closed.append)
    limits.serve(0, policy, governor)
    made.append(Machine(limits, governor, closed))
    async with limits:
        yield made[0]


def tokens(count: int) -> Grant:
    return Grant(samples=1, completion_tokens=count)


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short leases."""
    for name, seconds in {"LEASE": 2.0, "FENCE": 1.0, "PATIENCE": 0.5, "PULSE": 0.05}.items():
        monkeypatch.setattr(machines, name, seconds)


async def soon(true: Any, seconds: float = 120) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_machines_do_no_more_is_promised_than_there_is(redis: RedisServer, seed: int):
    """What is reserved becomes spent, or free, in any order, on three machines; some who ask leave early."""
    cap, rng, promised, spent = 1000, random.Random(seed), 0, 0
    async with (
        machine(redis, f"any{seed}", tokens_per_day=cap) as one,
        machine(redis, f"any{seed}", tokens_per_day=cap) as two,
        machine(redis, f"any{seed}", tokens_per_day=cap) as three,
    ):

        async def work(quota: MachineQuota) -> None:
            nonlocal promised, spent
            for _ in range(12):
                need = rng.randint(1, 200)
                await quota.look()
                asking = asyncio.ensure_future(quota.hold(tokens(need)))
                if rng.random() < 0.2:
                    await asyncio.sleep(rng.random() * 0.003)
                    if asking.cancel():
                        await asyncio.wait({asking})
                        continue
                if not await asking:
                    continue
                promised += need
                assert promised <= cap
                await asyncio.sleep(rng.random() * 0.01)
                used = rng.randint(0, need // 4)
                quota.spend(used, 0.0)
                quota.release(tokens(need))
                promised, spent = promised - need + used, spent + used

        await asyncio.gather(*(work(at.quota) for at in (one, two, three) for _ in range(8)))
        for at in (one, two, three):
            await soon(lambda at=at: not at.quota.dirty)
        for at in (one, two, three):
            await at.quota.look()
            assert at.quota.spent[0] == spent
            assert at.quota.reserved.samples == 0
            assert at.quota.room[0] == cap - spent
        assert 0 < spent <= cap


async def test_a_key_runs_and_asks_as_often_as_it_may_on_all_machines_together(redis: RedisServer):
    caps = {"running": 3, "requests_per_minute": 5}
    async with machine(redis, "often", **caps) as one, machine(redis, "often", **caps) as two:
        callers = [one.limits.known["k"], two.limits.known["k"]]
        let_in = []
        for turn in range(6):
            with suppress(APIError):
                await callers[turn % 2].enter()
                let_in.append(callers[turn % 2])
        assert len(let_in) == 3
        with pytest.raises(APIError, match="3 requests running"):
            await callers[1].enter()
        for caller in let_in:
            caller.leave()
        await soon(lambda: not (one.quota.dirty or two.quota.dirty))
        await callers[0].enter()
        await callers[1].enter()
        with pytest.raises(APIError, match="5 requests a minute") as told:
            await callers[0].enter()
        assert 0 < (told.value.retry_after or 0) <= 12


async def test_a_model_server_is_shared_and_never_takes_more(redis: RedisServer, brisk: None):
    async with machine(redis, "server") as one:
        await soon(lambda: one.share == 8)
        async with machine(redis, "server") as two:
            one.ask_for(20)
            two.ask_for(20)
            for _ in range(100):
                assert one.share + two.share <= 8
                await asyncio.sleep(0.01)
                if one.share == two.share == 4:
                    break
            else:
                pytest.fail(f"shares are {one.share} and {two.share}")
            two.ask_for(0)
            await soon(lambda: one.share == 8)
            assert two.share == 0
            two.ask_for(2)
            await soon(lambda: two.share == 2)
            assert one.share == 6
        await soon(lambda: one.share == 8)  # one that stops gives back what it had at once


async def test_what_a_killed_gateway_held_is_free_when_its_lease_has_passed(redis: RedisServer, brisk: None):
    caps = {"tokens_per_day": 100, "running": 1}
    async with machine(redis, "killed", **caps) as one, machine(redis, "killed", **caps) as two:
        await one.limits.known["k"].enter()
        await soon(lambda: one.share + two.share == 8)
        assert await one.quota.hold(tokens(90))
        one.silence()
        assert not await two.quota.hold(tokens(20))
        with pytest.raises(APIError, match="1 request running"):
            await two.limits.known["k"].enter()
        two.ask_for(20)
        began = monotonic()
        async with asyncio.timeout(120):
            while not await two.quota.hold(tokens(20)):
                await asyncio.sleep(0.05)
                await two.quota.look()
        assert monotonic() - began > 1
        await two.limits.known["k"].enter()
        await soon(lambda: two.share == 8)
        two.quota.release(tokens(20))
        two.limits.known["k"].leave()
        one.quota.release(tokens(90))
        one.limits.known["k"].leave()


async def test_new_settings_go_by_what_is_spent_already(redis: RedisServer):
    async with machine(redis, "renewed", tokens_per_day=100) as one:
        assert await one.quota.hold(tokens(90))
        assert not await one.quota.hold(tokens(20))
        entry = {"sha256": b"renewed".hex().ljust(64, "0"), "tokens_per_day": 120, "running": 1}
        model = {"model": "renewed", "base_url": "http://model/v1"}
        await one.limits.reload(
            GatewaySettings.parse({"models": {"m": model}, "keys": {"k": entry, "other": {"sha256": "1" * 64}}})
        )
        assert await one.quota.hold(tokens(20))
        assert not await one.quota.hold(tokens(20))
        await one.limits.known["k"].enter()
        with pytest.raises(APIError, match="1 request running"):
            await one.limits.known["k"].enter()
        await one.limits.known["other"].enter()


async def test_a_lease_holds_as_long_as_its_gateway_lives(redis: RedisServer, brisk: None):
    async with machine(redis, "long", tokens_per_day=100) as one, machine(redis, "long", tokens_per_day=100) as two:
        assert await one.quota.hold(tokens(90))
        await asyncio.sleep(2 * machines.LEASE)
        assert not await two.quota.hold(tokens(20))
        one.quota.release(tokens(90))


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_without_redis_requests_are_refused_in_time_and_nothing_is_forgotten(
    how: str, tmp_path: Path, brisk: None
):
    with redis_server(tmp_path) as redis:
        caps = {"tokens_per_day": 100, "running": 9}
        async with machine(redis, how, **caps) as one, machine(redis, how, **caps) as two:
            assert await one.quota.hold(tokens(30))
            redis.freeze() if how == "frozen" else redis.kill()
            began = monotonic()
            for at in [one, two] * 20:
                with pytest.raises(APIError, match="limits cannot be checked now") as told:
                    await at.quota.look() if at is one else await at.limits.known["k"].enter()
                assert told.value.status == 503
            assert monotonic() - began < 10
            one.quota.spend(25, 0.0)
            one.quota.release(tokens(30))
            await soon(lambda: one.closed and two.closed)  # and what runs is ended before its lease is
            assert [at.closed[0] and at.closed[0].status for at in (one, two)] == [503, 503]
            redis.thaw() if how == "frozen" else redis.start()
            await soon(lambda: one.closed[-1] is None and two.closed[-1] is None)
            await soon(lambda: not one.quota.dirty)
            await two.quota.look()
            assert two.quota.spent[0] == 25
            assert two.quota.reserved.samples == 0
        async with machine(redis, how, **caps) as later:  # a restart gives no key its day anew
            await later.quota.look()
            assert later.quota.spent[0] == 25
            assert not await later.quota.hold(tokens(76))


async def test_a_redis_that_has_lost_its_memory_hears_it_again(redis: RedisServer, brisk: None):
    from redis.asyncio import Redis

    async with machine(redis, "lost", tokens_per_day=100) as one, machine(redis, "lost", tokens_per_day=100) as two:
        one.quota.spend(60, 0.0)
        assert await one.quota.hold(tokens(30))
        await soon(lambda: not one.quota.dirty)
        async with Redis.from_url(redis.url) as client:
            await client.flushall()
        await soon(lambda: one.share + two.share == 8)
        await one.quota.look()
        await two.quota.look()
        assert two.quota.spent[0] == 60
        assert not await two.quota.hold(tokens(11))
        one.quota.release(tokens(30))


async def test_a_closed_gate_ends_what_is_inside_and_lets_nobody_in():
    gate, ends = Gate(1, 5), []

    async def visit() -> None:
        try:
            async with gate.room():
                await asyncio.sleep(60)
        except APIError as error:
            ends.append(error.status)

    visits = [asyncio.create_task(visit()) for _ in range(3)]  # one is inside, two wait
    await asyncio.sleep(0.01)
    gate.close(APIError(503, "closed"))
    visits.append(asyncio.create_task(visit()))
    await asyncio.wait_for(asyncio.gather(*visits), 120)
    assert ends == [503] * 4
    gate.close(None)
    async with gate.room(1):
        pass


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "nonsense"])
async def test_a_redis_that_is_not_there_is_told_at_the_start(url: str, redis: RedisServer):
    class Elsewhere:
        pass

    elsewhere: Any = Elsewhere()
    elsewhere.url = url
    with pytest.raises(ConfigError, match="redis:"):
        async with machine(elsewhere, "nowhere"):
            pass


# -- processes ---------------------------------------------------------------------------------------------------------


@contextmanager
def two_gateways(
    new_folder: Callable[[str], Path], redis: RedisServer, keys: dict[str, str]
) -> Iterator[list[Several]]:
    """Two gateways of two workers, with settings of their own that name the same keys, model servers and Redis."""
    with servers() as (double, counts, models), ExitStack() as stack:
        found = []
        for name in ("east", "west"):
            tables = [f'redis = "{redis.url}"', *models, *tables_of(keys)]
            folder = new_folder(name)
            process = gateway_process(folder, tables, workers=2)
            found.append(Several(*stack.enter_context(process), double, counts, folder))
        yield found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[list[Several]]:
    keys = {"plain": "tokens_per_day = 100", "vote": "tokens_per_day = 100", "free": "", "capped": "running = 9"}
    keys |= {"rated": "requests_per_minute = 20\nrunning = 8"}
    with two_gateways(tmp_path_factory.mktemp, redis, keys) as gateways:
        yield gateways


async def at_both(two: list[Several], key: str, count: int, model: str, **fields: Any) -> list[httpx.Response]:
    async with two[0].client(key) as east, two[1].client(key) as west:
        found = await asyncio.gather(*(at_once(http, count // 2, model, **fields) for http in (east, west)))
    return [*found[0], *found[1]]


@pytest.mark.parametrize(
    ("key", "count", "model", "fields"),
    [("plain", 200, "counted", {}), ("vote", 60, f"self_consistency:n=4,{NUMBERS}@counted", {"max_tokens": 9})],
)
async def test_many_at_once_spend_no_more_than_the_day_has(
    key: str, count: int, model: str, fields: dict[str, Any], two: list[Several]
):
    async with counting(two[0].counts) as spent:
        answers = await at_both(two, key, count, model, **fields)
        assert {answer.status_code for answer in answers} <= {200, 429}
        for gateway in two:
            async with gateway.client(key) as http:
                while (answer := await asked(http, model, **fields)).status_code == 200:
                    pass
                assert answer.status_code == 429
        assert 60 < spent["tokens"] <= 100


async def test_rates_concurrency_and_model_servers_hold_for_both(two: list[Several]):
    settle(two[0].double)
    two[0].double.reset()
    two[0].double.latency, began = 1.0, monotonic()
    answers = await at_both(two, "rated", 60, "qwen")
    served = sum(answer.status_code == 200 for answer in answers)
    assert two[0].double.stats.peak_running <= 8
    assert 8 <= served <= 20 + (monotonic() - began) / 3
    codes = {answer.json()["error"]["code"] for answer in answers if answer.status_code == 429}
    assert codes <= {"concurrency", "rate_limit_exceeded"}
    await until(lambda: two[0].double.is_idle)
    two[0].double.reset()
    two[0].double.latency = 0.05
    answers = await at_most(two[0].double, 8, at_both(two, "free", 60, "single@qwen"))
    assert [answer.status_code for answer in answers] == [200] * 60


async def test_a_frozen_redis_ends_requests_with_an_error_and_a_thawed_one_lets_them_in(
    two: list[Several], redis: RedisServer
):
    two[0].double.latency = 600.0
    async with two[0].client("free") as http, two[1].client("capped") as capped:
        open_request = asyncio.create_task(asked(http, "qwen"))
        stream = {"model": "qwen", "messages": ASK, "stream": True}
        streamed = asyncio.create_task(http.post("/chat/completions", json=stream))
        await until(lambda: two[0].double.stats.running == 2)
        redis.freeze()
        try:
            answers = await at_once(capped, 20, "qwen")
            assert {answer.status_code for answer in answers} == {503}
            assert "limits cannot be checked now" in answers[0].json()["error"]["message"]
            assert (await open_request).status_code == 503
            assert "limits cannot be checked now" in (await streamed).text
            await until(lambda: two[0].double.is_idle)
        finally:
            redis.thaw()
        two[0].double.latency = 0.05
        async with asyncio.timeout(120):
            while (await asked(http, "qwen")).status_code != 200 or (await asked(capped, "qwen")).status_code != 200:
                await asyncio.sleep(0.1)


async def test_workers_without_a_parent_end_what_they_have_and_a_gateway_that_is_told_to_end_does(
    tmp_path_factory: pytest.TempPathFactory, redis: RedisServer
):
    with two_gateways(tmp_path_factory.mktemp, redis, {"free": ""}) as (one, other):
        one.double.latency = 600.0
        async with one.client("free") as http:
            request = asyncio.create_task(asked(http, "qwen"))
            await until(lambda: one.double.stats.running == 1)
            one.process.kill()
            assert (await request).status_code == 503  # what it uses is soon another's
        other.process.terminate()
        assert await asyncio.to_thread(other.process.wait, 60) == 0
