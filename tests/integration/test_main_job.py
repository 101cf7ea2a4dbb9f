"""The main job against a real vLLM server: exact accounts, and stops that reach it."""

from __future__ import annotations

import asyncio
import json
import string
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tts import Candidate, Endpoint, Experiment, Problem, Sampler, Session, Strategy, Verifier, solve
from tts.concurrency import merge, scope
from tts.local_vllm import LocalVLLM
from tts.runs.analysis import curves, summary
from tts.sampler.scoring import score, tokenize
from tts.types import Usage, sum_usage

pytestmark = pytest.mark.vllm

COUNTERS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total")
LONG = "Tell me about the number seven, at length."


def endpoint(server: LocalVLLM, **settings: object) -> Endpoint:
    return Endpoint.model_validate({"model": server.name, "base_url": server.base_url, **settings})


async def counted(server: LocalVLLM, *names: str) -> list[float]:
    """The server's counters once nothing runs any more; they may lag behind its answers by a moment."""
    last: list[float] = []
    while True:
        metrics = await server.metrics()
        now = [metrics.get(name, 0.0) for name in names or COUNTERS]
        if not metrics["vllm:num_requests_running"] and not metrics["vllm:num_requests_waiting"] and now == last:
            return now
        last = now
        await asyncio.sleep(0.3)


@pytest.fixture
def gsm8k(tmp_path: Path) -> str:
    lines = [
        {"question": f"Ana has {i} coins and finds {i + 2} more. How many has she?", "answer": f"#### {2 * i + 2}"}
        for i in range(12)
    ]
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return f'gsm8k:path="{path}"'


@pytest.fixture
def humaneval(tmp_path: Path) -> str:
    lines = [
        {
            "task_id": f"Small/{i}",
            "prompt": f'def f(x: int) -> int:\n    """Return x plus {i}.\n    >>> f(1)\n    {1 + i}\n    """\n',
            "entry_point": "f",
            "canonical_solution": f"    return x + {i}\n",
            "test": f"def check(candidate):\n    assert candidate(5) == {5 + i}\n    assert candidate(0) == {i}\n",
        }
        for i in range(6)
    ]
    path = tmp_path / "humaneval.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return f'humaneval:path="{path}"'


@pytest.mark.parametrize("stream", [False, True], ids=["whole answers", "streamed"])
async def test_accounts_of_a_run_equal_the_growth_of_the_servers_counters(
    vllm_server: LocalVLLM, gsm8k: str, tmp_path: Path, stream: bool
) -> None:
    before = await counted(vllm_server)
    model = endpoint(vllm_server, max_n=1, stream=stream, params={"max_tokens": 48, "temperature": 1.0})
    grid = {"task": gsm8k, "models": model, "strategies": ["single", "self_consistency:n=12"]}
    run = await Experiment.parse(grid).run(tmp_path / "run")
    spent = sum_usage(usage for track in run.tracks for row in track.rows for usage in row.spent.values())
    after = await counted(vllm_server)
    assert [spent.prompt_tokens, spent.completion_tokens, spent.requests] == [
        new - old for new, old in zip(after, before, strict=True)
    ]
    assert spent.requests == 12 * 12
    assert not spent.estimated_tokens
    assert {len(flags) for flags in run.tracks[1].correct} == {12}


async def test_choices_of_one_request_share_its_prompt_and_count_their_own_tokens(vllm_server: LocalVLLM) -> None:
    before = await counted(vllm_server)
    problem = Problem.from_prompt("Ana has 3 coins. How many?")
    async with Sampler(endpoint(vllm_server, params={"max_tokens": 40})) as sampler:
        session = Session(problem, {"policy": sampler})
        # Only of these can the tokens be counted again from the text.
        ascii_and_end = await tokenize(sampler, f"{string.printable}<|end|>", special=False)
        samples = [sample async for sample in session.sample(n=16, allowed_token_ids=ascii_and_end)]
        sizes = [len(await tokenize(sampler, sample.text, special=False)) for sample in samples]
    after = await counted(vllm_server)
    spent = sum_usage(charge.usage for charge in session.ledger.paid)
    assert spent.requests == 2
    assert spent.completion_tokens == after[1] - before[1]
    assert spent.prompt_tokens * 8 == after[0] - before[0]  # vLLM's counter has the prompt once for each choice
    counts = [sample.charges[1].usage.completion_tokens for sample in samples]
    assert sum(counts) == spent.completion_tokens
    for sample, own, size in zip(samples, counts, sizes, strict=True):
        assert own == size + (sample.finish_reason == "stop")  # the end token counts and has no text


