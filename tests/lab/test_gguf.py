"""GGUF files in this process: `embedded:///file.gguf`, by llama.cpp's own server from a wheel."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from yarl import URL

from tests.support.small_gguf import write_gguf
from tts import Continuation, Endpoint, Problem, Sampler, Session, solve
from tts.errors import ConfigError, MissingExtra
from tts.lab import public_models
from tts.lab.engine.transport import EmbeddedTransport
from tts.sampler.probe import probe
from tts.sampler.transport import Request
from tts.types import sum_usage

HELLO = [{"role": "user", "content": "the bell"}]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf")


def endpoint(file: Path, **changes: object) -> Endpoint:
    return Endpoint.model_validate({"model": file.stem, "base_url": f"embedded://{file}", **changes})


async def metrics(file: Path) -> dict[str, float]:
    transport = EmbeddedTransport(f"embedded://{file}")
    reply = await transport(Request("GET", URL(f"embedded://{file}/metrics")))
    text = (await reply.read()).decode()
    await transport.aclose()
    return {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line[:1] not in ("", "#")}


async def test_it_is_known_for_what_it_is(file: Path):
    async with Sampler(endpoint(file)) as sampler:
        found = await probe(sampler)
    able = {name for name, one in found.as_dict().items() if one.ok}
    assert {
        "chat",
        "completions",
        "own_distribution",
        "seed",
        "token_ids",
        "stream_usage",
        "continuation",
        "tokenize",
    } <= able
    assert not found.n
    assert found.models == ("small",)


async def test_many_samples_at_once_cost_what_its_own_metrics_count(file: Path):
    before = await metrics(file)
    async with Sampler(endpoint(file, max_concurrency=32)) as sampler:
        session = Session(Problem.from_prompt("the bell"), {"policy": sampler})
        samples = [one async for one in session.sample(HELLO, n=40, max_tokens=12, logprobs=True, top_logprobs=3)]
        spent = session.spent
    after = await metrics(file)
    counted = {name: after[name] - before[name] for name in after}
    assert len(samples) == 40
    assert 0 < sum(len(one.logprobs or ()) for one in samples) <= spent.completion_tokens
    assert len({one.text for one in samples}) > 30
    assert spent.completion_tokens == counted["llamacpp:tokens_predicted_total"]
    prompts = counted["llamacpp:prompt_tokens_total"] + counted["llamacpp:prompt_tokens_cached_total"]
    assert spent.prompt_tokens == prompts


async def test_a_seed_fixes_a_sample_and_nothing_cuts_the_distribution(file: Path):
    """llama.cpp keeps the 40 likeliest tokens unless told otherwise: of so many samples more must be seen."""
    async with Sampler(
        endpoint(file, params={"temperature": 3.0, "max_tokens": 1, "return_token_ids": True})
    ) as sampler:
        drawn = [one async for one in sampler.sample("the", 300)]
        same = [[one async for one in sampler.sample("the", 3, seed=5, max_tokens=8)] for _ in range(2)]
    assert len({one.token_ids for one in drawn}) > 60
    texts = [{one.index: one.token_ids for one in samples} for samples in same]
    assert texts[0] == texts[1]
    assert len(set(texts[0].values())) == 3


async def test_leaving_ends_the_computation(file: Path):
    async with Sampler(endpoint(file)) as sampler:
        drawn = sampler.sample(HELLO, 16, max_tokens=400, ignore_eos=True)
        waiting = asyncio.ensure_future(anext(drawn))
        while (await metrics(file))["llamacpp:requests_processing"] == 0:
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await drawn.aclose()
    deadline = time.monotonic() + 60
    while (await metrics(file))["llamacpp:requests_processing"] and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert (await metrics(file))["llamacpp:requests_processing"] == 0


async def test_a_rendered_prompt_gets_no_second_begin_of_text_token(tmp_path: Path):
    other = write_gguf(tmp_path / "begins.gguf", begins=True)
    async with Sampler(endpoint(other)) as sampler:
        session = Session(Problem.from_prompt("the bell"), {"policy": sampler})
        exact = await (await Continuation.start(session)).extend(tokens=4, temperature=0)
        before = session.spent.prompt_tokens
        grown = await (await Continuation.start(session, exact=False)).extend(tokens=4, temperature=0)
        assert not grown.exact
        assert grown.text == exact.text
        assert session.spent.prompt_tokens == 2 * before


async def test_strategies_run_on_it_and_its_answers_are_filed_by_its_weights(file: Path, tmp_path: Path):
    result = await solve(Problem.from_prompt("the bell"), "best_of_n:n=4,verifier=mean_logprob", endpoint(file))
    assert len(result.candidates) == 4
    assert result.usage == sum_usage([result.usage])
    other = write_gguf(tmp_path / "small.gguf", seed=1)
    assert endpoint(file).filed_as.partition("#")[2] != endpoint(other).filed_as.partition("#")[2]


async def test_a_broken_file_says_so_when_it_is_first_used(file: Path, tmp_path: Path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(100))
    async with Sampler(endpoint(tmp_path / "broken.gguf")) as sampler:
        with pytest.raises(ConfigError, match="cannot run"):
            _ = [one async for one in sampler.sample(HELLO)]


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "any.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises((MissingExtra, ConfigError), match=r"ttscale\[gguf\]"):
        EmbeddedTransport(f"embedded://{tmp_path}/any.gguf")


def test_the_process_ends_by_itself_and_its_environment_stays_as_it_was(file: Path):
    code = f"""
import asyncio, os
from tts import Endpoint, Sampler
async def main():
    async with Sampler(Endpoint(model="small", base_url="embedded://{file}")) as sampler:
        print(len([one async for one in sampler.sample("the", 2, max_tokens=3)]), os.environ.get("OMP_WAIT_POLICY"))
asyncio.run(main())
"""
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "2 None\n", "")


def test_a_public_model_that_is_not_here_says_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TTS_DATA", str(tmp_path / "data"))
    assert public_models.public_name("smollm2") == "smollm2-135m"
    assert public_models.public_name("") is None
    for place in ("smollm2", "smollm2-135m/v1"):
        with pytest.raises(ConfigError, match="tts embedded fetch smollm2-135m"):
            EmbeddedTransport(f"embedded://{place}")
