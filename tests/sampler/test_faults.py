"""What goes wrong at the server loses as little as possible, and is paid for and told."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from tests.support.double import Fault, FaultKind, ModelDouble
from tests.support.solving import PROMPT, check_account, check_exact, draw, endpoint
from tts.accounts import Ledger
from tts.errors import EndpointRefused, SamplingFailed, TransientError
from tts.sampler import Endpoint, Sampler
from tts.sampler.transport import Reply, Request

LOSSY = [
    FaultKind.RATE_LIMITED,
    FaultKind.SERVER_ERROR,
    FaultKind.UNAVAILABLE,
    FaultKind.DROPPED,
    FaultKind.RESET,
    FaultKind.NOT_JSON,
    FaultKind.TRUNCATED,
    FaultKind.DROPPED_MID_BODY,
    FaultKind.STREAM_CUT,
    FaultKind.EMPTY_CHOICES,
    FaultKind.FEWER_CHOICES,
    FaultKind.N_IGNORED,
    FaultKind.N_REJECTED,
    FaultKind.HANG,
]

ONLY_WITH_N = {FaultKind.FEWER_CHOICES, FaultKind.N_IGNORED, FaultKind.N_REJECTED}


def patience(kind: FaultKind) -> float:
    """Seconds for one attempt: so many that a busy machine answers in time, and no more where a test waits for them."""
    return 3.0 if kind is FaultKind.HANG else 60.0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_n", [1, 4])
@pytest.mark.parametrize("kind", LOSSY)
async def test_a_tenth_of_any_fault_loses_no_sample(kind, max_n, stream):
    ledger = Ledger()
    async with ModelDouble(faults=lambda number, body: Fault(kind) if number % 10 == 3 else None) as double:
        target = endpoint(double, max_n=max_n, stream=stream, attempt_timeout=patience(kind))
        async with Sampler(target) as sampler:
            samples = await draw(sampler, 64, ledger)
            await double.idle()
    assert sorted(sample.index for sample in samples) == list(range(64))
    assert not ledger.failures
    check_account(ledger, double.stats)
    assert double.stats.faults or (max_n == 1 and kind in ONLY_WITH_N)


async def test_a_mix_of_all_faults_loses_no_sample_and_no_token():
    ledger = Ledger()
    rates = {Fault(kind): 0.02 for kind in LOSSY}
    async with (
        ModelDouble(faults=rates, seed=1) as double,
        Sampler(endpoint(double, max_n=3, attempt_timeout=patience(FaultKind.HANG))) as sampler,
    ):
        samples = await draw(sampler, 256, ledger)
        await double.idle()
    assert sorted(sample.index for sample in samples) == list(range(256))
    check_account(ledger, double.stats)
    assert len(double.stats.faults) > 5


@pytest.mark.parametrize(("max_n", "lost"), [(8, 0), (1, 1)])
@pytest.mark.parametrize("stream", [False, True])
async def test_one_rejected_request_among_many_costs_at_most_one_sample(max_n, lost, stream):
    ledger = Ledger()
    faults = [None, None, Fault(FaultKind.BAD_REQUEST)]
    async with ModelDouble(faults=faults) as double, Sampler(endpoint(double, max_n=max_n, stream=stream)) as sampler:
        samples = await draw(sampler, 64, ledger)
    assert len(samples) == 64 - lost
    assert len(ledger.failures) == lost
    assert all("The request is malformed" in failure for failure in ledger.failures)
    check_exact(ledger, double.stats)
    assert double.stats.faults == {"bad_request": 1}


async def test_a_request_that_can_never_succeed_is_not_repeated_for_every_sample():
    ledger = Ledger()
    async with ModelDouble(faults=Fault(FaultKind.CONTEXT_LENGTH)) as double, Sampler(endpoint(double)) as sampler:
        with pytest.raises(SamplingFailed, match="maximum context length") as caught:
            await draw(sampler, 64, ledger)
    assert caught.value.status == 400
    assert double.stats.received == ledger.wasted["policy"].requests == 16  # eight chunks, and one of each alone
    assert len(ledger.failures) == 64


@pytest.mark.parametrize("settings", [{"api_key": "right"}, {"models": ("other",)}])
async def test_a_refused_endpoint_stops_everything_at_once(settings):
    async with ModelDouble(**settings) as double, Sampler(endpoint(double, max_n=1, max_concurrency=1)) as sampler:
        with pytest.raises(EndpointRefused, match="Check the"):
            await draw(sampler, 64)
    assert double.stats.received <= 2  # the next in the queue may have got its turn in that moment
    assert sampler.connection.pool.replicas[0].in_flight == 0


async def test_a_hanging_request_is_given_up_after_the_attempt_timeout_and_repeated():
    ledger = Ledger()
    async with (
        ModelDouble(faults=[Fault(FaultKind.HANG)]) as double,
        Sampler(endpoint(double, attempt_timeout=0.1)) as sampler,
    ):
        assert len(await draw(sampler, 1, ledger)) == 1
        await double.idle()
    assert double.stats.cancelled == 1
    assert ledger.wasted["policy"].requests == 1
    check_account(ledger, double.stats)


async def test_the_total_timeout_ends_a_request_whatever_the_attempt_timeout():
    async with (
        ModelDouble(faults=Fault(FaultKind.HANG)) as double,
        Sampler(endpoint(double, attempt_timeout=600, total_timeout=0.3)) as sampler,
    ):
        with pytest.raises(SamplingFailed, match=r"within 0\.3 s"):
            await draw(sampler)
        await double.idle()
    assert double.stats.received == 1


async def test_the_total_timeout_bounds_repetition():
    async with (
        ModelDouble(faults=Fault(FaultKind.SERVER_ERROR)) as double,
        Sampler(endpoint(double, max_attempts=10**6, retry_wait=0.02, total_timeout=0.2)) as sampler,
    ):
        with pytest.raises(SamplingFailed, match="HTTP 500"):
            await draw(sampler)
    assert 1 < double.stats.received < 100


async def test_attempts_are_counted():
    ledger = Ledger()
    async with (
        ModelDouble(faults=Fault(FaultKind.SERVER_ERROR)) as double,
        Sampler(endpoint(double, max_attempts=3)) as sampler,
    ):
        with pytest.raises(SamplingFailed) as caught:
            await draw(sampler, 1, ledger)
    assert isinstance(caught.value.__cause__, TransientError)
    assert double.stats.received == ledger.wasted["policy"].requests == 3


@pytest.mark.parametrize("kind", [FaultKind.RATE_LIMITED, FaultKind.UNAVAILABLE])
@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_honoured_in_both_forms(kind, as_date):
    asked = 1.0 if as_date else 0.3  # a date has whole seconds
    async with (
        ModelDouble(faults=[Fault(kind, retry_after=asked, as_date=as_date)]) as double,
        Sampler(endpoint(double)) as sampler,
    ):
        assert len(await draw(sampler)) == 1
    first, second = (seen.at for seen in double.requests)
    assert second - first >= (0.9 if as_date else 0.3)


async def test_nobody_in_the_queue_is_sent_while_the_server_asks_to_wait():
    faults = [Fault(FaultKind.RATE_LIMITED, retry_after=0.4)]
    async with ModelDouble(faults=faults) as double, Sampler(endpoint(double, max_n=1, max_concurrency=1)) as sampler:
        assert len(await draw(sampler, 4)) == 4
    times = [seen.at for seen in double.requests]
    assert times[1] - times[0] >= 0.4


async def test_a_wait_that_does_not_fit_into_the_total_timeout_fails_at_once_and_does_not_block_others():
    faults = [Fault(FaultKind.RATE_LIMITED, retry_after=3600)]
    async with ModelDouble(faults=faults) as double, Sampler(endpoint(double, total_timeout=0.5)) as sampler:
        with pytest.raises(SamplingFailed, match="429"):
            await draw(sampler)
        assert len(await draw(sampler)) == 1
    first, second = (seen.at for seen in double.requests)
    assert second - first >= 0.25


async def test_a_retry_after_of_zero_does_not_burn_the_attempts_in_no_time():
    faults = [Fault(FaultKind.RATE_LIMITED, retry_after=0)] * 6
    async with ModelDouble(faults=faults) as double, Sampler(endpoint(double, retry_wait=0.02)) as sampler:
        assert len(await draw(sampler)) == 1
    gaps = [later.at - earlier.at for earlier, later in pairwise(double.requests)]
    assert len(gaps) == 6
    assert sum(gaps) > 0.02


@pytest.mark.parametrize("kind", [FaultKind.TRUNCATED, FaultKind.NOT_JSON])
async def test_an_unreadable_answer_is_repeated_but_a_rejection_is_not(kind):
    async with (
        ModelDouble(faults=[Fault(kind), Fault(FaultKind.BAD_REQUEST)]) as double,
        Sampler(endpoint(double)) as sampler,
    ):
        with pytest.raises(SamplingFailed, match="400"):
            await draw(sampler)
    assert double.stats.received == 2


async def test_samples_that_come_before_the_failure_of_others_are_kept():
    faults = lambda number, body: Fault(FaultKind.BAD_REQUEST) if number % 2 else None  # noqa: E731
    ledger = Ledger()
    async with ModelDouble(faults=faults) as double, Sampler(endpoint(double, max_n=1)) as sampler:
        samples = await draw(sampler, 10, ledger)
    assert len(samples) == len(ledger.failures) == 5
    assert double.stats.received == 10


async def test_failures_are_told_even_if_the_reader_leaves_early():
    ledger = Ledger()
    latency = lambda body, index: 0.1  # noqa: E731
    async with (
        ModelDouble(latency=latency, faults=[Fault(FaultKind.BAD_REQUEST)]) as double,
        Sampler(endpoint(double, max_n=1)) as sampler,
        asyncio.timeout(120),
    ):
        samples = sampler.sample(PROMPT, 4, ledger=ledger)
        async for _ in samples:
            break
        await samples.aclose()
    assert len(ledger.failures) == 1


async def test_a_failure_that_came_of_itself_is_told_like_any_other():
    failure, cause = OSError("the line is cut"), OSError("and again")
    failure.__cause__, cause.__cause__ = cause, failure

    async def cut(request: Request) -> Reply:
        raise failure

    async with Sampler(Endpoint(model="m", base_url="mock://m", transport=cut, max_attempts=1)) as sampler:
        with pytest.raises(SamplingFailed, match="the line is cut"):
            await draw(sampler, 1)
