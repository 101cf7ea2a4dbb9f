"""Endpoints with `batch`: requests go as files, each gets its own answer, and nothing is paid for twice."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.batching import BatchServer
from tests.support.solving import draw
from tts import Experiment
from tts.accounts import Ledger
from tts.errors import ConfigError, SamplingFailed
from tts.sampler import Endpoint, Sampler, batches
from tts.types import Usage, by_role

CHILD = """
import asyncio, json, sys
from tts import Experiment
from tts.sampler import batches
batches.QUIET, batches.POLL = 1.0, 0.05
asyncio.run(Experiment.parse(json.loads(sys.argv[1])).run(sys.argv[2], resume=True))
"""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "QUIET", 0.05)
    monkeypatch.setattr(batches, "POLL", 0.02)


@pytest.fixture
async def server() -> AsyncIterator[BatchServer]:
    async with BatchServer() as server:
        yield server


def endpoint(server: BatchServer, **settings: Any) -> Endpoint:
    given: dict[str, Any] = {
        "model": "m",
        "base_url": server.base_url,
        "api_key": "sk-batch-key",
        "retry_wait": 0.005,
        "batch": True,
    }
    return Endpoint(**given | settings)


def table(server: BatchServer, tmp_path: Path, problems: int = 6) -> dict[str, Any]:
    file = tmp_path / "problems.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"{i}?", "answer": "42", "id": f"p{i}"}) + "\n" for i in range(problems))
    )
    key = tmp_path / "key"
    key.write_text("sk-batch-key")
    model = {"model": "m", "base_url": server.base_url, "api_key_file": str(key), "batch": True, "max_n": 4}
    return {"task": f'jsonl:path="{file}"', "strategies": ["single", "self_consistency:n=8"], "models": {"m": model}}


async def test_all_rows_of_a_run_go_in_one_file_at_half_the_price(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batches, "QUIET", 1.0)  # longer than any of them takes to ask
    grid = table(server, tmp_path)
    grid["models"]["m"]["card"] = {"prompt_price_per_million": 2, "completion_price_per_million": 10}
    run = await Experiment.parse(grid).run(tmp_path / "run")
    assert [row["accuracy"] for row in run.summary()] == [1.0, 1.0]
    assert len(server.batches) <= 3  # the vote goes on where single has ended
    largest = run.tracks[1].usage()
    assert largest.completion_tokens == 7 * 8 * 6
    money = next(row["money"] for row in run.summary() if row["strategy"].startswith("self_consistency"))
    assert money == pytest.approx(6 * 0.5 * (5 * 2 * 2 + 7 * 8 * 10) / 1e6)


async def test_a_run_that_is_killed_at_any_moment_pays_for_nothing_twice(tmp_path: Path):
    async with BatchServer(waits=True) as server:
        grid, out = table(server, tmp_path, problems=3), tmp_path / "run"
        grid["strategies"] = ["self_consistency:n=8"]

        async def killed_when(there: Any) -> None:
            child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, json.dumps(grid), str(out))
            async with asyncio.timeout(120):
                while not there():
                    assert child.returncode is None
                    await asyncio.sleep(0.01)
            child.send_signal(signal.SIGKILL)
            await child.wait()

        await killed_when(lambda: any("GET /v1/batches/" in one for one in server.seen))
        journal = out / "batches.jsonl"
        assert len(server.batches) == 1
        kept = [line for line in journal.read_text().splitlines() if '"id"' not in line]
        journal.write_text("\n".join(kept) + '\n{"mark": "cut')  # as if killed before the id was written
        server.seen.clear()
        await killed_when(lambda: any("GET /v1/batches/" in one for one in server.seen))
        assert len(server.batches) == 1, "the batch is found again, by its mark"
        server.waits = False
        run = await Experiment.parse(grid).run(out, resume=True)
    assert len(server.batches) == 1
    assert len(server.answered) == 3 * 2
    assert run.tracks[0].usage().completion_tokens == 7 * 8 * 3
    assert run.summary()[0]["accuracy"] == 1.0


async def test_a_proxy_of_the_environment_is_gone_through(server: BatchServer, monkeypatch: pytest.MonkeyPatch):
    for name in ("no_proxy", "NO_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", server.base_url.removesuffix("/v1"))
    async with Sampler(endpoint(server, base_url="http://models.example/v1")) as sampler:
        (sample,) = await draw(sampler)
    assert sample.text == "Answer: 42"


async def test_failed_lines_are_those_samples_failures(server: BatchServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batches, "QUIET", 600.0)
    monkeypatch.setattr(batches, "MOST_REQUESTS", 2)  # sent once both are there
    server.says = lambda body: "!400" if "bad" in str(body["messages"]) else "Answer: 42"
    async with Sampler(endpoint(server)) as sampler:

        async def one(text: str) -> list[str]:
            return [sample.text async for sample in sampler.sample([{"role": "user", "content": text}])]

        good, bad = await asyncio.gather(one("good"), one("bad"), return_exceptions=True)
    assert good == ["Answer: 42"]
    assert isinstance(bad, SamplingFailed)
    assert "Not this one" in str(bad)
    assert len(server.batches) == 1


async def test_lines_that_the_day_was_too_short_for_fail_and_a_resumed_run_asks_again(
    server: BatchServer, tmp_path: Path
):
    server.expired = frozenset({0, 2})
    grid, out = table(server, tmp_path), tmp_path / "run"
    grid["strategies"] = ["single"]
    run = await Experiment.parse(grid).run(out)
    assert sum(bool(row.failures) for row in run.tracks[0].rows) == 2
    assert any("could not be executed in time" in str(row.failures) for row in run.tracks[0].rows)
    server.expired = frozenset()
    run = await Experiment.parse(grid).run(out, resume=True)
    assert run.summary()[0]["accuracy"] == 1.0
    assert len(server.answered) == 6
    assert len(server.batches) == 2


@pytest.mark.parametrize("faults", [[500], [0, 429], [0, 0, 503, 429], [0, 0, 0, 500]])
async def test_failures_of_the_api_are_tried_again(server: BatchServer, faults: list[int]):
    async with Sampler(endpoint(server)) as sampler:
        await sampler.identify()
        server.faults = faults
        ledger = Ledger()
        assert [one.text for one in await draw(sampler, 3, ledger)] == ["Answer: 42"] * 3
    assert len(server.answered) == 1
    assert by_role(ledger.paid)["policy"].completion_tokens == 7 * 3


async def test_a_file_that_is_refused_says_why(server: BatchServer):
    server.ends = "failed"
    async with Sampler(endpoint(server)) as sampler:
        with pytest.raises(SamplingFailed, match="This file is no good"):
            await draw(sampler)


async def test_what_nobody_waits_for_any_more_is_not_sent_and_what_was_sent_is_not_asked_again(server: BatchServer):
    server.waits = True
    async with Sampler(endpoint(server)) as sampler:
        task = asyncio.create_task(draw(sampler, address=b"1"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.2)
        assert not server.batches
        task = asyncio.create_task(draw(sampler, address=b"2"))
        async with asyncio.timeout(120):
            while not server.batches:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        again = asyncio.create_task(draw(sampler, address=b"2"))
        await asyncio.sleep(0.2)
        server.release()
        assert [one.text for one in await again] == ["Answer: 42"]
    assert len(server.batches) == 1


def test_what_does_not_go_together_is_refused():
    several: list[dict[str, Any]] = [{"stream": True}, {"hedge_after": 3.0}, {"base_url": "http://a/v1,http://b/v1"}]
    for more in several:
        given: dict[str, Any] = {"model": "m", "base_url": "http://a/v1", "batch": True, **more}
        with pytest.raises(ValueError, match="batch goes with one server"):
            Endpoint(**given)
    priced = {"prompt_price_per_million": 1, "completion_price_per_million": 1}
    made = Endpoint(model="m", base_url="http://a/v1", batch=True, card=priced)  # type: ignore[arg-type]
    assert made.money(Usage(1, 2_000_000, 0, 0)) == 1.0
    assert Endpoint(**made.model_dump(exclude_unset=True)).card == made.card


def test_a_configuration_error_names_the_field():
    with pytest.raises(ConfigError, match="batch"):
        Experiment(task="lab_math", strategies="single", models={"m": {"base_url": "http://a/v1", "batch": "perhaps"}})