async def test_benchmarks_run_to_curves(vllm_server: LocalVLLM, humaneval: str, tmp_path: Path) -> None:
    model = endpoint(vllm_server, params={"max_tokens": 64, "temperature": 1.0})
    grid = {"task": humaneval, "models": model, "strategies": ["best_of_n:n=8", "first_pass:k=4"]}
    run = await Experiment.parse(grid).run(tmp_path / "run")
    best, first = summary(run)
    assert (best["problems"], best["candidates"], best["failed"], best["ungraded"]) == (6, 48, 0, 0)
    assert first["candidates"] >= 6
    assert best["verifier_seconds"] > 0
    assert {curve.estimator for curve in curves(run)} == {"best-of-k", "pass@k", "replay"}


class Accept(Verifier):
    """Accepts everything."""

    def check(self, problem: Problem, candidate: Candidate) -> bool:
        return True


class ShortAmongLong(Strategy):
    """Sixty-three samples that take long and one that does not."""

    async def search(self, problem: Problem, session: Session) -> AsyncIterator[Candidate]:
        long = session.propose(LONG, n=63, max_tokens=2000, ignore_eos=True)
        short = session.propose(LONG, n=1, max_tokens=60, ignore_eos=True)
        async for candidate in session.verified(merge([long, short])):
            yield candidate


async def test_the_first_of_64_to_pass_stops_the_others_at_the_server(vllm_server: LocalVLLM) -> None:
    before = await counted(vllm_server)
    result = await solve("x", ShortAmongLong(), endpoint(vllm_server, max_n=1), verifier=Accept())
    after = await counted(vllm_server)
    assert result.ended == "settled"
    assert len(result.candidates) == 1
    assert result.spent["policy"].completion_tokens == 60
    assert result.wasted["policy"].requests == 63
    assert after[1] - before[1] < 63 * 2000 / 4, "the server went on with what nobody waited for"


async def test_streaming_knows_the_tokens_of_cancelled_work(vllm_server: LocalVLLM) -> None:
    before = await counted(vllm_server)
    problem = Problem.from_prompt(LONG)
    async with Sampler(endpoint(vllm_server, stream=True)) as sampler:
        session = Session(problem, {"policy": sampler})
        async with scope(), asyncio.timeout(300):
            drawn = session.sample(n=2, max_tokens=1500, min_tokens=1500, ignore_eos=True)
            task = asyncio.ensure_future(anext(drawn))
            while (await vllm_server.metrics())["vllm:generation_tokens_total"] < before[1] + 100:
                await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    after = await counted(vllm_server)
    wasted = session.ledger.wasted["policy"]
    assert wasted.requests == 1
    assert 0 < wasted.completion_tokens <= after[1] - before[1]
    assert after[1] - before[1] < 2 * 1500
    assert not session.ledger.paid


async def test_seeded_samples_are_the_same_however_they_are_split(vllm_server: LocalVLLM) -> None:
    async def draw(max_n: int) -> dict[int, str]:
        model = endpoint(vllm_server, max_n=max_n, params={"seed": 11, "max_tokens": 24})
        async with Sampler(model) as sampler:
            return {s.index: s.text async for s in sampler.sample([{"role": "user", "content": "Two and two?"}], 6)}

    assert await draw(1) == await draw(6) == await draw(4)


async def test_scores_are_the_models_own_log_probabilities(vllm_server: LocalVLLM) -> None:
    prompt = [{"role": "user", "content": "How many legs has a spider?"}]
    params = {"max_tokens": 20, "logprobs": True, "return_token_ids": True}
    async with Sampler(endpoint(vllm_server)) as sampler:
        (sample,) = [s async for s in sampler.sample(prompt, **params)]
        assert sample.token_ids is not None
        assert sample.logprobs is not None
        scores = await score(sampler, prompt, sample.token_ids)
    assert scores.token_ids == sample.token_ids
    assert scores.logprobs == pytest.approx(sample.logprobs, abs=0.05)
    assert sum_usage(charge.usage for charge in scores.charges).requests == Usage(1).requests
